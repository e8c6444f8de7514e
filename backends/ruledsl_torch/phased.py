"""Layers whose phases teach different tensors: the others rest in a step. Standalone files have it from here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from ruledsl.ir.phases import TASK
from ruledsl_torch.hooks import Plan, listen
from ruledsl_torch.plain import PlainLayer, Unconnected


class PhasedLayer(PlainLayer):
    """A layer of which the phases of a rule teach different tensors."""

    def follow(self, generator: Any = None, **facts: Any) -> Self:
        """See `PlainLayer.follow`."""
        super().follow(generator, **facts)
        listen(self, rest)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        listen(self, rest)

    def due(self) -> Iterator[Any]:
        """What counts in the present step; nothing in those of `optimizers`, whose gradients are complete."""
        free = isinstance(self.network, Unconnected)
        phase = TASK if free else self.network.phase
        if free or not self.network.stepping:
            yield from (once for once in super().due() if once.phase == phase)  # type: ignore[misc]


def rest(optimizer: torch.optim.Optimizer, plan: Plan) -> None:
    """The parameters for which a phase has no pseudo-gradient stay as they are in its step."""
    for parameter in list(untaught(plan)):
        if parameter.grad is not None:
            plan.change(parameter, None)


def untaught(plan: Plan) -> Iterator[Tensor]:
    """The parameters for which a phase has no pseudo-gradient, in networks whose phases teach different ones."""
    networks = {id(layer.network): layer.network for layer in plan.layers if layer.teaches is not None}
    for network in networks.values():
        if isinstance(network, Unconnected) or network.stepping:
            continue
        now, ever = taught_by(network)
        for key, parameter in plan.own.items():
            if key not in now and (key in ever or not network.travels):
                yield parameter


def taught_by(network: Any) -> tuple[set[int], set[int]]:
    """The ids of what has a pseudo-gradient in the present phase of a network, and in any."""
    now: set[int] = set()
    ever: set[int] = set()
    for layer in network.layers.values():
        beside = dict(layer.beside)
        for taught in layer.teaches or ():
            ids = {id(layer.held(beside.get(name, name))) for name in taught.tensors}
            ever |= ids
            now |= ids if taught.phase == network.phase else set()
    return now, ever
