"""Functions of a rule that run apart from the network's passes: what they read, and where their results go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ruledsl.plan import Bound, Call, evaluate
from ruledsl_torch.layers import RuleLayer

Stores = list[tuple[Tensor, Tensor | float]]
Gradients = list[tuple[str, Tensor, Tensor]]  # optimizer, parameter, pseudo-gradient


def values_of(layer: RuleLayer, plan: Bound) -> dict[str, Any]:
    """All that functions outside of a forward pass can read: tensors, scalars, parameters, the linear map."""
    record = layer.record
    geometry = layer.geometry(_stand_in(layer))
    values = layer.constants(geometry) | plan.parameters
    if plan is record.plan:
        values |= record.settings
    values.update(layer=geometry, generator=record.generator_on(layer.weight.device))
    values.update({t.name: layer.tensor(plan.attribute(t.name)) for t in plan.program.tensors})
    values["W"], values["b"] = layer.weight, layer.bias
    if layer.bias is None:
        values["b"] = layer.weight.new_zeros(geometry.units_out)
    values.update({name: record.clock[name] for name in plan.clocked if name in record.clock})
    return values


def evaluated(
    layer: RuleLayer, plan: Bound, calls: Iterable[Call], values: dict[str, Any], gradients: Gradients
) -> Stores:
    """Results of `<-`; those of `grad` are added to `gradients`. None of them is a tensor that will be moved itself."""
    holders: dict[str | None, Tensor | None] = {
        c.target: layer.tensor(plan.attribute(c.target)) for c in calls if c.target and c.role != "drive"
    }
    evaluate((c for c in calls if c.role == "term" or holders.get(c.target) is not None), values)
    stores: Stores = []
    for call in calls:
        target = holders.get(call.target)
        if call.role == "assign" and target is not None:
            stores.append((target, independent(call.name, values)))
        elif call.role == "grad" and target is not None and target.requires_grad:
            gradients.append((call.optimizer, target, independent(call.name, values).expand(target.shape)))
    return stores


def independent(name: str, values: Mapping[str, Any]) -> Any:
    """A result; a copy where it shares its memory with something that was read, as that of `A <- B` does."""
    value = values[name]
    if not isinstance(value, Tensor):
        return value
    place = value.untyped_storage().data_ptr()
    others = (other for key, other in values.items() if key != name and isinstance(other, Tensor))
    return value.clone() if any(other.untyped_storage().data_ptr() == place for other in others) else value


def store(entries: Stores) -> None:
    """Every value into its tensor; a number fills it."""
    with torch.no_grad():
        for target, value in entries:
            if isinstance(value, Tensor):
                target.copy_(value)
            else:
                target.fill_(value)


def _stand_in(layer: RuleLayer) -> Tensor | None:
    shape = layer.input_shape
    return None if shape is None else torch.empty(shape, device="meta")
