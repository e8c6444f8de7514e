"""What happens between two steps: everything of a rule that is no pseudo-gradient.

A step has one or more phases. The task, and other phases without `drive`, see the batch: each of them takes a forward
and a backward pass. Phases with `drive` take none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl.plan import VISITS, Bound, Call, evaluate, needed
from ruledsl_torch.initial import extents
from ruledsl_torch.layers import RuleLayer, target_of
from ruledsl_torch.record import Record, record_of

Stores = list[tuple[Tensor, Tensor | float]]
Gradients = list[tuple[str, Tensor, Tensor]]  # optimizer, parameter, pseudo-gradient


def advance(net: nn.Module) -> None:
    """After `optimizer.step()`: store what `<-` computed, run the driven phases and `after step`, draw `fresh` anew.

    Then the network is ready for the next step, in whichever phase that is: `net.ruledsl.phases`. A step in which
    several phases see the batch takes as many passes, with `advance` after each; the last one ends the step.
    Raises RuntimeError when the backward pass ran more than once since the last call, or went through a layer twice:
    the results of two passes have no place in one tensor. Raises UserError where a pseudo-gradient is meant for an
    optimizer of its own, and `ruledsl_torch.optimizers` made none.
    """
    record = record_of(net)
    end_pass(record)
    if record.next_pass():
        return
    for phase in record.phases:
        if record.driven(phase):
            run_phase(record, phase)
    end_step(record)
    record.begin_step()


def end_pass(record: Record) -> None:
    """Store what the `<-` of the pass computed."""
    layers = list(record.layers.items())
    with torch.no_grad():
        for name, layer in layers:
            _check_one_visit(name, layer)
            _check_optimizers(layer)
        for scalar in record.clocked:
            record.signal(scalar, 0)
        _store([entry for _, layer in layers for entry in _assigned(layer)])
        for _, layer in layers:
            _forget(layer)


def run_phase(record: Record, phase: str) -> None:
    """One step of a phase with `drive`: every layer gets an input of its own, and nothing propagates."""
    stores: Stores = []
    gradients: Gradients = []
    with torch.no_grad():
        for layer in record.layers.values():
            _run(layer, phase, stores, gradients)
    if gradients:
        if record.optimizers is None:
            raise UserError(
                f"{record.plan.program.rule} trains `by {gradients[0][0]}` in the phase {phase}, and nobody does so",
                "optimizer = ruledsl_torch.optimizers(net, task=...) makes every optimizer that the rule names",
            )
        record.optimizers.apply(gradients)
    _store(stores)


def end_step(record: Record) -> None:
    """`after step`, then the constraints, in order; `fresh` tensors and the counter."""
    with torch.no_grad():
        for layer in record.layers.values():
            for plan in (layer.plan, *layer.constraints):
                for phase in plan.after:
                    _store(_evaluated(layer, plan, plan.phases[phase], values_of(layer, plan), []))
        draw_fresh(record)
        record.step += 1
        if "step" in record.clock:
            record.tell("step", record.step)


def draw_fresh(record: Record) -> None:
    """New values for every `fresh` tensor, drawn on the device where it lives."""
    with torch.no_grad():
        for layer in record.layers.values():
            for plan in (layer.plan, *layer.constraints):
                for call in plan.draws:
                    _draw(layer, plan, call)


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


def _assigned(layer: RuleLayer) -> Stores:
    plan = layer.plan
    passed = plan.in_pass(layer.record.phase, layer.record.travels)
    stores: Stores = []
    for slot in passed.slots:
        target, holder = layer.tensor(target_of(slot)), layer.tensor(slot)
        if slot.startswith("next ") and target is not None and holder is not None and holder.grad is not None:
            stores.append((target, holder.grad))
    if passed.later:
        stores += _evaluated(layer, plan, needed(passed.later, passed.calls), values_of(layer, plan), [])
    return stores


def _run(layer: RuleLayer, phase: str, stores: Stores, gradients: Gradients) -> None:
    plan = layer.plan
    calls = plan.phases.get(phase, ())
    if not layer.sends:
        wanted = [c for c in calls if c.role in ("assign", "grad") and c.target not in plan.serves_sending]
        calls = tuple(c for c in calls if c.role == "drive" and wanted) + needed(wanted, calls)
    if not calls:
        return
    values = values_of(layer, plan)
    drives = [call for call in calls if call.role == "drive"]
    if drives:
        if layer.input_shape is None:
            raise UserError(f"{plan.program.rule} drives every layer", "give convert an example= of an input batch")
        values.update(shape=layer.input_shape, batch_size=layer.input_shape[0])
        with layer.weight.device:
            evaluate(drives, values)
        x = values[drives[0].name].to(layer.weight.dtype)
        values["x"] = x
        read = {name for call in calls for name in call.reads}
        if read & {"u", "y"}:  # mostly the functions compute it themselves, from W, b and x
            values["u"] = values["layer"].apply(layer.weight, x, layer.bias)
            values["y"] = values["u"] if layer.phi is None else layer.phi(values["u"])
    if "target" in plan.read and layer.record.target is not None:
        values["target"] = layer.record.target
    stores += _evaluated(layer, plan, calls, values, gradients)


def _evaluated(
    layer: RuleLayer, plan: Bound, calls: Iterable[Call], values: dict[str, Any], gradients: Gradients
) -> Stores:
    """Results of `<-`; those of `grad` are added to `gradients`."""
    holders: dict[str | None, Tensor | None] = {
        c.target: layer.tensor(plan.attribute(c.target)) for c in calls if c.target and c.role != "drive"
    }
    evaluate((c for c in calls if c.role == "term" or holders.get(c.target) is not None), values)
    stores: Stores = []
    for call in calls:
        target = holders.get(call.target)
        if call.role == "assign" and target is not None:
            stores.append((target, values[call.name]))
        elif call.role == "grad" and target is not None and target.requires_grad:
            gradients.append((call.optimizer, target, values[call.name].expand(target.shape)))
    return stores


def _store(entries: Stores) -> None:
    with torch.no_grad():
        for target, value in entries:
            if isinstance(value, Tensor):
                target.copy_(value)
            else:
                target.fill_(value)


def _check_one_visit(name: str, layer: RuleLayer) -> None:
    visits = layer.tensor(VISITS)
    if visits is not None and visits.grad is not None and float(visits.grad) != 1:
        assigned = ", ".join(target_of(slot) for slot in layer.plan.slots if slot.startswith("next "))
        raise RuntimeError(
            f"the backward pass went {visits.grad:.0f} times through layer {name!r} since the last advance(net), "
            f"and {layer.plan.program.rule} assigns {assigned} once per step: "
            "call advance(net) after each backward(), and use the layer once per forward pass"
        )


def _check_optimizers(layer: RuleLayer) -> None:
    for slot in layer.plan.slots:
        holder = layer.tensor(slot)
        target, by, optimizer = slot.partition(" by ")
        if by and holder is not None and holder.grad is not None and layer.record.optimizers is None:
            raise UserError(
                f"{layer.plan.program.rule} trains {target} by the task optimizer and `by {optimizer}`",
                "optimizer = ruledsl_torch.optimizers(net, task=...) keeps the two apart",
            )


def _forget(layer: RuleLayer) -> None:
    for slot in (*layer.plan.slots, VISITS):
        holder = layer.tensor(slot)
        if holder is not None:
            holder.grad = None


def _draw(layer: RuleLayer, plan: Bound, call: Call) -> None:
    assert call.target is not None
    attribute = plan.attribute(call.target)
    family = [f"{attribute}[{index}]" for index in range(len(layer.downstream))]
    for name in family if call.target in plan.families else [attribute]:
        target = layer.tensor(name)
        if target is not None:
            values = values_of(layer, plan)
            shape = layer.downstream[list(layer.downstream)[family.index(name)]] if name in family else None
            values.update(extents(target, shape))
            with target.device:
                evaluate((call,), values)
            target.copy_(values[call.name])


def _stand_in(layer: RuleLayer) -> Tensor | None:
    shape = layer.input_shape
    return None if shape is None else torch.empty(shape, device="meta")
