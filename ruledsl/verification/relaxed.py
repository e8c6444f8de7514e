"""A rule whose branches, bounds and saturations let everything through: why a claimed flow was not seen.

A ledger says what a value can depend on, whichever way its conditions fall. Random values may never take the way on
which the flow is: `if norm(W) < 0.01 then e else x`, `max(h, 1e6)`. If the flow shows once every such operation passes
on all of its arguments, then it was one of these that hid it; if it does not, the ledger claims too much.
"""

from __future__ import annotations

from ruledsl.ir.nodes import Node, rewrite, with_args
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.types import SCALAR, Type

LESS = 0.7  # the weight of a second argument: in `max(a, -a)` a plain sum would cancel


def relaxed(root: Node) -> Node:
    """The value with every operation that can hold something back replaced by one that cannot."""
    return rewrite(root, _let_through)


def _let_through(node: Node, args: tuple[Node, ...]) -> Node:
    type = node.type.number
    if node.op == "not":
        return args[0]
    if node.op not in OPERATIONS or not OPERATIONS[node.op].saturates:
        return with_args(node, args)
    if node.op == "where":
        condition, then, otherwise = args
        return _sum(type, then, otherwise, condition)
    if OPERATIONS[node.op].flow == "compared" and args[1].constant == 0 and args[0].type.kind != "scalar":
        return Node("sign", args[:1], (), type, node.place)
    if len(args) == 1:
        return _sum(type, Node(node.op, args, (), type, node.place), args[0])
    return _sum(type, *args)


def _sum(type: Type, first: Node, *others: Node) -> Node:
    total = first
    for other in others:
        total = Node("add", (total, Node("mul", (_number(LESS), other), (), type)), (), type)
    return total


def _number(value: float) -> Node:
    return Node("const", (), (value,), SCALAR)
