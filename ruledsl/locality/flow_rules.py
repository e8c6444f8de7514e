"""The flow rules of the operations: from the labels of the arguments to the labels of the result (DESIGN, section 4).

A rule may ask its `Context` for the labels of any node. Nothing here removes a label silently: `sign` weakens `value`
to `sign`, a statistic weakens it to `norm` or `stat`, a number about a broadcast vector modulates, and applying a map
forwards leaves behind what is the synapse's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS, Flow
from ruledsl.ir.printer import show
from ruledsl.ir.types import OUT, POST, PRE
from ruledsl.locality import labels
from ruledsl.locality.labels import BROADCAST, MULTIPLEX, NOTHING, Labels, Mark, join, label
from ruledsl.locality.messages import is_backwards, plain

LONGEST_SOURCE = 40


class Context(Protocol):
    """What a flow rule may ask.

    wiring, gathered   see `ruledsl.locality.tensors`
    shifted            maps of which the sign tells the value, since thresholds move
    phase              where the node is computed
    """

    phase: str

    wiring: frozenset[str]
    gathered: frozenset[str]
    shifted: frozenset[str]

    def of(self, node: Node) -> Labels:
        """The labels of a node."""
        ...

    def bias(self) -> Labels:
        """What the layer's bias holds, where this phase reads the layer's output with it, too."""
        ...

    def lifted(self) -> Labels:
        """What the layer's output tells of its bias, where several phases move this."""
        ...

    def message(self, node: Node, turned: bool = False) -> tuple[str, int] | None:
        """The bundle and the number of the message that a node needs beyond the first of its bundle."""
        ...


FlowRule = Callable[[Node, Context], Labels]


def joined(node: Node, context: Context) -> Labels:
    """Arithmetic, conditions: the result depends on everything that any argument depends on.

    A number per neuron that meets an activity is at every example and position; but that the bias of a layer is the
    same at all of its positions is the architecture's doing.
    """
    if is_layer(node):
        arrived, bias = node.args if is_forward(node.args[0]) else node.args[::-1]
        told = labels.returned(context.of(bias), ("batch",))
        return join((_transmitted(arrived, context), told, context.lifted()))
    return join(labels.returned(context.of(arg), node.type.axes - arg.type.axes) for arg in node.args)


def is_layer(node: Node) -> bool:
    """`W @ x + b`: the layer itself, which is `u`."""
    return node.op == "add" and any(
        is_forward(arrived) and bias.op == "tensor" and bias.attrs[0] == "b"
        for arrived, bias in (node.args, node.args[::-1])
    )


def is_forward(node: Node) -> bool:
    """`W @ x`."""
    return node.op == "apply" and [arg.attrs[0] for arg in node.args if arg.is_leaf] == ["W", "x"]


def nothing(node: Node, context: Context) -> Labels:
    """Sizes are known everywhere: nothing is told."""
    return NOTHING


def of_second(node: Node, context: Context) -> Labels:
    """`full_like(v, c)` reads c, and of v its shape alone."""
    return labels.returned(context.of(node.args[1]), node.type.axes)


def transposed(node: Node, context: Context) -> Labels:
    """`E.T`: everything is read at the other site; an outer product is gathered there instead."""
    if node.args[0].op == "outer":
        return gathered(node.args[0], context, turned=True)
    return labels.moved(context.of(node.args[0]), node.place)


def applied(node: Node, context: Context) -> Labels:
    """`E @ v`: transmission leaves the synapse's own state behind; for a bare map, `M.T @ v` is `reverse(M)`.

    A matrix that was gathered from this batch is back at its examples. `W @ x` beside `u` tells the bias, and so does a
    matrix that holds what W is.
    """
    matrix = node.args[0]
    w = context.of(matrix).get(("W", "value"))
    holds_w = w is not None and w.own and (matrix.type.source, matrix.type.target) == (PRE, POST)
    told = context.bias() if holds_w else NOTHING
    return join((_transmitted(node, context), labels.returned(told, node.type.axes)))


def _transmitted(node: Node, context: Context) -> Labels:
    matrix, vector = node.args
    through = labels.returned(labels.carried(context.of(matrix)), node.type.axes)
    bare = plain(matrix)
    if is_backwards(bare):
        used = str(bare.args[0].attrs[0])
        kept = {key: mark._replace(place=node.place) for key, mark in through.items() if key != (used, "value")}
        through = {**kept, (used, "reverse"): Mark(False, node.place)}
    arrived = labels.returned(context.of(vector), node.type.axes - vector.type.axes)
    return join((through, arrived, _message(node, context)))


def gathered(node: Node, context: Context, turned: bool = False) -> Labels:
    """`outer(v, w)`: synapses gather it over the batch. Over positions they share their weights in any convolution."""
    axes = node.args[0].type.axes | node.args[1].type.axes
    parts = [labels.returned(context.of(arg), axes - arg.type.axes) for arg in node.args]
    over = label(_activity(node), "over(batch)", node.place)
    return join([*parts, over, _message(node, context, turned)])


def totalled(node: Node, context: Context) -> Labels:
    """`total(v)`: a neuron gathers it over the batch, and over positions, where it is one neuron no more."""
    (value,) = node.args
    over = [label(_activity(value), f"over({axis})", node.place) for axis in ("batch", "positions")]
    return join([context.of(value), *over])


def _message(node: Node, context: Context, turned: bool = False) -> Labels:
    found = context.message(node, turned)
    return label(found[0], MULTIPLEX, node.place, part=found[1]) if found else NOTHING


def sign(node: Node, context: Context) -> Labels:
    """`sign(E)`."""
    return sign_of(node.args[0], context, node)


