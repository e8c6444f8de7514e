"""The first values of a rule's tensors in one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl.plan import Bound, evaluate
from ruledsl.program import Tensor as Declared
from ruledsl_torch import linear
from ruledsl_torch.layers import Phi, activation, scalars


@dataclass(frozen=True)
class Shapes:
    """The sizes of the three spaces: classes, [*pre] and [*post] of an activity without its batch; None is unknown.

    sends       False where the layer is known to send to nobody
    downstream  [*post] of every layer whose activity depends on this one's, by name; None where that is unknown
    """

    classes: int | None
    pre: tuple[int, ...] | None
    post: tuple[int, ...] | None
    sends: bool
    downstream: Mapping[str, tuple[int, ...]] | None = field(default=None)


def initial_tensors(
    plan: Bound,
    layer: nn.Linear | nn.Conv2d,
    shapes: Shapes,
    phi: Phi | None,
    generator: torch.Generator | None,
) -> dict[str, Tensor | None]:
    """By the name that the layer has for it, in the type of the layer's weight and where that is; drawn on the
    generator's device (the CPU).

    None for a map from `out` in a layer that sends to nobody: over an image it can be larger than the whole network.
    Of maps from the layers downstream, `D_0` is that from the first one, and so on.
    """
    geometry = linear.linear_map(layer)
    weight, bias = layer.weight, layer.bias
    values: dict[str, Any] = scalars(plan, geometry, shapes.classes) | activation(phi)
    values.update(W=weight.detach(), layer=geometry, generator=generator)
    values["b"] = weight.new_zeros(geometry.units_out) if bias is None else bias.detach()
    values.update(dict.fromkeys(plan.clocked, 0.0))
    place = weight.device if generator is None else generator.device
    starts = {call.target: call for call in plan.starts}
    # In the order in which they are made, for one may start from another.
    order = {name: index for index, name in enumerate(starts)}
    tensors: dict[str, Tensor | None] = {}
    with torch.no_grad():
        for declared in sorted(plan.program.tensors, key=lambda t: order.get(t.name, -1)):
            if declared.kind == "forward":
                continue
            for name, shape, source in _places(declared, plan, geometry, shapes):
                tensors[name] = None if shape is None else weight.new_zeros(shape, requires_grad=False)
                first, call = tensors[name], starts.get(declared.name)
                if first is None or call is None:
                    continue
                values.update(extents(first, source))
                with torch.device(place):
                    evaluate((call,), values)
                _fill(first, values[call.name])
                values[declared.name] = first
    return {_attribute(plan, name): tensor for name, tensor in tensors.items()}


def _places(
    declared: Declared, plan: Bound, geometry: linear.Linear, shapes: Shapes
) -> Iterator[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]]:
    """The name of a tensor, its shape (None where there is no use for it), and that of the source of a dense map."""
    rule = plan.program.rule
    far = "out" in declared.space or declared.name in plan.families
    unused = declared.feedback_only and far and not shapes.sends
    if declared.name not in plan.families:
        yield declared.name, None if unused else shape_of(declared, geometry, shapes, rule), None
        return
    if shapes.downstream is None or shapes.pre is None:
        raise UserError(
            f"{rule} has a map `{declared.name}` from every layer downstream",
            "give convert an example= of an input batch, from which it learns the order of the layers",
        )
    for index, source in enumerate(shapes.downstream.values()):
        yield f"{declared.name}_{index}", None if unused else (*source, *shapes.pre), source


def extents(tensor: Tensor, source: tuple[int, ...] | None = None) -> dict[str, Any]:
    """What a function that fills a tensor reads of it; `sources`, `targets`: synapses of a neuron on either side.

    source: the shape of the activity that a dense map starts from; left out, it is the map's first axis
    """
    shape = tuple(tensor.shape)
    axes = 1 if source is None else len(source)
    return {"shape": shape, "sources": prod(shape[:axes]), "targets": prod(shape[axes:])}


def shape_of(declared: Declared, geometry: linear.Linear, shapes: Shapes, rule: str) -> tuple[int, ...]:
    """The shape in which a tensor of the rule is stored (see `ruledsl.program.Tensor`)."""
    units = {"pre": (geometry.units_in,), "post": (geometry.units_out,), "out": (shapes.classes,)}
    activity = {"pre": shapes.pre, "post": shapes.post}
    match declared.space:
        case ():
            return ()
        case ("pre", "post") | ("post", "pre"):
            return geometry.kernel_shape
        case (space,) if units.get(space):
            return tuple(size for size in units[space] if size is not None)
        case ("out", space) | (space, "out") if space in activity and shapes.classes is not None:
            neurons = activity[space]
            if neurons is None:
                raise UserError(
                    f"{rule}: `{declared.name}` is a map between a convolution's neurons and the output, and their "
                    "number depends on the size of the images",
                    "give convert an example= of an input batch",
                )
            return (shapes.classes, *neurons)
    raise UserError(f"{rule}: a layer can't hold `{declared.name}`, {' -> '.join(declared.space)}")


def _attribute(plan: Bound, name: str) -> str:
    return name if name not in {tensor.name for tensor in plan.program.tensors} else plan.attribute(name)


def _fill(tensor: Tensor, value: Tensor | float) -> None:
    if isinstance(value, Tensor):
        tensor.copy_(value)
    else:
        tensor.fill_(value)
