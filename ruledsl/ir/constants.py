"""Arithmetic on constants: the value of an operation on numbers that the text itself gives, or why it has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Value = float | bool

ARITHMETIC: dict[str, Callable[..., Value]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "relu": lambda a: max(a, 0.0),
    "sign": lambda a: float((a > 0) - (a < 0)),
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "tanh": math.tanh,
    "sqrt": math.sqrt,
    "min": min,
    "max": max,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "where": lambda condition, a, b: a if condition else b,
}


class NoValue(Exception):
    """An operation on constants that has no value; `reason` says why, in words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def value_of(op: str, arguments: Sequence[Value | None]) -> Value | None:
    """The value of `op`, or None where an argument is no constant (None). Raises NoValue."""
    if op == "div" and arguments[1] == 0:
        raise NoValue("it divides by zero")
    if op not in ARITHMETIC or not arguments or any(argument is None for argument in arguments):
        return None
    try:
        value = ARITHMETIC[op](*arguments)
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
