"""Several optimizers for one network: each pseudo-gradient goes to the one that the rule means it for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError, suggest
from ruledsl.ir.phases import TASK
from ruledsl_torch.network import NetworkState, inner, state_of
from ruledsl_torch.once import Once, OnceLayer, completed
from ruledsl_torch.plain import Gradient, PlainLayer

Factory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class Optimizers:
    """The optimizers of a network by name: `task`, and those that its rule names (`by align`).

    `step` and `zero_grad` stand for those of all. A parameter that two of them teach is moved by each in its own way.
    Optimizers teach only in phases that have a pseudo-gradient for them.
    """

    def __init__(self, network: NetworkState | None, by_name: Mapping[str, torch.optim.Optimizer]) -> None:
        """`network` is that of a converted one; without it, every optimizer takes all that there is.

        Raises UserError for one whose step needs a closure.
        """
        for name, one in by_name.items():
            closure = inspect.signature(one.step).parameters.get("closure")
            if closure is not None and closure.default is inspect.Parameter.empty:
                raise UserError(
                    f"{type(one).__name__}, chosen for {name}, computes gradients itself, by calling a closure, where "
                    "each of several optimizers is given its own",
                    f"choose another for {name}, such as torch.optim.SGD",
                )
        self.by_name = dict(by_name)
        self.network = network
        self.clips: dict[str, float] = {}
        if network is not None:
            network.optimizers = self

    def __getitem__(self, name: str) -> torch.optim.Optimizer:
        return self.by_name[name]

    def items(self) -> Iterable[tuple[str, torch.optim.Optimizer]]:
        """Names and optimizers."""
        return self.by_name.items()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all of them, as GradScaler asks for. Raises UserError where two have the same parameter."""
        groups = [group for one in self.by_name.values() for group in one.param_groups]
        everything = [id(parameter) for group in groups for parameter in group["params"]]
        if len({*everything}) < len(everything):
            names = " and ".join(self.by_name)
            raise UserError(
                f"the optimizers {names} share parameters, whose gradients GradScaler would bring to its scale twice",
                "train without GradScaler: bfloat16 needs none; the groups of one of them are "
                'optimizer["task"].param_groups',
            )
        return groups

    def zero_grad(self) -> None:
        """Before each backward pass."""
        for one in self.by_name.values():
            one.zero_grad()
        for layer in self.network.layers.values() if self.network else ():
            for holder, _ in layer.beside:
                if getattr(layer, holder) is not None:  # as a layer without bias has none
                    getattr(layer, holder).zero_()

    def step(self) -> None:
        """After a backward pass, before `advance`."""
        if self.network is None:
            for name, one in self.by_name.items():
                if name in self.clips:
                    nn.utils.clip_grad_norm_(list(self._of(name)), self.clips[name])
                one.step()
            return
        phase = self.network.phase
        gradients: list[Gradient] = []
        apart: list[Gradient] = []
        routed: set[int] = set()
        for layer in self.network.layers.values():
            beside = dict(layer.beside)
            for taught in layer.teaches or ():
                for name in taught.tensors if taught.phase == phase else ():
                    target = layer.held(beside.get(name, name))
                    value = None if target is None else target.grad
                    if name in beside and target is not None:
                        target, value = _whole(getattr(layer, beside[name]), getattr(layer, name))
                    if target is not None:
                        routed.add(id(target))
                    if target is not None and value is not None:
                        (apart if name in beside else gradients).append(Gradient(target, value, taught.optimizer))
        if phase == TASK:
            others = (p for p in self._of(TASK) if id(p) not in routed and p.grad is not None)
            gradients += [Gradient(p, p.grad, TASK) for p in others if p.grad is not None]
        # What stands beside a gradient is not averaged with it.
        self.apply([*gradients, *self.network.together(apart)], phase)

    def apply(self, gradients: Iterable[Gradient], phase: str = TASK) -> None:
        """One step with the given pseudo-gradients of a phase. `.grad` stays as it was."""
        summed: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
        # Layers that share a tensor share its `.grad`, where what each brings beside it adds up.
        once = {(each.optimizer, id(each.tensor), id(each.value)): each for each in gradients}
        for tensor, brought, name in once.values():
            parameter, value = _whole(tensor, brought)
            if parameter.requires_grad:
                of_one = summed.setdefault(name, {})
                before = of_one.get(id(parameter))
                full = value.expand(parameter.shape) if isinstance(value, Tensor) else torch.full_like(parameter, value)
                of_one[id(parameter)] = parameter, full if before is None else before[1] + full
        # All of it before anything moves: what counts once a step may read what another optimizer is about to move.
        for name, meant in summed.items() if self.network is not None else ():
            due = [(layer, once) for layer, once in _due(self.network, phase) if once.optimizer == name]
            meant |= completed(due, lambda parameter, meant=meant: meant.get(id(parameter), (None, None))[1])
        for name, given in summed.items():
            mine = {id(parameter) for parameter in self._of(name)}
            meant = {key: value for key, value in given.items() if key in mine}
            if name in self.clips:
                meant = _clipped(meant, self.clips[name])
            kept = [(parameter, parameter.grad) for parameter in self._of(name)]
            for parameter, _ in kept:
                parameter.grad = None
            for parameter, full in meant.values():
                # Torch's fused optimizers take it for granted that both lie in memory alike.
                alike = full.stride() == parameter.stride()
                parameter.grad = full if alike else torch.empty_like(parameter).copy_(full)
            try:
                if self.network is not None:
                    self.network.stepping = True
                self.by_name[name].step()
            finally:
                if self.network is not None:
                    self.network.stepping = False
                for parameter, before in kept:
                    parameter.grad = before

    def observe(self, **scalars: float) -> None:
        """Tell the library's optimizers `epoch` or `progress`."""
        for one in self.by_name.values():
            if hasattr(one, "observe"):
                one.observe(**scalars)

    def state_dict(self) -> dict[str, Any]:
        """By name, what torch's optimizers say."""
        return {name: one.state_dict() for name, one in self.by_name.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        for name, one in self.by_name.items():
            one.load_state_dict(state[name])

    def _of(self, name: str) -> Iterator[Tensor]:
        for group in self.by_name[name].param_groups:
            yield from group["params"]


def _clipped(meant: Mapping[int, tuple[Tensor, Tensor]], limit: float) -> dict[int, tuple[Tensor, Tensor]]:
    """Pseudo-gradients whose norm, of all of them together, is at most `limit`."""
    values = [value for _, value in meant.values()]
    if not values:
        return {}
    factor = (limit / nn.utils.get_total_norm(values).clamp(min=1e-30)).clamp(max=1.0)
    return {key: (parameter, factor * value) for key, (parameter, value) in meant.items()}


def optimizers(net: nn.Module, **factories: Factory) -> Optimizers:
    """Every optimizer that the rules of a converted network name, to be used like one:

        optimizer = optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.1))
        optimizer.zero_grad(); loss(net(x), t).backward(); optimizer.step(); advance(net)

    factories  for `task` and each other name: a function from parameters to an optimizer. Left out, what the rule says:
               `optimizer align = adam(lr = 0.001)`

    Where a rule writes a decay term itself, the optimizer's weight decay is off for that parameter.
    Raises UserError for a missing or unknown name.
    """
    network = state_of(net)
    chosen: dict[str, Factory] = {}
    for layer in reversed(list(network.layers.values())):
        chosen.update(dict(layer.optimizers))
    received = receivers(network, inner(net))
    for name in factories:
        if name not in received:
            raise UserError(f"the rule names no optimizer `{name}`", suggest(name, received))
        if not callable(factories[name]):
            raise UserError(
                f"{name}= is {type(factories[name]).__name__}, where a function of parameters was expected",
                f"optimizers(net, {name}=lambda p: torch.optim.SGD(p, 0.1))",
            )
    chosen.update(factories)
    for name in received:
        if name not in chosen:
            example = f"optimizers(net, {name}=lambda p: torch.optim.SGD(p, 0.1))"
            raise UserError(f"which optimizer is `{name}`?", example)
    return Optimizers(network, {name: chosen[name](groups) for name, groups in received.items()})


def receivers(network: NetworkState | None, net: nn.Module) -> dict[str, list[dict[str, Any]]]:
    """By optimizer, its parameters in torch's groups; those whose rule decays them come with `weight_decay = 0`."""
    named: dict[str, dict[int, Tensor]] = {TASK: {}}
    decaying: set[int] = set()
    elsewhere: set[int] = set()
    for layer in network.layers.values() if network else ():
        for name, parameter in _taught(layer):
            named.setdefault(name, {})[id(parameter)] = parameter
            elsewhere |= {id(parameter)} if name != TASK else set()
        decaying |= {id(layer.held(name)) for name in layer.own_decay}
    # In the network's order, with what is no weight layer's.
    task: dict[int, Tensor] = {id(p): p for p in net.parameters() if id(p) in named[TASK] or id(p) not in elsewhere}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, parameters in {**named, TASK: task}.items():
        free = [p for key, p in parameters.items() if key not in decaying]
        own_decay = [p for key, p in parameters.items() if key in decaying]
        found: list[dict[str, Any]] = [{"params": free}, {"params": own_decay, "weight_decay": 0.0}]
        groups[name] = [group for group in found if group["params"]]
    return {name: found for name, found in groups.items() if found}


def _taught(layer: PlainLayer) -> Iterator[tuple[str, nn.Parameter]]:
    beside = dict(layer.beside)
    for taught in layer.teaches or ():
        for name in taught.tensors:
            parameter = layer.held(beside.get(name, name))
            if isinstance(parameter, nn.Parameter):
                yield taught.optimizer, parameter


def _due(network: NetworkState, phase: str) -> Iterator[tuple[OnceLayer, Once]]:
    """What counts once for a step of a phase."""
    for layer in network.layers.values():
        if isinstance(layer, OnceLayer):
            beside = (once for once in layer.due() if layer.stands_beside(once))
            yield from ((layer, once) for once in (*layer.lacking(), *beside) if once.phase == phase)


def _whole(tensor: Tensor, value: Any) -> tuple[Tensor, Any]:
    """A tensor and its pseudo-gradient; of rows of a parameter, that parameter, and zeros in its other rows."""
    base = None if isinstance(tensor, nn.Parameter) else tensor._base
    if base is None or value is None:
        return tensor, value
    whole = torch.zeros_like(base)
    whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()).copy_(value)
    return base, whole
