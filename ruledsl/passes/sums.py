"""Sums in canonical form: no zeros, no signs that can go, and outer products that share a vector are one."""

from __future__ import annotations

from ruledsl.ir.nodes import Node
from ruledsl.ir.types import SCALAR, Type
from ruledsl.passes.canonical import Canonical
from ruledsl.passes.products import Factors, is_zero, product_of, split
from ruledsl.source import SourceLocation

MOST_TERMS = 16  # of a sum, in which outer products are looked for that can be one


def sum_of(nodes: Canonical, op: str, args: tuple[Node, ...], type: Type, place: SourceLocation | None) -> Node | None:
    """The canonical node of `left + right` or `left - right`, or None where that is canonical already."""
    left, right = args
    if is_zero(right) and left.type == type:
        return left
    if is_zero(left) and right.type == type:
        return right if op == "add" else nodes.make("neg", (right,), (), type, place)
    negative = _without_minus(nodes, right)
    if negative is not None:
        return nodes.make("sub" if op == "add" else "add", (left, negative), (), type, place)
    negative = _without_minus(nodes, left)
    if op == "add" and negative is not None:
        return nodes.make("sub", (right, negative), (), type, place)
    narrow = _not_spread_out(right) if left.type == type else None
    if narrow is not None:
        return nodes.make(op, (left, narrow), (), type, place)
    return _one_for_two(nodes, op, left, right, type, place) or _mean_of_sum(nodes, op, left, right, type, place)


def _one_for_two(
    nodes: Canonical, op: str, left: Node, right: Node, type: Type, place: SourceLocation | None
) -> Node | None:
    """`outer(f, a) + outer(f, b)` is `outer(f, a + b)`, and `M @ a + M @ b` is `M @ (a + b)`: one, not two.

    The terms may stand apart in a longer sum, and have scalars in front.
    """
    if type.kind not in ("map", "vector") or left.type != type or right.type != type:
        return None
    if op == "add" and left.op not in ("add", "sub"):
        left, right = right, left
    after: list[Node] = []  # the sums passed on the way down to the term that merges with `right`
    while len(after) < MOST_TERMS:
        deeper = left.op in ("add", "sub") and left.args[0].type == left.args[1].type == type
        last = left.args[1] if deeper else left
        sign = "add" if not deeper or left.op == op else "sub"
        together = _merged(nodes, sign if deeper else op, last, right, type, place)
        if together is not None:
            result = nodes.make(left.op, (left.args[0], together), (), type, place) if deeper else together
            for sum in reversed(after):
                result = nodes.make(sum.op, (result, sum.args[1]), (), type, place)
            return result
        if not deeper:
            return None
        after.append(left)
        left = left.args[0]
    return None


def _merged(
    nodes: Canonical, op: str, left: Node, right: Node, type: Type, place: SourceLocation | None
) -> Node | None:
    """The sum of two outer products that share a vector, or of two maps applied, as one; or None."""
    a, b = split(nodes, left), split(nodes, right)
    if a.core is None or b.core is None or a.core.op != b.core.op:
        return None
    if a.core.op == "apply":
        return _one_apply(nodes, op, a, b, type, place)
    one, other = (n.args[0] if n.op == "transpose" else n for n in (a.core, b.core))
    if one.op != "outer" or other.op != "outer" or one.attrs != other.attrs or one.type != other.type:
        return None
    for shared, kept in ((0, 1), (1, 0)):
        if one.args[shared] is other.args[shared] and one.args[kept].type == other.args[kept].type:
            a.core, b.core = one.args[kept], other.args[kept]
            vectors = (product_of(nodes, a, a.core.type, place), product_of(nodes, b, b.core.type, place))
            total = nodes.make(op, vectors, (), a.core.type, place)
            args = (one.args[0], total) if shared == 0 else (total, one.args[1])
            straight = nodes.make("outer", args, one.attrs, one.type, place)
            return straight if one.type == type else nodes.make("transpose", (straight,), (), type, place)
    return None


def _one_apply(
    nodes: Canonical, op: str, a: Factors, b: Factors, type: Type, place: SourceLocation | None
) -> Node | None:
    """`M @ a + M @ b` as `M @ (a + b)`, and `A @ v + B @ v` as `(A + B) @ v`: a synapse has one efficacy."""
    assert a.core is not None and b.core is not None
    for shared, kept in ((0, 1), (1, 0)):
        one, other = a.core.args[kept], b.core.args[kept]
        if a.core.args[shared] is not b.core.args[shared] or one.type != other.type:
            continue
        if "transpose" in (one.op, other.op):  # `W.T @ v` stays what it is: the synapses of W used backwards
            continue
        same = a.core.args[shared]
        a.core, b.core = one, other
        parts = (product_of(nodes, a, one.type, place), product_of(nodes, b, other.type, place))
        total = nodes.make(op, parts, (), one.type, place)
        return nodes.make("apply", (same, total) if shared == 0 else (total, same), (), type, place)
    return None


def _mean_of_sum(
    nodes: Canonical, op: str, left: Node, right: Node, type: Type, place: SourceLocation | None
) -> Node | None:
    """`a / batch_size + b / batch_size` is one mean: `outer` computes it for nothing."""
    a, b = split(nodes, left), split(nodes, right)
    if not (_batch_sizes(a) and _batch_sizes(b)):
        return None
    size = _batch_sizes(a)[0]
    a.below.remove(size)
    b.below.remove(size)
    total = nodes.make(
        op, (product_of(nodes, a, left.type, place), product_of(nodes, b, right.type, place)), (), type, place
    )
    return product_of(nodes, Factors(below=[size], core=total), type, place)


def _without_minus(nodes: Canonical, node: Node) -> Node | None:
    """The node without the minus sign in front of it, or None if there is no such sign."""
    if node.op == "neg":
        return node.args[0]
    value = node.constant
    if node.type.kind == "scalar" and value is not None and value < 0:
        return nodes.make("const", (), (-value,), SCALAR)
    return None


def _not_spread_out(node: Node) -> Node | None:
    """v of `full_like(a, 1) * v`: a sum with something of the full type spreads it out anyway."""
    if node.op != "mul" or not (node.args[0].op == "full_like" and node.args[0].args[1].constant == 1):
        return None
    return node.args[1]


def _batch_sizes(factors: Factors) -> list[Node]:
    return [node for node in factors.below if node.op == "scalar" and node.attrs[0] == "batch_size"]
