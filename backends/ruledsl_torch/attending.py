"""What a network says when somebody's loop leaves out what its rule needs: seen when optimizers step, and said once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ruledsl.ir.phases import Schedule
from ruledsl.program import program_of
from ruledsl_torch.converted import ConvertedNetwork
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.linear import KINDS
from ruledsl_torch.network import NetworkState
from ruledsl_torch.speaking import warn_once

SOON, LATER = 3, 10
"""After as many steps of an optimizer it is clear what it moves, and whether `advance` is called."""
CALLERS = 8  # from the step of an optimizer up to the GradScaler that calls it

NETWORKS: WeakSet[AttendedNetwork] = WeakSet()
MADE = [0]
HANDLES: list[Any] = []


class AttendedNetwork(ConvertedNetwork):
    """`net.ruledsl` of a network that was converted: it looks whenever an optimizer steps that moves its parameters."""

    known: tuple[ref[nn.Module], WeakSet[nn.Module]] | None = None
    """The network, and the modules that it had when it was converted; None in a copy."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        attend(self)

    @property
    def present(self) -> dict[str, RuleLayer]:
        """Its layers, without those that somebody has taken out of the network."""
        net = None if self.known is None else self.known[0]()
        here = self.layers.values() if net is None else set(net.modules())
        return {path: layer for path, layer in self.layers.items() if layer in here}

    @property
    def strangers(self) -> list[str]:
        """Weight layers that came into the network after it was converted, and learn: names."""
        net = None if self.known is None else self.known[0]()
        if self.known is None or net is None:
            return []
        kinds = tuple(KINDS)
        return [
            name
            for name, module in net.named_modules()
            if isinstance(module, kinds) and not isinstance(module, RuleLayer) and module not in self.known[1]
            if any(parameter.requires_grad for parameter in module.parameters())
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "known": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        attend(self)


def attend(network: AttendedNetwork) -> None:
    """Have a network look at the steps of all optimizers."""
    if not HANDLES:
        HANDLES.append(register_optimizer_step_pre_hook(look))
    NETWORKS.add(network)
    MADE[0] += 1


def leave(network: AttendedNetwork) -> None:
    """Have a network, which is about to be a plain one, look no more."""
    NETWORKS.discard(network)
    MADE[0] += 1


class Watch:
    """An optimizer, as networks see it.

    parameters   by id, what it moves
    networks     those that have some of it, each with the value of `network.step` when this was found out
    targeted     networks whose rules read target, each with `network.observed` at the last step
    counting     layers whose backward passes are counted; `steps`: how often the optimizer has stepped since
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.made_of = made_of(optimizer)
        self.parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.networks = [
            (network, network.step)
            for network in NETWORKS
            if any(id(p) in self.parameters for layer in followers(network) for _, p in layer.read_parameters())
        ]
        layers = [layer for network, _ in self.networks for layer in network.layers.values()]
        self.counting = [layer for layer in layers if layer.batched and not layer.assigns]
        self.unscaled = any(layer.unscaled for layer in layers)
        self.targeted = {network: 0 for network, _ in self.networks if reads_target(network)}
        self.steps = 0


WATCHES: WeakSet[Watch] = WeakSet()


def followers(network: AttendedNetwork) -> list[RuleLayer]:
    """The layers of a network that follow a rule, and were not made plain ones again."""
    return [layer for layer in network.layers.values() if isinstance(layer, RuleLayer)]


def made_of(optimizer: torch.optim.Optimizer) -> tuple[int, ...]:
    """What a watch depends on."""
    return MADE[0], *[id(p) for group in optimizer.param_groups for p in group["params"]]


def look(optimizer: torch.optim.Optimizer, arguments: Any, options: Any) -> tuple[Any, dict[str, Any]] | None:
    """Before a step of any optimizer; where that calls a closure, its backward passes are counted after each call."""
    watch = optimizer.__dict__.get("_watch")  # and no table of all optimizers, on which a compiled step would depend
    if watch is None or watch.made_of != made_of(optimizer):
        watch = optimizer.__dict__["_watch"] = Watch(optimizer)
        WATCHES.add(watch)
    if not watch.networks:
        return None
    watch.steps += 1
    closure = options.get("closure") or (arguments[1] if len(arguments) > 1 else None)
    if watch.counting and closure is None:
        count(watch)
    if watch.unscaled and watch.steps <= SOON and is_scaled(optimizer):
        for network, _ in watch.networks:
            speak_of_scale(network)
    for network, observed in watch.targeted.items() if closure is None else ():  # which may tell it itself
        watch.targeted[network] = network.observed
        if network.observed == observed and network.target is not None:
            message = f"{network.rule} reads target, which is still that of the step before"
            warn_once(network, "target", message, "observe(net, target=labels)  # before each forward pass")
    if watch.steps == SOON:
        for network, _ in watch.networks:
            look_for_strangers(network)
            for path, layer in network.present.items():
                look_for_teachers(network, path, layer)
                look_for_forward(network, path, layer)
    if watch.steps == LATER:
        for network, step in watch.networks:
            if network.step == step and needs_advance(network):
                message = f"{network.rule} needs advance after each step, and it was not called in {LATER} steps"
                warn_once(network, "advance", message, "advance(net)  # of ruledsl_torch, after optimizer.step()")
    if watch.counting and closure is not None:
        return arguments[:1], {**options, "closure": counted(watch, closure)}
    return None


def counted(watch: Watch, closure: Callable[[], Any]) -> Callable[[], Any]:
    """A closure after whose every call its backward passes are counted."""

    def call() -> Any:
        for layer in watch.counting:
            layer.forget_passes()
        loss = closure()
        count(watch)
        return loss

    return call


def look_for_teachers(network: NetworkState, path: str, layer: RuleLayer) -> None:
    """A tensor of the rule that has a pseudo-gradient, and that no optimizer moves."""
    for name, parameter in layer.named_parameters(recurse=False):
        known = name in ("weight", "bias") or not parameter.requires_grad or parameter.grad is None
        if not known and not any(id(parameter) in watch.parameters for watch in WATCHES):
            where = f"{path}.{name}" if path else name
            message = f"{where} has a pseudo-gradient, and none of the optimizers that step has it: it does not learn"
            warn_once(network, "optimizer", message, "make the optimizer after convert: it takes net.parameters()")


def look_for_forward(network: NetworkState, path: str, layer: RuleLayer) -> None:
    """A layer whose forward somebody has replaced."""
    if "forward" in layer.__dict__:
        message = f"the layer {path} has a forward of its own, set on the object: it does not follow {layer.rule}"
        warn_once(network, f"forward of {path}", message, f"del net.{path}.forward")


def reads_target(network: NetworkState) -> bool:
    """Whether a rule has to be told the target of every batch."""
    programs = [program_of(layer) for layer in network.layers.values()]
    return any("target" in function.arguments for program in programs for function in program.functions)


def look_for_strangers(network: AttendedNetwork) -> None:
    """Layers that somebody has put in the place of others, or added."""
    names = network.strangers
    if names:
        message = (
            f"{', '.join(names)} came into the network after convert: what is there learns by autograd, and hands on "
            f"exact errors, not what {network.rule} sends"
        )
        warn_once(network, "strangers", message, "convert(unconvert(net), ...)  # then a new optimizer")


def needs_advance(network: NetworkState) -> bool:
    """Whether there is anything to do between two steps."""
    return network.schedule != Schedule() or any(
        layer.driven
        or layer.after_step
        or layer.constraints
        or layer.assigns
        or type(layer).draw_fresh is not RuleLayer.draw_fresh
        or type(layer).end_pass is not RuleLayer.end_pass
        for layer in network.layers.values()
    )


# --- what is not linear in the errors ---


def count(watch: Watch) -> None:
    """Several backward passes in one step, where what they bring does not add up."""
    for layer in watch.counting:
        passes = layer.get_buffer("backward_passes")
        seen = watch.steps <= LATER or passes.device.type == "cpu"  # elsewhere, looking waits for the device
        if seen and passes > 1:
            names = ", ".join(layer.batched)
            message = (
                f"{passes:.0f} backward passes went into one step, and of {layer.rule} they do not add up ({names}): "
                "the step is not that of the batch as a whole"
            )
            warn_once(layer.network, "passes", message, "one backward pass per step: a larger batch, not several")
        layer.forget_passes()


def is_scaled(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler takes this step: optimizers that undo its scale themselves know it; else it is a caller."""
    if getattr(optimizer, "grad_scale", None) is not None:
        return True
    frame = sys._getframe(2)
    for _ in range(CALLERS):
        if isinstance(frame.f_locals.get("self"), torch.amp.GradScaler):
            scaler: torch.amp.GradScaler = frame.f_locals["self"]
            return scaler.is_enabled()
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def speak_of_scale(network: NetworkState) -> None:
    """A scaled loss, where not all scales with it."""
    names = {name: layer.rule for layer in network.layers.values() for name in layer.unscaled}
    listed = ", ".join(f"{name} of {rule}" for name, rule in names.items())
    message = f"the loss is scaled, and {listed} does not scale with it: what is unscaled after that gets too small"
    warn_once(network, "scale", message, "train without GradScaler: bfloat16 needs none")
