"""The flow rules of the operations: from the labels of the arguments to the labels of the result (DESIGN, section 4).

A rule may ask `labels_of` for the labels of any node. Nothing here removes a label silently: `sign` weakens `value`
to `sign`, a statistic weakens it to `norm`, and applying a map forwards leaves behind what is the synapse's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS, Flow
from ruledsl.ir.printer import show
from ruledsl.locality import labels
from ruledsl.locality.labels import NOTHING, Labels, join, label

LabelsOf = Callable[[Node], Labels]
FlowRule = Callable[[Node, LabelsOf], Labels]
LONGEST_SOURCE = 40


def joined(node: Node, labels_of: LabelsOf) -> Labels:
    """Arithmetic, conditions: the result depends on everything that any argument depends on."""
    return join(labels_of(arg) for arg in node.args)


def nothing(node: Node, labels_of: LabelsOf) -> Labels:
    """Sizes are known everywhere: nothing is told."""
    return NOTHING


def of_second(node: Node, labels_of: LabelsOf) -> Labels:
    """`full_like(v, c)` reads c, and of v its shape alone."""
    return labels_of(node.args[1])


def transposed(node: Node, labels_of: LabelsOf) -> Labels:
    """`E.T`: everything is read at the other site."""
    return labels.moved(labels_of(node.args[0]), node.place)


def applied(node: Node, labels_of: LabelsOf) -> Labels:
    """`E @ v`: transmission leaves the synapse's own state behind; for a bare map, `M.T @ v` is `reverse(M)`."""
    matrix, vector = node.args
    through = labels.carried(labels_of(matrix))
    if matrix.op == "transpose" and matrix.args[0].op == "tensor":
        used = str(matrix.args[0].attrs[0])
        through = join(
            {(source, "reverse" if (source, channel) == (used, "value") else channel): mark._replace(place=node.place)}
            for (source, channel), mark in through.items()
        )
    return join((through, labels_of(vector)))


def sign(node: Node, labels_of: LabelsOf) -> Labels:
    """`sign(E)`."""
    return sign_of(node.args[0], labels_of, node)


def compared(node: Node, labels_of: LabelsOf) -> Labels:
    """`E > 0` is one bit, its sign; a comparison with anything else can tell values of the same sign apart."""
    left, right = node.args
    if right.constant == 0:
        return sign_of(left, labels_of, node)
    if left.constant == 0:
        return sign_of(right, labels_of, node)
    return joined(node, labels_of)


def sign_of(node: Node, labels_of: LabelsOf, reader: Node) -> Labels:
    """What the sign of a value depends on: in a product, on the signs of the factors; in a sum, on the values."""
    signs: dict[int, Labels] = {}
    waiting = [node]
    while waiting:
        part = waiting[-1]
        through = part.op == "where" or (part.op in OPERATIONS and OPERATIONS[part.op].sign_determined)
        missing = [arg for arg in part.args if through and id(arg) not in signs]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        leaf = part.args[0] if part.op == "transpose" else part
        if leaf.op == "tensor":
            # After `s <- W - 1`, the sign of s tells whether W exceeds 1: more than the sign of W.
            signs[id(part)] = labels.sign_only(labels_of(part), str(leaf.attrs[0]), reader.place)
        elif part.op == "where":
            condition, then, otherwise = part.args
            signs[id(part)] = join((labels_of(condition), signs[id(then)], signs[id(otherwise)]))
        elif through:
            signs[id(part)] = join(signs[id(arg)] for arg in part.args)
        else:
            signs[id(part)] = labels_of(part)
    return signs[id(node)]


def pooled(node: Node, labels_of: LabelsOf) -> Labels:
    """`mean(v, axis)` and the like: an average of activity; without an axis, a statistic of a map."""
    (value,) = node.args
    if value.type.kind != "vector":
        return _statistic(node, labels_of)
    return join((labels_of(value), label(_activity(value), f"pool({node.attrs[0]})", node.place)))


def pooled_everywhere(node: Node, labels_of: LabelsOf) -> Labels:
    """`dot`, `sq`, `norm`: of maps a statistic; of activity, pooled over every axis that it has."""
    if any(arg.type.kind in ("map", "parameter") for arg in node.args):
        return _statistic(node, labels_of)
    parts = [joined(node, labels_of)]
    for arg in dict.fromkeys(node.args):
        parts += [label(_activity(arg), f"pool({axis})", node.place) for axis in sorted(arg.type.axes)]
    return join(parts)


def _statistic(node: Node, labels_of: LabelsOf) -> Labels:
    parts = [labels.statistic(joined(node, labels_of), node.place)]
    parts += [label(_activity(arg), "pool(units)", node.place) for arg in node.args if _depends_on_activity(arg)]
    return join(parts)


def _activity(node: Node) -> str:
    """What is pooled, in the notation of the language; what differentiation made can be too long to be read."""
    text = show(node)
    if len(text) <= LONGEST_SOURCE:
        return text
    return ", ".join(dict.fromkeys(str(part.attrs[0]) for part in walk(node) if part.op == "signal"))


def _depends_on_activity(node: Node) -> bool:
    return any(n.op in ("signal", "random") for n in walk(node))


FLOW_RULES: Mapping[Flow, FlowRule] = {
    "joined": joined,
    "nothing": nothing,
    "of_second": of_second,
    "transposed": transposed,
    "applied": applied,
    "sign": sign,
    "compared": compared,
    "pooled": pooled,
    "pooled_everywhere": pooled_everywhere,
}
"""By the name that an operation's row gives."""
