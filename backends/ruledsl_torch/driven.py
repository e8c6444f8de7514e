"""Phases with `drive`: every layer gets an input of its own, and nothing propagates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ruledsl.errors import UserError
from ruledsl.plan import Call, evaluate, needed
from ruledsl_torch.apart import Gradients, Stores, evaluated, store, values_of
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.record import Record

CPU = torch.device("cpu")
AT_ONCE = 8  # layers for which there is an input at the same time


def run_phase(record: Record, phase: str) -> None:
    """One step of the phase in all layers."""
    stores: Stores = []
    gradients: Gradients = []
    with torch.no_grad():
        for work in with_inputs(record, of_layers(record, phase)):
            stores += evaluated(work.layer, work.layer.plan, work.calls, work.values, gradients)
    if gradients:
        if record.optimizers is None:
            raise UserError(
                f"{record.plan.program.rule} trains `by {gradients[0][0]}` in the phase {phase}, and nobody does so",
                "optimizer = ruledsl_torch.optimizers(net, task=...) makes every optimizer that the rule names",
            )
        record.optimizers.apply(gradients)
    store(stores)


@dataclass
class Work:
    """What a layer computes in the phase, and what it reads."""

    layer: RuleLayer
    calls: tuple[Call, ...]
    values: dict[str, Any]


def of_layers(record: Record, phase: str) -> Iterator[Work]:
    """The layers that compute something in the phase."""
    for layer in record.layers.values():
        plan = layer.plan
        calls = plan.phases.get(phase, ())
        if not layer.sends:
            wanted = [c for c in calls if c.role in ("assign", "grad") and c.target not in plan.serves_sending]
            calls = tuple(c for c in calls if c.role == "drive" and wanted) + needed(wanted, calls)
        if calls and layer.input_shape is None:
            raise UserError(f"{plan.program.rule} drives every layer", "give convert an example= of an input batch")
        if calls:
            values = values_of(layer, plan)
            if "target" in plan.read and record.target is not None:
                values["target"] = record.target
            yield Work(layer, calls, values)


def with_inputs(record: Record, works: Iterable[Work]) -> Iterator[Work]:
    """Draw x for every layer.

    A processor draws with one thread per generator, and about as slowly as it convolves: several threads draw for as
    many layers at once, each with a generator of its own, whose seed follows from the network's. How many threads there
    are changes no number. Other devices need no help: they draw one layer after the other.
    """
    threads = min(torch.get_num_threads(), AT_ONCE)
    with ThreadPoolExecutor(threads) as pool:
        for group in _in_groups(works, threads):
            on_cpu = [work for work in group if work.layer.weight.device.type == "cpu"]
            for work in on_cpu:
                seed = torch.randint(2**62, (), generator=record.generator_on(CPU), device=CPU)
                work.values["generator"] = torch.Generator().manual_seed(int(seed))
            inputs = (pool.map if len(on_cpu) == len(group) else map)(_draw, group)
            for work, x in zip(group, inputs, strict=True):
                yield _ready(work, x)


def _ready(work: Work, x: Tensor) -> Work:
    layer, values = work.layer, work.values
    values["x"], values["batch_size"] = x, len(x)
    if {name for call in work.calls for name in call.reads} & {"u", "y"}:  # most functions compute them themselves
        values["u"] = values["layer"].apply(layer.weight, x, layer.bias)
        values["y"] = values["u"] if layer.phi is None else layer.phi(values["u"])
    return work


def _draw(work: Work) -> Tensor:
    drives = [call for call in work.calls if call.role == "drive"]
    with torch.no_grad(), work.layer.weight.device:
        drawn = evaluate(drives, {**work.values, "shape": work.layer.input_shape})
    return drawn[drives[0].name].to(work.layer.weight.dtype)  # type: ignore[no-any-return]


def _in_groups(works: Iterable[Work], size: int) -> Iterator[list[Work]]:
    """The same in lists of so many."""
    left = iter(works)
    while group := list(islice(left, size)):
        yield group
