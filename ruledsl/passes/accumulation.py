"""Accumulation: what of a pseudo-gradient is summed over examples, and what counts once for every step of an optimizer.

A backward pass brings the sum over its examples; several passes, visits of a layer and replicas add up. A term that
reads no activity, as decay, is no sum over examples: it is computed once, from what has arrived by then.
"""

from __future__ import annotations

from dataclasses import dataclass

from ruledsl.ir.equations import Equation
from ruledsl.ir.nodes import Node, const, rewrite, walk, with_args
from ruledsl.ir.operations import make
from ruledsl.passes.scaling import Scaling, scaling_of


@dataclass(frozen=True)
class Accumulation:
    """A pseudo-gradient in two stages.

    summed  what a backward pass brings
    value   the pseudo-gradient, in which `summed` is a node; None where it is `summed` itself
    once    the terms that are added to `summed`; None where the value is another function of it
    """

    summed: Node
    value: Node | None = None
    once: Node | None = None


def accumulation(value: Node) -> Accumulation:
    """A pseudo-gradient, divided between the terms of its sum; or where it is a function of one sum over examples."""
    memo: dict[int, Scaling] = {}
    scaling_of(value, memo)
    summed, once = _divided(value, memo)
    if summed is not None and not scaling_of(summed, memo).adds:
        sums = _sums(value, memo)
        if len(sums) == 1 and scaling_of(sums[0], memo).linear and sums[0].type == value.type:
            completed = _sized(value, sums[0])
            if completed is not None:
                return Accumulation(sums[0], completed)
    if once is None or scaling_of(once, memo).zero:
        return Accumulation(value)
    once = _sized(once)
    if once is None:  # nobody can compute it without a pass
        return Accumulation(value)
    summed = summed or const(0.0)
    return Accumulation(summed, _plus(summed, once), once)


def follows(equation: Equation) -> tuple[bool, bool]:
    """Whether a result of a pass follows the scale of the loss, and whether it adds up over micro-batches.

    The next value of a tensor is computed once a step: nobody undoes the scale of the errors that it reads.
    """
    match equation.role:
        case "grad":
            scaling = scaling_of(accumulation(equation.value).summed)
            return scaling.scales, scaling.adds
        case "send":
            scaling = scaling_of(equation.value)
            return scaling.scales, scaling.adds
        case "assign":
            scaling = scaling_of(equation.value)
            return scaling.zero or scaling.degree == 0, True
    return True, True


def _plus(summed: Node, once: Node) -> Node:
    if once.op == "neg":
        return make("sub", summed, once.args[0])
    return make("add", summed, once)


def _divided(node: Node, memo: dict[int, Scaling]) -> tuple[Node | None, Node | None]:
    """The terms of a sum that read activity, and those that do not, each added up."""
    if memo[id(node)].over == "nothing":
        return None, node
    parts: list[tuple[Node | None, Node | None]]
    match node.op:
        case "add" | "sub":
            left, right = (_divided(arg, memo) for arg in node.args)
            return _combined(node, left[0], right[0]), _combined(node, left[1], right[1])
        case "neg" | "transpose":
            return _each(node, 0, memo)
        case "mul" | "div":
            fixed = [index for index, arg in enumerate(node.args) if memo[id(arg)].over == "nothing"]
            if fixed == [1] or (fixed == [0] and node.op == "mul"):
                return _each(node, 1 - fixed[0], memo)
        case "where" if memo[id(node.args[0])].over == "nothing":
            parts = [_divided(arg, memo) for arg in node.args[1:]]
            if any(part[1] is not None for part in parts):
                return _chosen(node, parts[0][0], parts[1][0]), _chosen(node, parts[0][1], parts[1][1])
    return node, None


def _each(node: Node, index: int, memo: dict[int, Scaling]) -> tuple[Node | None, Node | None]:
    """An operation that is linear in one of its arguments, on both parts of this."""
    summed, once = _divided(node.args[index], memo)
    return _on(node, index, summed), _on(node, index, once)


def _on(node: Node, index: int, part: Node | None) -> Node | None:
    return None if part is None else with_args(node, (*node.args[:index], part, *node.args[index + 1 :]))


def _chosen(node: Node, then: Node | None, otherwise: Node | None) -> Node | None:
    """A choice between parts of the two that a choice is between; zeros where one of them has no such part."""
    if then is None and otherwise is None:
        return None
    then, otherwise = then or _zeros(otherwise), otherwise or _zeros(then)
    return with_args(node, (node.args[0], then, otherwise))


def _zeros(like: Node | None) -> Node:
    """Zeros in the shape of a value; where that may be a number, a number."""
    if like is None or like.type.kind == "scalar":
        return const(0.0)
    if any(node.op == "const" and node.type.kind != "scalar" for node in walk(like)):
        return const(0.0, like.type)
    return make("full_like", like, 0.0)


def _combined(node: Node, left: Node | None, right: Node | None) -> Node | None:
    if left is None or right is None:
        alone = left or right
        return make("neg", alone) if alone is not None and left is None and node.op == "sub" else alone
    return make(node.op, left, right, like=node) if (left, right) != node.args else node


def _sums(value: Node, memo: dict[int, Scaling]) -> list[Node]:
    """Where the batch axis goes away: the values that are no activity, and read one; and the number of examples."""
    return [
        node
        for node in walk(value)
        if memo[id(node)].over != "nothing"
        and "batch" not in node.type.axes
        and (not node.args or any("batch" in arg.type.axes for arg in node.args))
    ]


def _sized(value: Node, summed: Node | None = None) -> Node | None:
    """A value that asks no activity for the size of an axis, but a tensor of its own; None where it has none of these.

    summed  a part of it that stays as it is
    """
    vectors = {node.type.target: node for node in walk(value) if node.op == "tensor" and node.type.kind == "vector"}

    def sized(node: Node, args: tuple[Node, ...]) -> Node:
        if node is summed:
            return node
        asks = node.op == "count" and node.attrs == ("units",) and "batch" in args[0].type.axes
        return with_args(node, (vectors.get(args[0].type.target, args[0]),) if asks else args)

    found = rewrite(value, sized)
    reads_activity = any(node.op == "signal" for node in walk(found, until={id(summed)}))
    return None if reads_activity else found
