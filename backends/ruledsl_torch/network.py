"""What the layers of one network share. What happens between two steps is in `ruledsl_torch.steps`.

A step has one or more phases. The task, and other phases without `drive`, see the batch: each of them takes a forward
and a backward pass. In phases with `drive` every layer has an input of its own, and there is no pass.

Standalone files have it from here, so it says no more than their own `convert` needs: what else `ruledsl_torch.convert`
takes care of is in `ruledsl_torch.converted`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.errors import UserError
from ruledsl.ir.phases import TASK, Schedule
from ruledsl_torch.plain import Driven, PlainLayer

IDLE = ""  # the phase of a pass in which no layer computes anything
CPU = torch.device("cpu")
TOLD = ("epoch", "progress", "lr")


class Running(threading.local):
    """What the layers of a network and its forward pass leave for each other; every thread has its own pass.

    output       the perturbations (zeros) that are added to the network's logits; None where no pass is under way
    taps         by layer, the perturbation that is added to its u
    evoking      while no errors will travel, the phase of the pass; otherwise None
    """

    def __init__(self) -> None:
        self.output: list[Tensor] | None = None
        self.taps: dict[str, Tensor] | None = None
        self.evoking: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Running, ()  # a copy of a network is not in the middle of a pass


class NetworkState:
    """`net.ruledsl`: what the layers of a network share.

    layers       its weight layers by name, in the order in which they run where that is known
    skipped      what could not be converted, and why
    classes      the number of the network's outputs, or None where no rule asks for it
    phases       those of the current step; `phase` is the one that sees the batch in the next pass
    travels      whether errors travel from layer to layer in that pass
    running      what the layers leave for each other during a forward pass
    tapped       the layers whose delta other layers read
    target       one-hot [batch, classes], for rules that read it
    observed     how often it was told
    step         how often `advance` was called; `epoch`: what `observe` was told, None before that
    clock        the scalars `step epoch progress lr` that functions read, as tensors: a compiled network takes them as
                 inputs, where a Python number that changes would be compiled anew each time
    settings     in the same form, the values of those parameters of the rule that change while it learns
    optimizers   those that `optimizers` made
    stepping     whether one of these steps, with pseudo-gradients that are complete
    """

    def __init__(
        self, rule: str, layers: dict[str, PlainLayer], classes: int | None, generator: torch.Generator | None
    ) -> None:
        self.rule, self.layers, self.classes, self.generator = rule, layers, classes, generator
        self.skipped: dict[str, str] = {}
        self.phases: tuple[str, ...] = (TASK,)
        self.phase = TASK
        self.travels = True
        self.running = Running()
        self.tapped: frozenset[str] = frozenset()
        self.target: Tensor | None = None
        self.observed = 0
        self.clock: dict[str, Tensor] = {}
        self.settings: dict[str, Tensor] = {}
        self.optimizers: Any = None
        self.stepping = False
        self.step = 0
        self.epoch: float | None = None
        self._waiting: list[str] = []
        self._generators: dict[torch.device, torch.Generator] = {}

    @property
    def schedule(self) -> Schedule:
        """That of the rule; where it has none, that of another layer's rule."""
        first = sorted(self.layers.values(), key=lambda layer: layer.rule != self.rule)
        return next((layer.schedule for layer in first if layer.schedule != Schedule()), Schedule())

    @property
    def clocked(self) -> frozenset[str]:
        """The counters that rules read."""
        return frozenset(name for layer in self.layers.values() for name in layer.clocked)

    def driven(self, phase: str) -> bool:
        """Whether every layer has an input of its own in this phase."""
        return any(layer.drive(phase) for layer in self.layers.values())

    @property
    def sees_batch(self) -> bool:
        """Whether the next pass is one of a phase that sees the batch. Where not, `advance` does all that there is."""
        return self.phase != IDLE

    # --- the passes of a step ---

    def begin_step(self) -> None:
        """Find out what the current step consists of, and get ready for its first pass."""
        self.phases = self.schedule.phases(self.step, self.epoch)
        self._waiting = [phase for phase in self.phases if not self.driven(phase)]
        self.next_pass()

    def next_pass(self) -> bool:
        """Get ready for the next pass of this step; False where there is none."""
        self.enter(self._waiting[0] if self._waiting else IDLE)
        return bool(self._waiting and self._waiting.pop(0))

    def enter(self, phase: str) -> None:
        """The next pass is one of this phase."""
        self.phase = phase
        self.travels = phase == TASK or any(phase in layer.with_errors for layer in self.layers.values())

    # --- what layers ask for, and bring ---

    def told(self, name: str) -> Tensor:
        """A scalar of the clock. Raises UserError when it was not told."""
        if name not in self.clock:
            raise UserError(f"the rule reads {name}, which the network was not told", f"call observe(net, {name}=...)")
        return self.clock[name]

    def target_of(self, x: Tensor) -> Tensor:
        """The target of a batch. Raises UserError when it was not told, or told for another batch."""
        target = self.target_rows()
        shared = not x.is_floating_point()  # indices, which are sent nothing, may be the same for all examples
        if target is None or (len(target) != len(x) and not shared):
            got = "nothing" if target is None else f"a target for {len(target)} examples"
            raise UserError(
                f"the rule reads target, and the network was told {got} for this batch of {len(x)}",
                "call observe(net, target=labels) before each forward pass",
            )
        return target

    @property
    def evoking(self) -> str | None:
        """During a forward pass in which no errors will travel, its phase; otherwise None."""
        return self.running.evoking

    def perturb_output(self, zero: Tensor) -> None:
        """Have a zero added to the logits: its gradient is the error there. No error comes by a zero of integers."""
        if self.running.output is None:
            self.outside(zero)
        elif zero.is_floating_point():
            self.running.output.append(zero)

    def arriving(self, downstream: Iterable[str]) -> list[Tensor | None]:
        """The perturbations of layers downstream that layers before this one have made, to be handed on."""
        if self.running.taps is None:
            self.outside()
            return [None for _ in downstream]
        return [self.running.taps.get(path) for path in downstream]

    def hand_on(self, downstream: Iterable[str], zeros: Sequence[Tensor]) -> None:
        """Perturbations for the u of layers downstream: the gradient of each is that layer's delta."""
        if self.running.taps is None:
            self.outside(*zeros)
        else:
            self.running.taps.update(zip(downstream, zeros, strict=True))

    def perturbed(self, path: str, u: Tensor) -> Tensor:
        """u, and the perturbation whose gradient tells the layers before this one what its error is."""
        if self.running.taps is None:
            if path in self.tapped:
                self.outside(u)
            return u
        tap = self.running.taps.pop(path, None)
        if tap is None:
            return u
        if tap.shape != u.shape:
            raise UserError(
                f"the activity of {path} is {list(u.shape)}, and that of the example was {list(tap.shape)}",
                f"{self.rule} has a map for every neuron: convert with an example of the right size",
            )
        return u + tap

    @property
    def followers(self) -> list[PlainLayer]:
        """The layers of the network's rule; all of them where each has one by its name."""
        own = [layer for layer in self.layers.values() if layer.rule == self.rule]
        return own or list(self.layers.values())

    def outside(self, *outputs: Tensor) -> None:
        """A layer that reads errors from far away runs, and no forward pass of the whole network is under way.

        Checkpointing runs it a second time during the backward pass. Without reentry only what the first run saved is
        wanted, and the zeros of that run are in the graph. With reentry the second run is differentiated, and its zeros
        are in no graph: that raises UserError then, and running a part of the network alone does so at once.
        """
        if torch._C._current_graph_task_id() == -1:
            raise UserError(
                f"{self.rule} reads errors from other layers, and this layer ran outside the forward pass of the "
                "converted network",
                "call the whole network; for activity alone, with torch.no_grad(); or convert the part that you call",
            )
        for output in outputs:
            if output.grad_fn is not None:
                output.grad_fn.register_prehook(self._refuse_reentry)

    def _refuse_reentry(self, errors: Any) -> None:
        raise UserError(
            f"{self.rule} reads errors from other layers, which do not reach a layer that a reentrant checkpoint runs",
            "checkpoint(..., use_reentrant=False), or checkpoint the whole network",
        )

    def tell(self, name: str, value: float) -> None:
        """A scalar of the clock."""
        _set(self.clock, name, value)

    def change(self, name: str, value: float, among: frozenset[str] | None = None) -> None:
        """Give a parameter of the rule another value; `among`: in these layers alone, by name."""
        _set(self.settings, name, value)
        for layer in self.followers:
            if name in layer.hyperparameters and (among is None or layer.path in among):
                layer.__dict__[name] = self.settings[name]

    def generator_on(self, device: torch.device) -> torch.Generator | None:
        """The source of randomness on a device, derived from the one that `convert` was given."""
        if self.generator is None or device.type == self.generator.device.type:
            return self.generator
        if device not in self._generators:
            seed = int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))
            self._generators[device] = torch.Generator(device).manual_seed(seed)
        return self._generators[device]

    # --- what depends on more than layers ---

    def first_source(self, path: str) -> Any:
        """What the first values of a layer are drawn from."""
        return self.generator

    def source(self, layer: PlainLayer) -> Any:
        """What a layer draws from in this step."""
        return self.generator_on(layer.stored.device)

    def become(self, module: nn.Module, kind: type[nn.Module]) -> None:
        """Make a module one of another class, in place."""
        module.__class__ = kind

    def with_errors(self, output: Any, zeros: Sequence[Tensor]) -> Any:
        """The output of a pass in which errors travel: logits, and perturbations, each for the errors of one layer.

        Raises UserError for what is no logits [batch, classes].
        """
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if len(shape) > 2 or shape[-1:] != [self.classes]:
            raise UserError(f"the network's output is {shape}, where logits [batch, {self.classes}] were expected")
        for zero in zeros:
            output = output + (zero if zero.dim() == output.dim() else zero[0]).to(output)
        return output

    def evoked(self, output: Any, zeros: Sequence[Tensor]) -> Any:
        """The output of a pass in which no errors travel: a backward pass from it comes by every layer."""
        for zero in zeros or [output.new_zeros((), requires_grad=True)]:  # nothing to compute is no error all the same
            output = output + zero.to(output)
        return output

    def one_hot(self, target: Tensor) -> Tensor:
        """A target in the shape of the logits. Raises UserError for one of another shape."""
        return one_hot(target, self.classes or 0)

    def target_rows(self) -> Tensor | None:
        """The target, example by example: [examples, classes]"""
        return self.target

    def together(self, results: Sequence[Any]) -> Sequence[Any]:
        """Next values and pseudo-gradients, of all processes that share a batch."""
        return results

    def forget_pass(self) -> None:
        """What a pass has left is stored."""

    def draw(self, layer: PlainLayer, drive: Driven, source: Any) -> Tensor:
        """An input for a phase with `drive`."""
        return drive.draw(layer, source)

    def draw_fresh(self, layer: PlainLayer, source: Any) -> None:
        """Draw what is fresh at every step."""
        layer.draw_fresh(source)

    # --- checkpoints ---

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the module's state_dict: counters and random states."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "passes": (self.phase, *self._waiting),
            "clock": {k: float(v) for k, v in self.clock.items()},
            "settings": {k: float(v) for k, v in self.settings.items()},
            "generator": None if self.generator is None else self.generator.get_state(),
            "others": {str(device): generator.get_state() for device, generator in self._generators.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.step, self.epoch = state["step"], state.get("epoch", self.epoch)
        for name, value in state["clock"].items():
            self.tell(name, value)
        for name, value in state.get("settings", {}).items():
            self.change(name, value)
        if self.generator is not None and state.get("generator") is not None:
            self.generator.set_state(state["generator"])
        for name, random in state.get("others", {}).items():
            self._generators[torch.device(name)] = torch.Generator(name)
            self._generators[torch.device(name)].set_state(random)
        self.begin_step()
        if "passes" in state:  # those of the step that were still to come
            self._waiting = list(state["passes"])
            self.next_pass()


def _set(scalars: dict[str, Tensor], name: str, value: float) -> None:
    if name in scalars:
        scalars[name].fill_(value)
    else:  # float64 with no dimension, so that it takes the other operand's type
        scalars[name] = torch.tensor(float(value), dtype=torch.float64, device=CPU)


def inner(net: nn.Module) -> nn.Module:
    """The network inside those that wrap it: for several devices or processes, or compiled; in any order."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(getattr(net, "_orig_mod", None), nn.Module):
            net = net._orig_mod  # type: ignore[assignment]
        else:
            return net


def state_of(net: nn.Module) -> NetworkState:
    """`net.ruledsl`; raises UserError for a network that was not converted."""
    state = getattr(inner(net), "ruledsl", None)
    if not isinstance(state, NetworkState):
        inside = _converted_inside(net)
        if inside:
            raise UserError(
                f"this {type(net).__name__} was not converted, and what is in it was: call this for each part",
                f"with {' and with '.join(inside)}",
            )
        if isinstance(net, nn.Module) and any(isinstance(module, PlainLayer) for module in net.modules()):
            raise UserError(
                f"this {type(net).__name__} was not converted: its layers are those of a network that was",
                "call this with the network that convert returned",
            )
        raise UserError(f"this {type(net).__name__} was not converted", "net = convert(net, rule) comes first")
    return state


def _converted_inside(net: object) -> list[str]:
    """The converted networks that a module stands around, as one writes them."""
    named = inner(net).named_modules() if isinstance(net, nn.Module) else ()
    found = [name for name, module in named if isinstance(getattr(module, "ruledsl", None), NetworkState)]
    outermost = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    return [f"net.get_submodule({name!r})" if _indexed(name) else f"net.{name}" for name in outermost]


def _indexed(name: str) -> bool:
    return not all(part.isidentifier() for part in name.split("."))


def observe(net: nn.Module, *, target: Tensor | None = None, **scalars: float) -> None:
    """Tell a converted network what its rule reads beside activity; before the forward pass.

    target: class indices [batch] or one-hot [batch, classes]; for logits [batch, *positions, classes] with the same
    positions. A negative index stands for no class. scalars: `epoch`, `progress` (0 to 1), `lr`, and new values for
    parameters of the rule; where all layers got theirs by name, in each that has such a parameter. A schedule's `first`
    epochs count by `epoch`, from 0; fractions are allowed.
    Those that no function reads are ignored. Raises UserError for other names or shapes.
    """
    network = state_of(net)
    if target is not None and not isinstance(target, Tensor):
        raise UserError(
            f"target is {type(target).__name__}, where a tensor was expected",
            "observe(net, target=torch.as_tensor(labels))",
        )
    for name, value in scalars.items():
        if not isinstance(value, Real | Tensor):
            raise UserError(f"{name} is {value!r}, which is no number")
    parameters = tuple(dict.fromkeys(name for layer in network.followers for name in layer.hyperparameters))
    clocked = network.clocked
    for name, value in scalars.items():
        if name in parameters:
            network.change(name, value)
        elif name not in TOLD:
            raise UserError(f"a network can't observe `{name}`", _near(name, (*parameters, "target", *TOLD)))
        elif name in clocked:
            network.tell(name, value)
    if network.optimizers is not None:
        network.optimizers.observe(**{name: scalars[name] for name in ("epoch", "progress") if name in scalars})
    if "epoch" in scalars:
        network.epoch = scalars["epoch"]
        if network.schedule.phases(network.step, network.epoch) != network.phases:
            network.begin_step()
    if target is not None and network.classes is not None:
        weight = next(iter(network.layers.values())).stored
        network.observed += 1
        network.target = network.one_hot(target).detach().to(weight.device, weight.dtype)


def one_hot(target: Tensor, classes: int, axes: int = 2) -> Tensor:
    """A target in the shape of the logits, which have so many axes. Raises UserError where it has another shape."""
    if target.dim() == axes - 1:
        indices = target.long()
        if target.is_floating_point():
            raise UserError(
                f"target is {list(target.shape)} of {target.dtype}, and the indices of classes are whole numbers",
                f"target.long(); or, where there are no classes, values in the shape of the logits, [..., {classes}]",
            )
        try:
            return F.one_hot(indices.clamp(min=0), classes) * (indices >= 0).unsqueeze(-1)
        except RuntimeError as error:
            raise UserError(
                f"target names a class that is not among the {classes} of the network's logits, which count from 0: "
                f"{error}",
                "a negative index stands for no class",
            ) from error
    if target.dim() != axes or target.shape[-1] != classes:
        batch = "batch" if axes == 2 else "batch, *positions"
        raise UserError(
            f"target has the shape {list(target.shape)}, where [{batch}] or [{batch}, {classes}] was expected"
        )
    return target


def _near(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"it can observe {', '.join(known)}"


def connect(
    net: nn.Module,
    network: NetworkState,
    kinds: Mapping[nn.Module, type[PlainLayer]],
    facts: Mapping[str, Mapping[str, Any]],
) -> None:
    """Make layers of a network those of a rule, in place, with what they share.

    kinds   by layer, the class that it gets: the object stays, so that whoever holds it holds the converted layer
    facts   by name, in the order in which the layers run, what a layer is told (see `PlainLayer`)
    """
    for path, told in facts.items():
        layer: Any = net.get_submodule(path)
        network.become(layer, kinds[layer])
        layer.follow(network.first_source(path), network=network, path=path, classes=network.classes, **told)
        network.layers[path] = layer
    for scalar in network.clocked - {"lr"}:
        network.tell(scalar, 0.0)
    network.tapped = frozenset(other for layer in network.layers.values() for other in layer.downstream)
    net.ruledsl = network  # type: ignore[assignment]
    network.begin_step()