def compared(node: Node, context: Context) -> Labels:
    """`E > 0` is one bit, its sign; a comparison with anything else can tell values of the same sign apart."""
    left, right = node.args
    if right.constant == 0:
        return sign_of(left, context, node)
    if left.constant == 0:
        return sign_of(right, context, node)
    return joined(node, context)


def sign_of(node: Node, context: Context, reader: Node) -> Labels:
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
        if leaf.op == "tensor" and str(leaf.attrs[0]) not in context.shifted:
            # After `s <- W - 1`, the sign of s tells whether W exceeds 1: more than the sign of W.
            signs[id(part)] = labels.sign_only(context.of(part), str(leaf.attrs[0]), reader.place, context.phase)
        elif part.op == "where":
            condition, then, otherwise = part.args
            signs[id(part)] = join((context.of(condition), signs[id(then)], signs[id(otherwise)]))
        elif through:
            axes = part.type.axes
            signs[id(part)] = join(labels.returned(signs[id(arg)], axes - arg.type.axes) for arg in part.args)
        else:
            signs[id(part)] = context.of(part)
    return signs[id(node)]


def pooled(node: Node, context: Context) -> Labels:
    """`mean(v, axis)` and the like: an average of activity; without an axis, a statistic of a map.

    An average over the batch, or over positions, is memory until it comes back to one of them.
    """
    (value,) = node.args
    if value.type.kind != "vector":
        return _statistic(node, context)
    known, axis = context.of(value), str(node.attrs[0])
    if axis != "units":
        return join((known, label(_activity(value), f"over({axis})", node.place)))
    return _over_units([value], known, node)


def pooled_everywhere(node: Node, context: Context) -> Labels:
    """`dot`, `sq`, `norm`: of maps a statistic; of activity, pooled over every axis that it has."""
    if any(arg.type.kind in ("map", "parameter") for arg in node.args):
        return _statistic(node, context)
    vectors = [arg for arg in dict.fromkeys(node.args) if arg.type.kind == "vector"]
    axes = frozenset(axis for arg in vectors for axis in arg.type.axes)
    known = join(labels.returned(context.of(arg), axes - arg.type.axes) for arg in node.args)
    found = _over_units(vectors, known, node)
    if any(channel == labels.MODULATE for _, channel in found) and all(v.type.target == OUT for v in vectors):
        return join((found, label(_activity(vectors[0]), "over(batch)", node.place)))
    parts = [found]
    for arg in vectors:
        if _varies(arg):
            names = sorted(arg.type.axes - {"units"})
            parts += [label(_activity(arg), f"pool({axis})", node.place) for axis in names]
    return join(parts)


def _over_units(vectors: list[Node], known: Labels, node: Node) -> Labels:
    """Vectors summed over their units: a broadcast vector is one number more that modulates, others are pooled."""
    parts = [labels.modulating(known, node.place, id(node))]
    broadcast = any(channel == BROADCAST for _, channel in known)
    for vector in vectors:
        if _varies(vector) and not (broadcast and vector.type.target == OUT):
            parts.append(label(_activity(vector), "pool(units)", node.place, part=id(node)))
    return join(parts)


def _statistic(node: Node, context: Context) -> Labels:
    """One number of a map: what it tells of weights, it tells the whole layer; of accumulated activity it is a pool."""
    parts: list[Labels] = []
    for arg in node.args:
        for (source, channel), mark in context.of(arg).items():
            mark = mark._replace(own=False, place=node.place or mark.place)
            if channel not in ("value", "sign"):
                parts.append({(source, channel): mark})
            elif source in context.gathered:
                parts.append(label(_activity(arg), "pool(units)", node.place, part=id(node)))
            else:
                name = "norm" if _is_length(node, source) else "stat"
                parts.append({(source, name): mark._replace(parts=frozenset((id(node),)))})
        if any(n.op == "signal" for n in walk(arg)):
            parts.append(label(_activity(arg), "pool(units)", node.place, part=id(node)))
    return join(parts)


def _is_length(node: Node, name: str) -> bool:
    """`norm(M)`, `sq(M)`, and those of `c * M`, `M.T`, `abs(M)`, `sign(M)`."""
    if node.op not in ("norm", "sq"):
        return False
    value = node.args[0]
    while value.op in ("mul", "div", "neg", "transpose", "abs", "sign"):
        maps = [arg for arg in value.args if arg.type.kind in ("map", "parameter")]
        if len(maps) != 1 or (value.op == "div" and value.args[0] is not maps[0]):
            return False
        value = maps[0]
    return value.op == "tensor" and value.attrs[0] == name


def _varies(node: Node) -> bool:
    """Whether a vector holds more than constants."""
    return any(n.op in ("signal", "tensor") for n in walk(node, until=shapes(node))) and node.op != "full_like"


def shapes(root: Node) -> set[int]:
    """Nodes of which only the shape is read."""
    return {id(node.args[0]) for node in walk(root) if node.op == "full_like"}


def _activity(node: Node) -> str:
    """What is pooled, in the notation of the language; what differentiation made can be too long to be read."""
    text = show(node)
    if len(text) <= LONGEST_SOURCE:
        return text
    words = dict.fromkeys(str(part.attrs[0]) for part in walk(node) if part.op == "signal")
    return ", ".join(words) or "activity"


FLOW_RULES: Mapping[Flow, FlowRule] = {
    "joined": joined,
    "nothing": nothing,
    "of_second": of_second,
    "transposed": transposed,
    "applied": applied,
    "gathered": gathered,
    "totalled": totalled,
    "sign": sign,
    "compared": compared,
    "pooled": pooled,
    "pooled_everywhere": pooled_everywhere,
}
"""By the name that an operation's row gives."""
