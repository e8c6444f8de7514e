"""Simplify: the canonical form of equations, in which equal values are the same node.

What it does: folds constants; collects scalar factors in front; moves transposes down to the tensors and outer
products (where they cost nothing, since both orientations are stored alike); turns every outer product into the
orientation of the forward kernel, so that `outer(x, delta)` and `outer(delta, x)` are one kernel gradient.
"""

from __future__ import annotations

from dataclasses import replace

from ruledsl.ir.constants import NoValue, value_of
from ruledsl.ir.equations import Equations
from ruledsl.ir.nodes import Attribute, Node, walk
from ruledsl.ir.operations import ELEMENTWISE
from ruledsl.ir.types import OUT, POST, SCALAR, Type
from ruledsl.passes.canonical import Canonical
from ruledsl.passes.products import Factors, factors_of, product_of, split, zero
from ruledsl.passes.signs import of_sign
from ruledsl.passes.sums import sum_of
from ruledsl.source import SourceLocation


def simplify(equations: Equations) -> Equations:
    """The canonical form of every equation; shared work is found across all of them."""
    nodes = Canonical(_rewritten)
    return replace(equations, equations=tuple(e.with_value(canonical(nodes, e.value)) for e in equations.equations))


def canonical(nodes: Canonical, root: Node) -> Node:
    """The canonical node of the same value."""
    for node in walk(root):
        if id(node) not in nodes.done:
            args = tuple(nodes.done[id(arg)][1] for arg in node.args)
            new = nodes.make(node.op, args, node.attrs, node.type, node.place, node.name)
            if node.name and new.name is None and not new.is_leaf:
                new.name = node.name
            nodes.done[id(node)] = node, new
    return nodes.done[id(root)][1]


def _rewritten(
    nodes: Canonical,
    op: str,
    args: tuple[Node, ...],
    attrs: tuple[Attribute, ...],
    type: Type,
    place: SourceLocation | None,
) -> Node | None:
    values = [arg.constant if arg.type.kind == "scalar" else None for arg in args]
    if op in ELEMENTWISE and all(value is not None for value in values):
        try:
            result = value_of(op, values)
        except NoValue:
            return None
        return None if result is None else nodes.const(result)
    match op:
        case "min" | "max" | "and" | "or" if args[0] is args[1]:
            return args[0]
        case "sub" if args[0] is args[1]:
            return zero(nodes, None if type.kind == "scalar" else args[0], type, place)
        case "lt" | "gt" | "ne" | "le" | "ge" | "eq" if args[0] is args[1] and type.kind == "scalar":
            return nodes.const(op in ("le", "ge", "eq"))
        case "mul" | "div" | "neg":
            return product_of(nodes, factors_of(nodes, op, args, place), type, place)
        case "add" | "sub":
            return sum_of(nodes, op, args, type, place)
        case "pow" if values[1] in (0.0, 1.0):
            return args[0] if values[1] else nodes.make("full_like", (args[0], nodes.const(1.0)), (), type, place)
        case "where":
            return _where(nodes, args, type)
        case "not" if args[0].op == "not":
            return args[0].args[0]
        case "not" if args[0].op in _OPPOSITE:
            return nodes.make(_OPPOSITE[args[0].op], args[0].args, (), type, place)
        case "sign" | "lt" | "le" | "gt" | "ge" | "eq" | "ne" if op == "sign" or 0 in (values[0], values[1]):
            return of_sign(nodes, op, args, type, place)
        case "transpose":
            return _transpose(nodes, args[0], type, place)
        case "outer":
            return _outer(nodes, args, attrs, type, place)
        case "apply":
            return _apply(nodes, args, type, place)
        case "count":
            return _count(nodes, args[0], attrs[0], type, place)
        case "mean":
            return _mean(nodes, args[0], attrs, type, place)
        case "dot" if args[0] is args[1]:
            return nodes.make("sq", (args[0],), (), type, place)
        case "full_like" if type.kind == "scalar":
            return args[1]
        case "full_like" if args[0].op == "full_like":
            return nodes.make("full_like", (args[0].args[0], args[1]), (), type, place)
        case "sum_k" if args[0].constant == 0 and type.kind == "scalar":
            return nodes.const(0.0)
    return None


def _where(nodes: Canonical, args: tuple[Node, ...], type: Type) -> Node | None:
    condition, then, otherwise = args
    if isinstance(condition.constant, bool):
        chosen = then if condition.constant else otherwise
        other = otherwise if condition.constant else then
        if chosen.type != type and chosen.type.kind == "scalar" and other.type == type and not type.boolean:
            return nodes.make("full_like", (other, chosen), (), type)
        return chosen if chosen.type == type else None
    if then is not otherwise:
        return None
    if then.type == type:
        return then
    like = next((n for n in walk(condition) if n.type == type.number), None)  # equal branches tell nothing
    return nodes.make("full_like", (like, then), (), type) if like is not None and then.type.kind == "scalar" else None


