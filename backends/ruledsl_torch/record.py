"""What a converted network knows beside its layers: `net.ruledsl`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.errors import UserError
from ruledsl.program import TASK

if TYPE_CHECKING:
    from ruledsl_torch.layers import RuleLayer


class Record:
    """The rules that a network follows.

    layers      its weight layers by name, in the order in which they run where that is known
    skipped     what could not be converted, and why
    classes     the number of the network's outputs, or None where no rule asks for it
    wire        during a forward pass, the zeros whose gradient is e (see `function`); otherwise None
    target      one-hot [batch, classes], for rules that read it
    step        how often `advance` was called
    clock       the scalars `step epoch progress lr` that functions read, as tensors: a compiled network
                takes them as inputs, where a Python number that changes would be compiled anew each time
    """

    def __init__(self, classes: int | None, skipped: dict[str, str], generator: torch.Generator | None) -> None:
        self.layers: dict[str, RuleLayer] = {}
        self.skipped = skipped
        self.classes = classes
        self.generator = generator
        self.wire: list[Tensor] | None = None
        self.target: Tensor | None = None
        self.clock: dict[str, Tensor] = {}
        self.step = 0
        self._generators: dict[torch.device, torch.Generator] = {}

    def received_by(self, optimizer: str = TASK) -> Iterator[nn.Parameter]:
        """The parameters whose pseudo-gradient is meant for an optimizer (`by align`); not those of other modules."""
        for layer in self.layers.values():
            for function in layer.plan.program.functions:
                if function.role == "grad" and function.optimizer == optimizer and function.target is not None:
                    parameter = layer.tensor(function.target)
                    if isinstance(parameter, nn.Parameter):
                        yield parameter

    def tell(self, name: str, value: float) -> None:
        """A scalar of the clock; float64 with no dimension, so that it takes the other operand's type."""
        if name in self.clock:
            self.clock[name].fill_(value)
        else:
            self.clock[name] = torch.tensor(float(value), dtype=torch.float64)

    def signal(self, name: str, batch: int) -> Tensor:
        """`target`, or a scalar of the clock. Raises UserError when it was not told."""
        if name == "target":
            if self.target is None or self.target.shape[0] != batch:
                got = "nothing" if self.target is None else f"a target for {self.target.shape[0]} examples"
                raise UserError(
                    f"the rule reads target, and the network was told {got} for this batch of {batch}",
                    "call observe(net, target=labels) before each forward pass",
                )
            return self.target
        if name not in self.clock:
            raise UserError(f"the rule reads {name}, which the network was not told", f"call observe(net, {name}=...)")
        return self.clock[name]

    def generator_on(self, device: torch.device) -> torch.Generator | None:
        """The source of randomness on a device, derived from the one that `convert` was given."""
        if self.generator is None or device.type == self.generator.device.type:
            return self.generator
        if device not in self._generators:
            seed = int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))
            self._generators[device] = torch.Generator(device).manual_seed(seed)
        return self._generators[device]

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the module's state_dict: counters and random states."""
        generators = {str(device): generator.get_state() for device, generator in self._generators.items()}
        own = None if self.generator is None else self.generator.get_state()
        return {
            "step": self.step,
            "clock": {k: float(v) for k, v in self.clock.items()},
            "generator": own,
            "others": generators,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.step = state["step"]
        for name, value in state["clock"].items():
            self.tell(name, value)
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"])
        for name, random in state["others"].items():
            self._generators[torch.device(name)] = torch.Generator(name)
            self._generators[torch.device(name)].set_state(random)


def record_of(net: nn.Module) -> Record:
    """`net.ruledsl`; raises UserError for a network that was not converted."""
    record = getattr(getattr(net, "_orig_mod", net), "ruledsl", None)
    if not isinstance(record, Record):
        raise UserError(f"this {type(net).__name__} was not converted", "net = convert(net, rule) comes first")
    return record


def observe(net: nn.Module, *, target: Tensor | None = None, **scalars: float) -> None:
    """Tell a converted network what its rule reads beside activity; before the forward pass.

    target: class indices [batch] or one-hot [batch, classes]; scalars: `epoch`, `progress` (0 to 1), `lr`.
    Those that no function reads are ignored. Raises UserError for other names or shapes.
    """
    record = record_of(net)
    for name, value in scalars.items():
        if name not in ("epoch", "progress", "lr"):
            raise UserError(f"a network can't observe `{name}`", "it can observe target, epoch, progress and lr")
        if any(name in layer.plan.clocked for layer in record.layers.values()):
            record.tell(name, value)
    if target is not None and record.classes is not None:
        weight = next(iter(record.layers.values())).W
        if target.dim() == 1:
            target = F.one_hot(target.long(), record.classes)
        if target.dim() != 2 or target.shape[1] != record.classes:
            shape = list(target.shape)
            raise UserError(f"target has the shape {shape}, where [batch] or [batch, {record.classes}] was expected")
        record.target = target.detach().to(weight.device, weight.dtype)
