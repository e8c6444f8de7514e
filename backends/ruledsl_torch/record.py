"""What a converted network knows beside its layers: `net.ruledsl`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.errors import UserError, suggest
from ruledsl.plan import IDLE, Plan
from ruledsl.program import TASK, Schedule

if TYPE_CHECKING:
    from ruledsl_torch.layers import RuleLayer
    from ruledsl_torch.routing import Optimizers


class Record:
    """The rules that a network follows.

    plan        the rule of all layers but, where it follows another one, the last
    layers      its weight layers by name, in the order in which they run where that is known
    skipped     what could not be converted, and why
    classes     the number of the network's outputs, or None where no rule asks for it
    phases      those of the current step; `phase` is the one that sees the batch in the next pass (see `steps`)
    travels     whether errors travel from layer to layer in that pass
    wire        during a forward pass, the zeros that are added to the output (see `direct`); otherwise None
    taps        during a forward pass, by layer, the zero that is added to its u; `evoking`: no errors will travel
    target      one-hot [batch, classes], for rules that read it
    step        how often `advance` was called; `epoch`: what `observe` was told, None before that
    clock       the scalars `step epoch progress lr` that functions read, as tensors: a compiled network
                takes them as inputs, where a Python number that changes would be compiled anew each time
    settings    in the same form, the values of those parameters of the rule that change while it learns
    optimizers  those that `ruledsl_torch.optimizers` made
    """

    def __init__(
        self, plan: Plan, classes: int | None, skipped: dict[str, str], generator: torch.Generator | None
    ) -> None:
        self.plan = plan
        self.layers: dict[str, RuleLayer] = {}
        self.skipped = skipped
        self.classes = classes
        self.generator = generator
        self.phases: tuple[str, ...] = (TASK,)
        self.phase = TASK
        self.travels = True
        self.wire: list[Tensor] | None = None
        self.taps: dict[str, Tensor] | None = None
        self.evoking = False
        self.target: Tensor | None = None
        self.clock: dict[str, Tensor] = {}
        self.settings: dict[str, Tensor] = {}
        self.optimizers: Optimizers | None = None
        self.step = 0
        self.epoch: float | None = None
        self._waiting: list[str] = []
        self._generators: dict[torch.device, torch.Generator] = {}

    @property
    def schedule(self) -> Schedule:
        """The rule's; where it has none, that of the last layer's rule."""
        schedules = [layer.plan.program.schedule for layer in self.layers.values()]
        return next((s for s in (self.plan.program.schedule, *schedules) if s != Schedule()), Schedule())

    @property
    def clocked(self) -> frozenset[str]:
        """The counters that rules and constraints read."""
        return frozenset(
            name for layer in self.layers.values() for plan in (layer.plan, *layer.constraints) for name in plan.clocked
        )

    def driven(self, phase: str) -> bool:
        """Whether every layer has an input of its own in this phase."""
        return any(phase in layer.plan.driven for layer in self.layers.values())

    @property
    def sees_batch(self) -> bool:
        """Whether the next pass is one of a phase that sees the batch. Where not, `advance` does all that there is."""
        return self.phase != IDLE

    def begin_step(self) -> None:
        """Find out what the current step consists of, and get ready for its first pass."""
        self.phases = phases_at(self.schedule, self.step, self.epoch)
        self._waiting = [phase for phase in self.phases if not self.driven(phase)]
        self.next_pass()

    def next_pass(self) -> bool:
        """Get ready for the next pass of this step; False where there is none."""
        self.enter(self._waiting[0] if self._waiting else IDLE)
        return bool(self._waiting and self._waiting.pop(0))

    def enter(self, phase: str) -> None:
        """The next pass is one of this phase."""
        self.phase = phase
        self.travels = any(layer.plan.travels(phase) for layer in self.layers.values())

    def tell(self, name: str, value: float) -> None:
        """A scalar of the clock; float64 with no dimension, so that it takes the other operand's type."""
        _set(self.clock, name, value)

    def change(self, name: str, value: float) -> None:
        """Give a parameter of the rule another value."""
        _set(self.settings, name, value)

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
            "settings": {k: float(v) for k, v in self.settings.items()},
            "generator": own,
            "others": generators,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.step = state["step"]
        for name, value in state["clock"].items():
            self.tell(name, value)
        for name, value in state.get("settings", {}).items():
            self.change(name, value)
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"])
        for name, random in state["others"].items():
            self._generators[torch.device(name)] = torch.Generator(name)
            self._generators[torch.device(name)].set_state(random)
        self.begin_step()


def phases_at(schedule: Schedule, step: int, epoch: float | None) -> tuple[str, ...]:
    """The phases of a step. Those of the `first` epochs are for a loop that tells the epoch."""
    end = 0.0
    for epochs, names in schedule.first:
        end += epochs
        if epoch is not None and epoch < end:
            return names
    return (schedule.alternate[step % len(schedule.alternate)],) if schedule.alternate else schedule.each


def _set(scalars: dict[str, Tensor], name: str, value: float) -> None:
    # float64 with no dimension, so that it takes the other operand's type
    if name in scalars:
        scalars[name].fill_(value)
    else:
        scalars[name] = torch.tensor(float(value), dtype=torch.float64)


def record_of(net: nn.Module) -> Record:
    """`net.ruledsl`; raises UserError for a network that was not converted."""
    record = getattr(getattr(net, "_orig_mod", net), "ruledsl", None)
    if not isinstance(record, Record):
        raise UserError(f"this {type(net).__name__} was not converted", "net = convert(net, rule) comes first")
    return record


def observe(net: nn.Module, *, target: Tensor | None = None, **scalars: float) -> None:
    """Tell a converted network what its rule reads beside activity; before the forward pass.

    target: class indices [batch] or one-hot [batch, classes]; scalars: `epoch`, `progress` (0 to 1), `lr`, and new
    values for parameters of the rule. A schedule's `first` epochs count by `epoch`, from 0; fractions are allowed.
    Those that no function reads are ignored. Raises UserError for other names or shapes.
    """
    record = record_of(net)
    clocked, parameters = record.clocked, record.plan.parameters
    for name, value in scalars.items():
        if name in parameters:
            record.change(name, value)
        elif name not in ("epoch", "progress", "lr"):
            help = suggest(name, parameters) or "it can observe target, epoch, progress, lr and the rule's parameters"
            raise UserError(f"a network can't observe `{name}`", help)
        elif name in clocked:
            record.tell(name, value)
    if record.optimizers is not None:
        record.optimizers.observe(**{name: scalars[name] for name in ("epoch", "progress") if name in scalars})
    if "epoch" in scalars:
        record.epoch = scalars["epoch"]
        if phases_at(record.schedule, record.step, record.epoch) != record.phases:
            record.begin_step()
    if target is not None and record.classes is not None:
        weight = next(iter(record.layers.values())).W
        if target.dim() == 1:
            target = F.one_hot(target.long(), record.classes)
        if target.dim() != 2 or target.shape[1] != record.classes:
            shape = list(target.shape)
            raise UserError(f"target has the shape {shape}, where [batch] or [batch, {record.classes}] was expected")
        record.target = target.detach().to(weight.device, weight.dtype)
