"""Signs in canonical form: that of a product of maps is the product of their signs.

What a rule means are real numbers. In float32 a product can be too small for the machine, and its sign would tell
whether it is: `sign(1e-44 * W)` would be a threshold on W. So no product is made before its sign is taken.
"""

from __future__ import annotations

import math

from ruledsl.ir.nodes import Node
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.types import Type
from ruledsl.passes.canonical import Canonical
from ruledsl.passes.products import product_of, split
from ruledsl.source import SourceLocation

MAPS = ("map", "parameter")


def of_sign(nodes: Canonical, op: str, args: tuple[Node, ...], type: Type, place: SourceLocation | None) -> Node | None:
    """`sign(E)`, or a comparison of E with 0, for canonical E; None where it is canonical already."""
    at = 1 if args[0].constant == 0 and len(args) == 2 else 0
    value = args[at]
    if value.type.kind in MAPS:
        if not _is_determined(value):
            return None
        sign = _sign(nodes, value, place)
        if op == "sign":
            return sign
        return None if sign is value else nodes.make(op, (*args[:at], sign, *args[at + 1 :]), (), type, place)
    factors = split(nodes, value)
    if factors.core is None or factors.number <= 0 or factors.number == 1 or math.isinf(factors.number):
        return None
    factors.number = 1.0
    plain = product_of(nodes, factors, value.type, place)
    return nodes.make(op, (*args[:at], plain, *args[at + 1 :]), (), type, place)


def _is_determined(node: Node) -> bool:
    """Whether the sign of a value follows from the signs of its parts."""
    return node.op == "where" or (node.op in OPERATIONS and OPERATIONS[node.op].sign_determined)


def _sign(nodes: Canonical, root: Node, place: SourceLocation | None) -> Node:
    """The sign of a value, from the signs of what it is made of."""
    done: dict[int, Node] = {}
    waiting = [root]
    while waiting:
        node = waiting[-1]
        parts = [arg for arg in node.args if not arg.type.boolean] if _is_determined(node) else []
        missing = [part for part in parts if id(part) not in done]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if not parts:
            done[id(node)] = node if node.op == "sign" else nodes.make("sign", (node,), (), node.type, place)
            continue
        args = tuple(arg if arg.type.boolean else done[id(arg)] for arg in node.args)
        if node.op == "tanh":
            done[id(node)] = args[0]
        else:
            op = "mul" if node.op == "div" else node.op
            done[id(node)] = nodes.make(op, args, (), node.type, place)
    return done[id(root)]
