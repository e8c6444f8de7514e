"""Arithmetic on constants: the value of an operation on numbers that the text itself gives, or why it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ruledsl.ir.operation import Value
from ruledsl.ir.operations import OPERATIONS


class NoValue(Exception):
    """An operation on constants that has no value; `reason` says why, in words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def value_of(op: str, arguments: Sequence[Value | None]) -> Value | None:
    """The value of `op`, or None where an argument is unknown (None). Raises NoValue."""
    if op == "div" and arguments[1] == 0:
        raise NoValue("it divides by zero")
    number = OPERATIONS[op].number if op in OPERATIONS else None
    if number is None or any(argument is None for argument in arguments):
        return None
    try:
        value = number(*arguments)
    except ZeroDivisionError:
        raise NoValue("it divides by zero") from None
    except OverflowError:
        raise NoValue("it is too large") from None
    except ValueError:
        raise NoValue(f"`{op}` takes no such number") from None
    if isinstance(value, bool):
        return value
    if isinstance(value, complex) or math.isnan(value):
        raise NoValue("it is no real number")
    if math.isinf(value) and not any(argument is not None and math.isinf(argument) for argument in arguments):
        raise NoValue("it is too large")
    return value
