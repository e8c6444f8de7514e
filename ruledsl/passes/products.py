"""Products in canonical form: a number, then scalars above and below the line, then a vector or map."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.types import SCALAR, Type
from ruledsl.passes.canonical import Canonical
from ruledsl.source import SourceLocation

MOST_FACTORS = 16  # a product of more scalars is left as it is: they double where a value is squared again and again


@dataclass
class Factors:
    """A product: a number, scalars above and below the line, and `core`, a vector or map (None in a scalar)."""

    number: float = 1.0
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)
    core: Node | None = None


def factors_of(nodes: Canonical, op: str, args: tuple[Node, ...], place: SourceLocation | None) -> Factors:
    """The factors of a product, a quotient or a negative of canonical nodes."""
    if op == "neg":
        factors = split(nodes, args[0])
        factors.number = -factors.number
        return factors
    left, right = split(nodes, args[0]), split(nodes, args[1])
    if op == "div":
        if right.number == 0:
            return Factors(left.number, left.above, [*left.below, *right.above, nodes.const(0.0)], left.core)
        right.number, right.above, right.below = 1 / right.number, right.below, right.above
    core = left.core
    if right.core is not None:
        if op == "div":
            numerator = left.core if left.core is not None else nodes.const(1.0)
            core = nodes.intern("div", (numerator, right.core), (), _type("div", numerator, right.core), place)
        elif left.core is None:
            core = right.core
        else:
            core = _elementwise(nodes, left.core, right.core, place)
    return Factors(left.number * right.number, left.above + right.above, left.below + right.below, core)


def _elementwise(nodes: Canonical, left: Node, right: Node, place: SourceLocation | None) -> Node:
    type = _type("mul", left, right)
    for filled, other in ((left, right), (right, left)):
        if filled.op == "full_like" and filled.args[1].constant == 1 and other.type == type:
            return other
    return nodes.intern("mul", (left, right), (), type, place)


def split(nodes: Canonical, node: Node) -> Factors:
    """Undo what `product_of` builds: the factors of a canonical node."""
    value = node.constant
    if node.type.kind == "scalar" and value is not None and not isinstance(value, bool) and math.isfinite(value):
        return Factors(float(value))
    if is_zero(node):
        return Factors(0.0, core=node)
    if node.op in ("neg", "mul", "div") and nodes.long.get(id(node), 0) < MOST_FACTORS:
        scalars = [arg.type.kind == "scalar" for arg in node.args]
        if node.op == "neg" or scalars[1] or (node.op == "mul" and scalars[0]):
            return factors_of(nodes, node.op, node.args, node.place)
    if node.type.kind == "scalar":
        return Factors(above=[node])
    return Factors(core=node)


def product_of(nodes: Canonical, factors: Factors, type: Type, place: SourceLocation | None) -> Node:
    """The canonical node of a product: its number first, then scalars, then the value that is not a scalar."""
    core, number = factors.core, factors.number
    if number == 0:
        return zero(nodes, core, type, place)
    below, above = list(factors.below), list(factors.above)
    for node in factors.above:
        if node in below and (node.op == "count" or node.attrs == ("batch_size",)):  # sizes are never zero
            below.remove(node)
            above.remove(node)
    sizes = [node for node in below if node.attrs == ("batch_size",)]
    if core is not None and sizes and _summed_outer(core):
        below.remove(sizes[0])
        core = _mean_outer(nodes, core)
    factor: Node | None = None
    if abs(number) != 1:
        factor = nodes.const(abs(number))
    for node in above:
        factor = node if factor is None else nodes.intern("mul", (factor, node), (), SCALAR, place)
    if core is None and factor is None:
        factor = nodes.const(1.0)
    if factor is not None:
        for node in below:
            factor = nodes.intern("div", (factor, node), (), SCALAR, place)
    if core is None:
        assert factor is not None
        result = factor
    elif factor is not None:
        result = nodes.intern("mul", (factor, core), (), type, place)
    else:
        result = core
        for node in below:
            result = nodes.intern("div", (result, node), (), type, place)
    nodes.long[id(result)] = len(above) + len(below)
    if number > 0:
        return result
    value = result.constant
    if value is not None and result.type.kind == "scalar":
        return nodes.const(-value)
    return nodes.intern("neg", (result,), (), type, place)


def _mean_outer(nodes: Canonical, core: Node) -> Node:
    if core.op == "transpose":
        return nodes.intern("transpose", (_mean_outer(nodes, core.args[0]),), (), core.type, core.place, core.name)
    return nodes.intern("outer", core.args, ("batch",), core.type, core.place, core.name)


def zero(nodes: Canonical, core: Node | None, type: Type, place: SourceLocation | None) -> Node:
    """Zeros of the shape of `core`: what sums or averages them has to find their axes."""
    if core is None:
        return nodes.const(0.0, type)
    like = next((leaf for leaf in walk(core) if leaf.op in ("signal", "tensor") and leaf.type == type), core)
    return nodes.intern("full_like", (like, nodes.const(0.0)), (), type, place)


def _summed_outer(node: Node) -> bool:
    outer = node.args[0] if node.op == "transpose" else node
    return outer.op == "outer" and outer.attrs[0] is None


def _type(op: str, *args: Node) -> Type:
    return OPERATIONS[op].type_rule([arg.type for arg in args], ())


def is_zero(node: Node) -> bool:
    """Whether the node is zero, or zeros of some shape."""
    value = node.args[1] if node.op == "full_like" else node
    return value.op == "const" and value.attrs[0] == 0 and not isinstance(value.attrs[0], bool)
