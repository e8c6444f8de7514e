"""What happens between two steps: everything of a rule that is no pseudo-gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.program import AFTER_STEP
from ruledsl_torch.initial import extents
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.plan import VISITS, Call, evaluate
from ruledsl_torch.record import Record, record_of

Stores = list[tuple[Tensor, Tensor | float]]


def advance(net: nn.Module) -> None:
    """After `optimizer.step()`: store what `<-` computed, run the driven phases and `after step`, draw `fresh` anew.

    Results of one phase are stored together. Phases that run alone in the first epochs are for the loop to run, by
    `run_phase`. Raises RuntimeError when the backward pass ran more than once since
    the last call, or went through a layer twice: the results of two passes have no place in one tensor.
    """
    record = record_of(net)
    layers = list(record.layers.items())
    with torch.no_grad():
        for name, layer in layers:
            _check_one_visit(name, layer)
            for scalar in layer.plan.clocked:
                record.signal(scalar, 0)
        _store(entry for _, layer in layers for entry in _task_results(layer))
        for _, layer in layers:
            _forget(layer)
        for phase in dict.fromkeys(phase for _, layer in layers for phase in layer.plan.driven):
            run_phase(net, phase)
        _store(entry for _, layer in layers for entry in _results(layer, AFTER_STEP))
        draw_fresh(record)
        record.step += 1
        if "step" in record.clock:
            record.tell("step", record.step)


def run_phase(net: nn.Module, phase: str) -> None:
    """One step of a phase with `drive`: every layer gets an input of its own, and nothing propagates.

    Assigned tensors are stored; pseudo-gradients go to `.grad`, for the optimizer that the rule names.
    """
    record = record_of(net)
    with torch.no_grad():
        _store([entry for layer in record.layers.values() for entry in _results(layer, phase)])


def draw_fresh(record: Record) -> None:
    """New values for every `fresh` tensor, drawn on the device where it lives."""
    with torch.no_grad():
        for layer in record.layers.values():
            for call in layer.plan.draws:
                _draw(layer, call)


def values_of(layer: RuleLayer) -> dict[str, Any]:
    """All that functions outside of a forward pass can read: tensors, scalars, parameters, the linear map."""
    record = layer.record
    geometry = layer.geometry(_stand_in(layer))
    values = layer.constants(geometry)
    values.update(layer=geometry, generator=record.generator_on(layer.weight.device))
    values.update({name: layer.tensor(name) for name in (t.name for t in layer.plan.program.tensors)})
    values["W"], values["b"] = layer.weight, layer.bias
    if layer.bias is None:
        values["b"] = layer.weight.new_zeros(geometry.units_out)
    values.update({name: record.clock[name] for name in layer.plan.clocked if name in record.clock})
    return values


def _task_results(layer: RuleLayer) -> Stores:
    stores: Stores = []
    for slot in layer.plan.slots:
        target, holder = layer.tensor(slot.removeprefix("next ")), layer.tensor(slot)
        if target is not None and holder is not None and holder.grad is not None:
            stores.append((target, holder.grad))
    return stores + _evaluated(layer, layer.plan.needed(layer.plan.later), values_of(layer) if layer.plan.later else {})


def _results(layer: RuleLayer, phase: str) -> Stores:
    calls = layer.plan.phases.get(phase)
    if not calls:
        return []
    values = values_of(layer)
    drives = [call for call in calls if call.role == "drive"]
    if drives:
        assert layer.input_shape is not None
        values.update(shape=layer.input_shape, batch_size=layer.input_shape[0])
        with layer.weight.device:
            evaluate(drives, values)
        x = values[drives[0].name].to(layer.weight.dtype)
        values.update(x=x, u=values["layer"].forward(x, layer.weight, layer.bias))
        if layer.phi is not None:
            values["y"] = layer.phi(values["u"])
    return _evaluated(layer, [call for call in calls if call.role in ("term", "assign", "grad")], values)


def _evaluated(layer: RuleLayer, calls: Iterable[Call], values: dict[str, Any]) -> Stores:
    """Results of `<-`; those of `grad` are added to `.grad`."""
    calls = [call for call in calls if call.role == "term" or layer.tensor(call.target or "") is not None]
    evaluate(calls, values)
    stores: Stores = []
    for call in calls:
        target = layer.tensor(call.target) if call.target else None
        if call.role == "assign" and target is not None:
            stores.append((target, values[call.name]))
        elif call.role == "grad" and target is not None and target.requires_grad:
            gradient = values[call.name].expand(target.shape)
            target.grad = gradient.clone() if target.grad is None else target.grad + gradient
    return stores


def _store(entries: Iterable[tuple[Tensor, Tensor | float]]) -> None:
    for target, value in list(entries):
        if isinstance(value, Tensor):
            target.copy_(value)
        else:
            target.fill_(value)


def _check_one_visit(name: str, layer: RuleLayer) -> None:
    visits = layer.tensor(VISITS)
    if visits is not None and visits.grad is not None and float(visits.grad) != 1:
        assigned = ", ".join(slot.removeprefix("next ") for slot in layer.plan.slots)
        raise RuntimeError(
            f"the backward pass went {visits.grad:.0f} times through layer {name!r} since the last advance(net), "
            f"and {layer.plan.program.rule} assigns {assigned} once per step: "
            "call advance(net) after each backward(), and use the layer once per forward pass"
        )


def _forget(layer: RuleLayer) -> None:
    for slot in (*layer.plan.slots, VISITS):
        holder = layer.tensor(slot)
        if holder is not None:
            holder.grad = None


def _draw(layer: RuleLayer, call: Call) -> None:
    target = layer.tensor(call.target or "")
    if target is not None:
        values = values_of(layer)
        values.update(extents(target))
        with target.device:
            evaluate((call,), values)
        target.copy_(values[call.name])


def _stand_in(layer: RuleLayer) -> Tensor | None:
    shape = layer.input_shape
    return None if shape is None else torch.empty(shape, device="meta")
