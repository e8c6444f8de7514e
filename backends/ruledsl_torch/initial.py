"""The first values of a rule's tensors in one layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl.program import Tensor as Declared
from ruledsl_torch import linear
from ruledsl_torch.layers import Phi, activation, scalars
from ruledsl_torch.plan import Plan, evaluate


@dataclass(frozen=True)
class Shapes:
    """The sizes of the three spaces: classes, [*pre] and [*post] of an activity without its batch; None is unknown.

    sends   False where the layer is known to send to nobody
    """

    classes: int | None
    pre: tuple[int, ...] | None
    post: tuple[int, ...] | None
    sends: bool


def initial_tensors(
    plan: Plan,
    layer: nn.Linear | nn.Conv2d,
    shapes: Shapes,
    phi: Phi | None,
    generator: torch.Generator | None,
) -> dict[str, Tensor | None]:
    """By name, in the type of the layer's weight and where that is; drawn on the generator's device (the CPU).

    None for a map from `out` in a layer that sends to nobody: over an image it can be larger than the whole network.
    """
    geometry = linear.linear_map(layer)
    weight, bias = layer.weight, layer.bias
    values: dict[str, Any] = scalars(plan, geometry, shapes.classes) | activation(phi)
    values.update(W=weight.detach(), layer=geometry, generator=generator)
    values["b"] = weight.new_zeros(geometry.units_out) if bias is None else bias.detach()
    values.update(dict.fromkeys(plan.clocked, 0.0))
    place = weight.device if generator is None else generator.device
    tensors: dict[str, Tensor | None] = {}
    with torch.no_grad():
        for declared in plan.program.tensors:
            if declared.kind == "forward":
                continue
            unused = declared.feedback_only and "out" in declared.space and not shapes.sends
            tensors[declared.name] = None
            if not unused:
                shape = shape_of(declared, geometry, shapes, plan.program.rule)
                tensors[declared.name] = weight.new_zeros(shape, requires_grad=False)
        for call in plan.starts:
            first = tensors.get(call.target or "")
            if first is None:
                continue
            values.update(extents(first))
            with torch.device(place):
                evaluate((call,), values)
            _fill(first, values[call.name])
            values[call.target or ""] = first
    return tensors


def extents(tensor: Tensor) -> dict[str, Any]:
    """What a function that fills a tensor reads of it; `sources`, `targets`: synapses of a neuron on either side."""
    shape = tuple(tensor.shape)
    return {"shape": shape, "sources": shape[0] if shape else 1, "targets": prod(shape[1:])}


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


def _fill(tensor: Tensor, value: Tensor | float) -> None:
    if isinstance(value, Tensor):
        tensor.copy_(value)
    else:
        tensor.fill_(value)