# --- averages ---


def _count(nodes: Canonical, value: Node, axis: Attribute, type: Type, place: SourceLocation | None) -> Node | None:
    """The batch has one size, and so has every axis of a space, whichever of its vectors is asked."""
    if axis == "batch":
        return nodes.make("scalar", (), ("batch_size",), SCALAR, place)
    if value.type.kind != "vector":
        return None
    key = (value.type.target, axis)
    if key not in nodes.sizes:
        nodes.sizes[key] = nodes.intern("count", (_plainest(value, axis),), (axis,), type, place)
    return nodes.sizes[key]


def _mean(
    nodes: Canonical, value: Node, attrs: tuple[Attribute, ...], type: Type, place: SourceLocation | None
) -> Node | None:
    factors = split(nodes, value)
    if factors.core is None or factors.core is value:
        return None
    factors.core = nodes.intern("mean", (factors.core,), attrs, type, place)
    return product_of(nodes, factors, type, place)


# --- maps ---


def _transpose(nodes: Canonical, node: Node, type: Type, place: SourceLocation | None) -> Node | None:
    if node.op == "transpose":
        return node.args[0]
    if node.op == "const":
        return nodes.const(node.attrs[0], type)  # type: ignore[arg-type]
    if node.op not in ELEMENTWISE and node.op != "full_like":
        return None
    waiting = [node]
    while waiting:  # a loop, since a rule may define a map by a map that is defined by a map ...
        part = waiting[-1]
        inner = [arg for arg in part.args if arg.type.kind == "map"]
        deeper = [a for a in inner if id(a) not in nodes.transposed and (a.op in ELEMENTWISE or a.op == "full_like")]
        if deeper:
            waiting += deeper
            continue
        waiting.pop()
        if id(part) in nodes.transposed:
            continue
        for arg in inner:
            if id(arg) not in nodes.transposed:
                nodes.transposed[id(arg)] = nodes.make("transpose", (arg,), (), arg.type.transposed, place)
        args = tuple(nodes.transposed[id(a)] if a.type.kind == "map" else a for a in part.args)
        flipped = nodes.make(part.op, args, part.attrs, part.type.transposed, part.place)
        nodes.transposed[id(part)] = flipped
    return nodes.transposed[id(node)]


def _outer(
    nodes: Canonical, args: tuple[Node, ...], attrs: tuple[Attribute, ...], type: Type, place: SourceLocation | None
) -> Node | None:
    left, right = split(nodes, args[0]), split(nodes, args[1])
    if left.core is None or right.core is None:
        return None
    if left.number == 0 or right.number == 0:
        return zero(nodes, nodes.intern("outer", args, attrs, type, place), type, place)
    v, w = left.core, right.core
    scaled = v is not args[0] or w is not args[1]
    if stored_the_other_way(type):
        straight = nodes.intern("outer", (w, v), attrs, type.transposed, place)
        core = nodes.intern("transpose", (straight,), (), type, place)
    elif scaled:
        core = nodes.intern("outer", (v, w), attrs, type, place)
    else:
        return None
    factors = Factors(left.number * right.number, left.above + right.above, left.below + right.below, core)
    return product_of(nodes, factors, type, place)


def _apply(nodes: Canonical, args: tuple[Node, ...], type: Type, place: SourceLocation | None) -> Node | None:
    left, right = split(nodes, args[0]), split(nodes, args[1])
    if left.number == 0 or right.number == 0:
        return zero(nodes, nodes.intern("apply", args, (), type, place), type, place)
    matrix, vector = left.core, right.core
    if matrix is None or vector is None or (matrix is args[0] and vector is args[1]):
        return None
    core = nodes.intern("apply", (matrix, vector), (), type, place)
    factors = Factors(left.number * right.number, left.above + right.above, left.below + right.below, core)
    return product_of(nodes, factors, type, place)


_OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


def _plainest(value: Node, axis: Attribute) -> Node:
    """What has the same size along the axis, with the least to compute."""
    while value.op in ELEMENTWISE or value.op == "full_like":
        alike = [arg for arg in value.args if arg.type.target == value.type.target and axis in arg.type.axes]
        if not alike:
            break
        value = alike[0]
    return value


def stored_the_other_way(type: Type) -> bool:
    """Outer products are computed as pre -> post, out -> anything, post[k] -> pre; the others are their transposes."""
    assert type.source is not None and type.target is not None
    if type.target == OUT or type.target.index:
        return True
    return type.source == POST
