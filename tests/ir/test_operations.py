"""The rows of the operations' table agree with themselves, and with what is written about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import ruledsl.language
from ruledsl.analysis.names import RESERVED
from ruledsl.emit.backend import backend
from ruledsl.emit.expressions import ELEMENTWISE as WRITTEN_ELEMENTWISE
from ruledsl.ir.operations import CALLS, FUNCTIONS, OPERATIONS, SYMBOLS, Infix, Operation
from ruledsl.locality.flow_rules import FLOW_RULES

PAGE = Path(ruledsl.language.__file__).parent / "README.md"
NUMBERS = (-2.5, -1.0, 0.0, 0.4, 3.0)
ELEMENTWISE = [row for row in OPERATIONS.values() if row.elementwise]
SPELLED = [row for row in ELEMENTWISE if row.python is not None]
DERIVATIVE_FREE = {"sign", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "count", "dphi", "sum_k"}


def arguments(row: Operation) -> list[tuple[float, ...]]:
    """Numbers (or truth values) for which the operation has a value."""
    assert row.number is not None
    count = row.number.__code__.co_argcount if hasattr(row.number, "__code__") else None
    arity = count or (2 if isinstance(row.written, Infix) else row.written.arity if row.written else 1)
    logical = row.name in ("and", "or", "not")
    pools = [(False, True) if logical or (row.name == "where" and i == 0) else NUMBERS for i in range(arity)]
    possible = []
    for values in product(*pools):
        try:
            if not isinstance(row.number(*values), complex):
                possible.append(values)
        except (ValueError, ZeroDivisionError):
            continue
    assert len(possible) > 1
    return possible


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_a_constant_folds_to_what_the_reference_computes(row: Operation) -> None:
    assert row.number is not None and row.numpy is not None
    for values in arguments(row):
        assert row.number(*values) == pytest.approx(float(row.numpy(np, *values)), rel=1e-15), values


@pytest.mark.parametrize("row", SPELLED, ids=lambda row: row.name)
def test_python_computes_with_numbers_what_the_reference_computes(row: Operation) -> None:
    assert row.number is not None and row.python is not None
    for values in arguments(row):
        sums = [f"{value} + 0.0" for value in values]  # an argument may be a sum: the spelling needs its brackets
        found = eval(row.python.format(*sums), {"math": math})
        assert found == pytest.approx(row.number(*values)), values


@pytest.mark.parametrize("row", OPERATIONS.values(), ids=lambda row: row.name)
def test_a_row_is_complete(row: Operation) -> None:
    assert row.flow in FLOW_RULES
    assert row.numpy is not None or row.name in ("phi", "dphi", "sum_k")  # these the interpreter looks up in the layer
    assert (row.derivative is None) == (row.name in DERIVATIVE_FREE)
    if row.elementwise and not isinstance(row.written, Infix) and row.name not in ("neg", "not", "where"):
        assert row.python is not None


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_backend_writes_every_operation_that_python_does_not_write_for_it(name: str) -> None:
    everywhere = {row.name for row in OPERATIONS.values() if isinstance(row.written, Infix) and row.written.everywhere}
    assert set(OPERATIONS) - everywhere - {"neg", "transpose"} <= set(backend(name).operations)
    assert {row.name for row in ELEMENTWISE} == WRITTEN_ELEMENTWISE


def test_no_declaration_takes_the_name_of_a_function() -> None:
    assert set(FUNCTIONS) <= RESERVED
    assert set(CALLS) <= set(FUNCTIONS)
    assert not set(SYMBOLS) & set(FUNCTIONS)


def test_the_page_about_the_language_lists_its_functions(golden: Callable[[Path, str], None]) -> None:
    """Those of one line each; what takes an axis, an index or `mean=` is explained in words, above."""
    plain = [name for name, call in FUNCTIONS.items() if not (call.axis or call.mean or call.index)]
    plain = [name for name in plain if name not in ("dot", "sq", "norm", "full_like")]
    text = PAGE.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "`, comparisons" in line)
    listed = f"- `{' '.join(plain)}`,{line.partition('`,')[2]}"
    golden(PAGE, text.replace(line, listed))
    for name in set(FUNCTIONS) - set(plain):
        assert f"`{name}(" in text, name
