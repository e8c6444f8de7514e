"""Forms that every array library shares: what differs between backends is left to the caller."""

from __future__ import annotations

from collections.abc import Callable

from ruledsl.emit.expressions import COMPARISON, PRODUCT, Unwritable, Writer
from ruledsl.ir.maps import from_far, is_kernel
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.types import OUT, PER_UNIT, POST, PRE

Form = Callable[[Writer, Node], str]


def elementwise(function: str) -> Form:
    """`function(a, b)` on arrays."""
    return lambda writer, node: f"{function}({', '.join(arguments(writer, node))})"


def arguments(writer: Writer, node: Node) -> list[str]:
    """The arguments of an elementwise operation."""
    return [writer.argument(node, index) for index in range(len(node.args))]


def logic(symbol: str) -> Form:
    """`(a & b)`"""

    def form(writer: Writer, node: Node) -> str:
        left, right = (writer.argument(node, index, COMPARISON + 1) for index in (0, 1))
        return f"({left} {symbol} {right})"

    return form


def activation(writer: Writer, node: Node) -> str:
    """`phi(v)` and its derivative: functions that the layer brings along."""
    return f"{writer.use(node.op)}({writer.write(node.args[0])})"


def applied(tensordot: str, transposed: str) -> Form:
    """`M @ v`: by the linear map between pre and post; dense from `out` and `post[k]`."""

    def form(writer: Writer, node: Node) -> str:
        maps, vector = node.args
        matrix, activity = writer.write(maps), writer.write(vector)
        if is_kernel(maps):
            return f"{writer.use('layer')}.{'apply' if maps.type.target == POST else 'adjoint'}({matrix}, {activity})"
        if from_far(maps):
            dims = "1" if maps.type.source == OUT else f"{writer.write(vector, 9)}.ndim - 1"
            return tensordot.format(activity, matrix, dims)
        if maps.type.target != OUT:
            raise Unwritable(node, "a map towards the layers downstream")
        return transposed.format(writer.write(vector, 9), writer.write(maps, 9))

    return form


def outer(tensordot: str) -> Form:
    """`outer(v, w)`: the kernel gradient of the linear map; a dense product for maps from `out` and `post[k]`."""

    def form(writer: Writer, node: Node) -> str:
        after, before = node.args
        mean = node.attrs[0]
        if is_kernel(node):
            post, pre = (after, before) if node.type.target == POST else (before, after)
            how = f', mean="{mean}"' if mean else ""
            return f"{writer.use('layer')}.outer({writer.write(post)}, {writer.write(pre)}{how})"
        far, own = (before, after) if from_far(node) else (after, before)
        product = tensordot.format(writer.write(far), writer.write(own))
        return f"({product} / len({writer.write(far)}))" if mean else product

    return form


def dot(writer: Writer, node: Node) -> str:
    """`dot(a, b)`, `sq(a)`: summed over units and positions, a mean over the batch."""
    a, b = node.args[0], node.args[-1]
    texts = [_spread(writer, arg, other) for arg, other in ((a, b), (b, a))]
    total = f"({texts[0]} * {texts[1]}).sum()"
    batched = [text for text, arg in zip(texts, (a, b), strict=True) if "batch" in arg.type.axes]
    return f"({total} / len({batched[0]}))" if batched else total


def _spread(writer: Writer, node: Node, other: Node) -> str:
    per_unit = node.type.axes == PER_UNIT and node.type.kind == "vector" and node.type.target != OUT
    if per_unit and other.type.axes != PER_UNIT:
        return f"{writer.use('layer')}.spread({writer.write(node)})"
    return writer.write(node, PRODUCT + 1)


def total(writer: Writer, node: Node) -> str:
    """`total(v)`: an activity summed over batch and positions, one number per unit."""
    if node.type.target == OUT:
        return f"{writer.write(node.args[0], 9)}.sum(0)"
    return f"{writer.use('layer')}.sum_to_units({writer.write(node.args[0])})"


def sum_over_layers(writer: Writer, node: Node) -> str:
    """`sum(k, ...)`: over the layers downstream."""
    families = {str(part.attrs[0]) for part in walk(node.args[0]) if part.op == "tensor" and part.attrs[1]}
    lists = [writer.use(writer.names[name]) for name in sorted(families)]
    items = [f"{name}_at_k" for name in lists]
    if not lists or any(part.op == "signal" and part.attrs[1] for part in walk(node.args[0])):
        lists, items = [*lists, writer.use("delta_k")], [*items, "delta_at_k"]
    over = lists[0] if len(lists) == 1 else f"zip({', '.join(lists)}, strict=True)"
    return f"sum({writer.write(node.args[0])} for {', '.join(items)} in {over})"


def number(writer: Writer, node: Node) -> str:
    """A Python number as a floating-point one."""
    text = writer.write(node)
    return f"{text}.0" if text.lstrip("-").isdigit() else text


def flat(node: Node, text: str) -> str:
    """A reduction that leaves one number per unit has the shape of a bias, and one that leaves a single number none.

    All other reductions keep the axes of an activity, with size one.
    """
    if node.type.axes == PER_UNIT:
        return f"{text}.reshape(-1)"
    return text if node.type.axes else f"{text}.reshape(())"


def units_axis(writer: Writer, node: Node) -> str:
    """The axis of the units of an argument: in one number per unit the first, in a layer's own activity that which the
    linear map knows."""
    of = node.args[0].type
    if of.axes == PER_UNIT:
        return "0"
    return f"{writer.use('layer')}.units_axis" if of.target in (PRE, POST) else "1"


def over_positions(function: str, sqrt: str, square: str) -> Form:
    """mean, std and L2 norm over positions, which the linear map alone knows."""

    def form(writer: Writer, node: Node) -> str:
        layer, value = writer.use("layer"), writer.write(node.args[0])
        mean = f"{layer}.mean_positions({value})"
        if function == "mean":
            return mean
        if function == "std":
            return f"{sqrt}({layer}.mean_positions({square}({value} - {mean})))"
        return f"{sqrt}({layer}.sum_positions({square}({value}))).clip(1e-6)"

    return form
