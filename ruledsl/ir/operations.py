"""The operations of the language: one table.

To add an operation, add its row to the file of its family (`elementwise.py`, `maps.py` or `reductions.py`) and a line
to the table of every backend (`emission.py`). Everything else reads the table: the names that the language reserves,
the folding of constants, derivatives, ledgers, the reference, and what is emitted for Python numbers.
"""

from __future__ import annotations

from ruledsl.ir import elementwise, maps, reductions
from ruledsl.ir.operation import OPERATIONS as OPERATIONS
from ruledsl.ir.operation import Call, Flow, Infix, Operation, make, typed

__all__ = ["CALLS", "COMMUTATIVE", "ELEMENTWISE", "FUNCTIONS", "OPERATIONS", "SHORTHANDS", "SYMBOLS"]
__all__ += ["Call", "Flow", "Infix", "Operation", "make", "typed"]

OPERATIONS.update({row.name: row for row in (*elementwise.ROWS, *maps.ROWS, *reductions.ROWS)})

ELEMENTWISE = frozenset(name for name, row in OPERATIONS.items() if row.elementwise)
COMMUTATIVE = frozenset(name for name, row in OPERATIONS.items() if row.commutative)

SYMBOLS = {row.written.symbol: row.name for row in OPERATIONS.values() if isinstance(row.written, Infix)}
"""The operation that a symbol between two values stands for."""
CALLS = {row.written.name: row.name for row in OPERATIONS.values() if isinstance(row.written, Call)}
"""The operation that a function of the language stands for."""
SHORTHANDS = (Call("clip", 3), Call("center", 1, axis=True), Call("normalize", 1, axis=True))
"""Functions that stand for several operations; `ruledsl.analysis.calls` says which."""
FUNCTIONS = {
    **{row.written.name: row.written for row in OPERATIONS.values() if isinstance(row.written, Call)},
    **{call.name: call for call in SHORTHANDS},
}
"""Every function of the language."""
