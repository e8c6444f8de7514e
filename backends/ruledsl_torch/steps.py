"""What happens between two steps: everything of a rule that is no pseudo-gradient.

A step has one or more phases. The task, and other phases without `drive`, see the batch: each of them takes a forward
and a backward pass. Phases with `drive` take none.
"""

from __future__ import annotations

import torch
from torch import nn

from ruledsl.errors import UserError
from ruledsl.plan import VISITS, Bound, Call, evaluate, needed
from ruledsl_torch.apart import Stores, evaluated, store, values_of
from ruledsl_torch.driven import run_phase
from ruledsl_torch.initial import extents
from ruledsl_torch.layers import RuleLayer, target_of
from ruledsl_torch.record import Record, record_of


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
        store([entry for _, layer in layers for entry in _assigned(layer)])
        for _, layer in layers:
            _forget(layer)


def end_step(record: Record) -> None:
    """`after step`, then the constraints, in order; `fresh` tensors and the counter."""
    with torch.no_grad():
        for layer in record.layers.values():
            for plan in (layer.plan, *layer.constraints):
                for phase in plan.after:
                    store(evaluated(layer, plan, plan.phases[phase], values_of(layer, plan), []))
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


def _assigned(layer: RuleLayer) -> Stores:
    plan = layer.plan
    passed = plan.in_pass(layer.record.phase, layer.record.travels)
    stores: Stores = []
    for slot in passed.slots:
        target, holder = layer.tensor(target_of(slot)), layer.tensor(slot)
        if slot.startswith("next ") and target is not None and holder is not None and holder.grad is not None:
            stores.append((target, holder.grad))
    if passed.later:
        stores += evaluated(layer, plan, needed(passed.later, passed.calls), values_of(layer, plan), [])
    return stores


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
