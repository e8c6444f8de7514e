"""What a row of the operations' table holds, and how a node of an operation is made.

The rows are in `elementwise.py`, `maps.py` and `reductions.py`; `ruledsl.ir.operations` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ruledsl.ir.nodes import Attribute, Node, const
from ruledsl.ir.type_rules import TypeRule
from ruledsl.ir.types import PER_UNIT, Type
from ruledsl.source import SourceLocation

Value = float | bool
Cotangents = Sequence[Node | None]
Derivative = Callable[[Node, Node], Cotangents]
Meaning = Callable[..., Any]
Flow = Literal[
    "joined",
    "nothing",
    "of_second",
    "transposed",
    "applied",
    "gathered",
    "totalled",
    "sign",
    "compared",
    "pooled",
    "pooled_everywhere",
]
"""How information passes through an operation: the name of its rule in `ruledsl.locality.flow_rules`."""

Homogeneity = Literal["sum", "kept", "product", "square", "quotient", "power", "root", "sign", "nothing", "other"]
"""How the degree of a result in the errors follows from the degrees of the arguments: see `ruledsl.passes.scaling`.

`kept` is that of the last argument; `sign` has none where the arguments are of one degree; `other` has one only where
no argument scales with the errors.
"""


@dataclass(frozen=True)
class Call:
    """An operation that is written as a function of `arity` values.

    axis   an axis stands behind the value, as in `mean(v, batch)`
    mean   it takes `mean=batch` and `mean=all`, as `outer` does
    index  a new name for the layers downstream stands before the value, as in `sum(k, ...)`
    """

    name: str
    arity: int
    axis: bool = False
    mean: bool = False
    index: bool = False


@dataclass(frozen=True)
class Infix:
    """An operation that is written between its two arguments; the larger `binding`, the closer it binds.

    everywhere  Python and the array libraries write it in the same way, on numbers and on arrays
    """

    symbol: str
    binding: int
    everywhere: bool = True


@dataclass(frozen=True)
class Operation:
    """One row: everything that the compiler knows of an operation. A backend adds how it writes it (`emission.py`).

    type_rule        from the types of its arguments to its own
    written          how a rule writes it; None where it has a syntax of its own, or where the compiler alone makes it
    flow             what its result tells of its arguments
    derivative       `derivative(node, g)` gives, for every argument, the cotangent that `g`, the cotangent of the
                     node, sends to it, or None where nothing flows (reverse mode). An operation without one is constant
                     almost everywhere, or, where `differentiable` says no, can't stand in an energy at all.
    numpy            its meaning: of an elementwise operation `numpy(np, *arguments)`, of any other `numpy(np, node,
                     layer, *arguments)` with a layer of `ruledsl.reference.maps`. NumPy is handed in, so that
                     checking a rule doesn't load it.
    number           its value for Python numbers, by which constants are folded; elementwise operations have one
    python           the same as source text, with `{0}`, `{1}` for the arguments: parameters and sizes are numbers
    sign_determined  the sign of the result depends on the signs of the arguments alone
    saturates        there are values for which changing an argument changes nothing that can be seen
    commutative      its arguments can change places
    homogeneity      how its result scales where its arguments do
    """

    name: str
    type_rule: TypeRule
    written: Call | Infix | None = None
    flow: Flow = "joined"
    derivative: Derivative | None = None
    differentiable: bool = True
    numpy: Meaning | None = None
    number: Callable[..., Value] | None = None
    python: str | None = None
    sign_determined: bool = False
    saturates: bool = False
    commutative: bool = False
    homogeneity: Homogeneity = "other"

    @property
    def elementwise(self) -> bool:
        """Whether it computes every entry of its result from the same entry of its arguments."""
        return self.number is not None


OPERATIONS: dict[str, Operation] = {}
"""Every operation by its name. Filled, and to be imported from, `ruledsl.ir.operations`."""


def make(op: str, *args: Node | float, attrs: tuple[Attribute, ...] = (), like: Node | None = None) -> Node:
    """A node of operation `op`; numbers become constants; place and name are taken from `like`."""
    nodes = tuple(arg if isinstance(arg, Node) else const(arg) for arg in args)
    result = OPERATIONS[op].type_rule([node.type for node in nodes], attrs)
    place, name = (like.place, like.name) if like is not None else (None, None)
    return Node(op, nodes, attrs, result, place, name)


def typed(op: str, args: tuple[Node, ...], attrs: tuple[Attribute, ...], place: SourceLocation) -> Node:
    """A node of operation `op` at a place of a rule. Raises `Mismatch` where its arguments do not fit."""
    return Node(op, args, attrs, OPERATIONS[op].type_rule([arg.type for arg in args], attrs), place)


def reduced(g: Node, type: Type) -> Node:
    """A cotangent summed over the axes along which an argument of type `type` was broadcast."""
    if g.type.kind == type.kind and g.type.axes == type.axes:
        return g
    if g.type.kind == "scalar":
        return g
    if type.kind == "scalar":
        return make("sum_all", g)
    if type.axes == PER_UNIT and "units" in g.type.axes:
        return make("total", g)
    for axis in sorted(g.type.axes - type.axes):
        g = make("mul", make("mean", g, attrs=(axis,)), make("count", g, attrs=(axis,)))
    return g
