"""The operations of the language, one row each: its type rule, the name of its flow rule, its derivative.

To add an operation, add a row here and a line to the table of every backend (`emission.py`).
Derivatives are written as reverse mode: `derivative(node, g)` gives, for every argument, the cotangent that `g`, the
cotangent of the node, sends to it, or None where nothing flows. Types of activities keep their reduced axes with
size one, so that everything broadcasts as in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ruledsl.ir import type_rules as rules
from ruledsl.ir.nodes import Attribute, Node, const, scalar
from ruledsl.ir.types import PER_UNIT, POST, PRE, SCALAR, Type
from ruledsl.source import SourceLocation

Cotangents = Sequence[Node | None]
Derivative = Callable[[Node, Node], Cotangents]
Flow = Literal[
    "joined", "nothing", "of_second", "transposed", "applied", "sign", "compared", "pooled", "pooled_everywhere"
]
"""How information passes through an operation: the name of its rule in `ruledsl.locality.flow_rules`."""


@dataclass(frozen=True)
class Operation:
    """One row. `derivative` is None where the operation has none (its result is constant almost everywhere)."""

    name: str
    type_rule: rules.TypeRule
    flow: Flow = "joined"
    derivative: Derivative | None = None
    differentiable: bool = True
    sign_determined: bool = False  # the sign of the result depends on the signs of the arguments alone


def make(op: str, *args: Node | float, attrs: tuple[Attribute, ...] = (), like: Node | None = None) -> Node:
    """A node of operation `op`; numbers become constants; place and name are taken from `like`."""
    nodes = tuple(arg if isinstance(arg, Node) else const(arg) for arg in args)
    result = OPERATIONS[op].type_rule([node.type for node in nodes], attrs)
    place, name = (like.place, like.name) if like is not None else (None, None)
    return Node(op, nodes, attrs, result, place, name)


def typed(op: str, args: tuple[Node, ...], attrs: tuple[Attribute, ...], place: SourceLocation) -> Node:
    """The same for the type checker: at a place; raises `Mismatch`."""
    return Node(op, args, attrs, OPERATIONS[op].type_rule([arg.type for arg in args], attrs), place)


# --- derivatives -------------------------------------------------------------------------------------------


def _reduced(g: Node, type: Type) -> Node:
    """Sum a cotangent over the axes along which an argument of type `type` was broadcast."""
    if g.type.kind == type.kind and g.type.axes == type.axes:
        return g
    if g.type.kind == "scalar":
        return g
    if type.kind == "scalar":
        return make("total", g)
    if type.axes == PER_UNIT and "units" in g.type.axes:
        return make("summed", g)
    for axis in sorted(g.type.axes - type.axes):
        g = make("mul", make("mean", g, attrs=(axis,)), make("count", g, attrs=(axis,)))
    return g


def _add(node: Node, g: Node) -> Cotangents:
    return [_reduced(g, arg.type) for arg in node.args]


def _sub(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    return [_reduced(g, a.type), _reduced(make("neg", g), b.type)]


def _mul(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    return [_reduced(make("mul", g, b), a.type), _reduced(make("mul", g, a), b.type)]


def _div(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    through = make("div", g, b)
    return [_reduced(through, a.type), _reduced(make("neg", make("mul", through, make("div", a, b))), b.type)]


def _pow(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    base = make("mul", g, make("mul", b, make("pow", a, make("sub", b, 1.0))))
    exponent = make("mul", g, make("mul", node, make("log", a)))
    return [_reduced(base, a.type), None if b.constant is not None else _reduced(exponent, b.type)]


def _times(factor: Callable[[Node, Node], Node]) -> Derivative:
    """An elementwise function of one argument with derivative `factor(argument, result)`."""

    def derivative(node: Node, g: Node) -> Cotangents:
        return [make("mul", g, factor(node.args[0], node))]

    return derivative


def _gate(condition: Node, g: Node) -> Node:
    return make("where", condition, g, 0.0)


def _relu(node: Node, g: Node) -> Cotangents:
    return [_gate(make("gt", node.args[0], 0.0), g)]


def _extreme(comparison: str) -> Derivative:
    def derivative(node: Node, g: Node) -> Cotangents:
        a, b = node.args
        first = make(comparison, a, b)
        return [_reduced(_gate(first, g), a.type), _reduced(_gate(make("not", first), g), b.type)]

    return derivative


def _where(node: Node, g: Node) -> Cotangents:
    condition, a, b = node.args
    return [None, _reduced(_gate(condition, g), a.type), _reduced(_gate(make("not", condition), g), b.type)]


def _apply(node: Node, g: Node) -> Cotangents:
    matrix, vector = node.args
    if "batch" in vector.type.axes:
        over_matrix = make("outer", g, vector, attrs=(None,))
    else:  # an average over the batch: one example, whose mean is its sum
        over_matrix = Node("outer", (g, vector), ("batch",), matrix.type)
    return [over_matrix, make("apply", make("transpose", matrix), g)]


def _outer(node: Node, g: Node) -> Cotangents:
    after, before = node.args
    to_after, to_before = make("apply", g, before), make("apply", make("transpose", g), after)
    if node.attrs[0] is None:
        return [to_after, to_before]
    size = make("count", after, attrs=("batch",))
    if node.attrs[0] == "all" and {after.type.target, before.type.target} == {PRE, POST}:
        kernel = after if after.type.target == POST else before
        size = make("mul", size, make("count", kernel, attrs=("positions",)))
    return [make("div", to_after, size), make("div", to_before, size)]


def _dot(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    g = _per_example(g, a, b)
    return [_reduced(make("mul", g, b), a.type), _reduced(make("mul", g, a), b.type)]


def _sq(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    return [make("mul", make("mul", 2.0, _per_example(g, a)), a)]


def _per_example(g: Node, *vectors: Node) -> Node:
    """`dot` is a mean over the batch, where any of its vectors has one."""
    return make("div", g, scalar("batch_size")) if any("batch" in v.type.axes for v in vectors) else g


def _mean(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    share = make("div", g, make("count", a, attrs=node.attrs))
    return [make("mul", make("full_like", a, 1.0), share)]


def _std(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    deviation = make("sub", a, make("mean", a, attrs=node.attrs))
    slope = make("mul", make("div", g, make("mul", make("count", a, attrs=node.attrs), node)), deviation)
    return [make("where", make("gt", node, 0.0), slope, 0.0)]  # units that are silent together have no slope


def _l2_norm(node: Node, g: Node) -> Cotangents:
    (a,) = node.args
    return [make("where", make("gt", node, SHORTEST), make("mul", g, make("div", a, node)), 0.0)]


SHORTEST = 1e-6  # `normalize` divides by at least this length, so that a silent layer stays finite

# --- the table ---------------------------------------------------------------------------------------------

_ROWS: tuple[Operation, ...] = (
    Operation("add", rules.numbers, derivative=_add),
    Operation("sub", rules.numbers, derivative=_sub),
    Operation("mul", rules.numbers, derivative=_mul, sign_determined=True),
    Operation("div", rules.numbers, derivative=_div, sign_determined=True),
    Operation("pow", rules.numbers, derivative=_pow),
    Operation("neg", rules.same, derivative=_times(lambda a, y: const(-1.0)), sign_determined=True),
    Operation("relu", rules.same, derivative=_relu, sign_determined=True),
    Operation("sign", rules.same, "sign"),
    Operation("abs", rules.same, derivative=_times(lambda a, y: make("sign", a)), sign_determined=True),
    Operation("exp", rules.same, derivative=_times(lambda a, y: y)),
    Operation("log", rules.same, derivative=_times(lambda a, y: make("div", 1.0, a))),
    Operation(
        "tanh",
        rules.same,
        derivative=_times(lambda a, y: make("sub", 1.0, make("mul", y, y))),
        sign_determined=True,
    ),
    Operation("sqrt", rules.same, derivative=_times(lambda a, y: make("div", 0.5, y)), sign_determined=True),
    Operation("min", rules.numbers, derivative=_extreme("lt"), sign_determined=True),
    Operation("max", rules.numbers, derivative=_extreme("gt"), sign_determined=True),
    Operation("lt", rules.comparison, "compared"),
    Operation("le", rules.comparison, "compared"),
    Operation("gt", rules.comparison, "compared"),
    Operation("ge", rules.comparison, "compared"),
    Operation("eq", rules.comparison, "compared"),
    Operation("ne", rules.comparison, "compared"),
    Operation("and", rules.logic),
    Operation("or", rules.logic),
    Operation("not", rules.logic),
    Operation("where", rules.choice, derivative=_where),
    Operation("phi", rules.own_activation, derivative=_times(lambda a, y: make("dphi", a))),
    Operation("dphi", rules.own_activation, differentiable=False),
    Operation("apply", rules.application, "applied", derivative=_apply),
    Operation("outer", rules.outer_product, derivative=_outer),
    Operation("transpose", rules.transposition, "transposed", lambda node, g: [make("transpose", g)]),
    Operation("dot", rules.inner_product, "pooled_everywhere", derivative=_dot),
    Operation("sq", rules.inner_product, "pooled_everywhere", derivative=_sq),
    Operation(
        "norm",
        rules.of_map,
        "pooled_everywhere",
        lambda node, g: [make("mul", make("div", g, node), node.args[0])],
    ),
    Operation("total", rules.everything, "pooled_everywhere", lambda node, g: [make("full_like", node.args[0], g)]),
    Operation("mean", rules.reduction, "pooled", derivative=_mean),
    Operation("std", rules.reduction, "pooled", derivative=_std),
    Operation("l2_norm", rules.reduction, "pooled", derivative=_l2_norm),
    Operation("summed", rules.per_neuron, differentiable=False),
    Operation("count", rules.everything, "nothing"),
    Operation("full_like", rules.like_first, "of_second", lambda node, g: [None, _reduced(g, SCALAR)]),
    Operation("sum_k", rules.over_layers, derivative=None, differentiable=False),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
COMMUTATIVE = frozenset(("add", "mul", "min", "max", "eq", "ne", "and", "or", "dot"))
