"""Several optimizers for one network: each pseudo-gradient goes to the one that the rule means it for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError, suggest
from ruledsl.ir.phases import TASK
from ruledsl_torch.layers import Gradient, RuleLayer
from ruledsl_torch.network import NetworkState, state_of

Factory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class Optimizers:
    """The optimizers of a network by name: `task`, and those that its rule names (`by align`).

    `step` and `zero_grad` stand for those of all. A parameter that two of them teach is moved by each in its own way.
    Optimizers teach only in phases that have a pseudo-gradient for them.
    """

    def __init__(self, network: NetworkState | None, by_name: Mapping[str, torch.optim.Optimizer]) -> None:
        """`network` is that of a converted one; without it, every optimizer takes all that there is."""
        self.by_name = dict(by_name)
        self.network = network
        if network is not None:
            network.optimizers = self

    def __getitem__(self, name: str) -> torch.optim.Optimizer:
        return self.by_name[name]

    def items(self) -> Iterable[tuple[str, torch.optim.Optimizer]]:
        """Names and optimizers."""
        return self.by_name.items()

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
            for one in self.by_name.values():
                one.step()
            return
        phase = self.network.phase
        gradients: list[Gradient] = []
        routed: set[int] = set()
        for layer in self.network.layers.values():
            beside = dict(layer.beside)
            for taught in layer.teaches or ():
                for name in taught.tensors if taught.phase == phase else ():
                    target = getattr(layer, beside.get(name, name), None)
                    value = getattr(layer, name) if name in beside else None if target is None else target.grad
                    if target is not None:
                        routed.add(id(target))
                    if target is not None and value is not None:
                        gradients.append(Gradient(target, value, taught.optimizer))
        if phase == TASK:
            others = (p for p in self._of(TASK) if id(p) not in routed and p.grad is not None)
            gradients += [Gradient(p, p.grad, TASK) for p in others if p.grad is not None]
        self.apply(gradients)

    def apply(self, gradients: Iterable[Gradient]) -> None:
        """One step with the given pseudo-gradients. `.grad` stays as it was."""
        meant: dict[str, list[Gradient]] = {}
        for gradient in gradients:
            if gradient.tensor.requires_grad:
                meant.setdefault(gradient.optimizer, []).append(gradient)
        for name, given in meant.items():
            kept = [(parameter, parameter.grad) for parameter in self._of(name)]
            for parameter, _ in kept:
                parameter.grad = None
            # Layers that share a tensor share its `.grad`, where what each brings beside it adds up.
            summed: dict[int, Tensor] = {}
            once = {(id(each.tensor), id(each.value)): each for each in given}
            for parameter, value, _ in once.values():
                full = value.expand(parameter.shape) if isinstance(value, Tensor) else torch.full_like(parameter, value)
                # Torch's fused optimizers take it for granted that both lie in memory alike.
                alike = full.stride() == parameter.stride()
                own = full if alike else torch.empty_like(parameter).copy_(full)
                summed[id(parameter)] = parameter.grad = summed[id(parameter)] + own if id(parameter) in summed else own
            self.by_name[name].step()
            for parameter, gradient in kept:
                parameter.grad = gradient

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
    own = getattr(net, "_orig_mod", net)
    chosen: dict[str, Factory] = {}
    for layer in reversed(list(network.layers.values())):
        chosen.update(dict(layer.optimizers))
    received = receivers(network, own)
    for name in factories:
        if name not in received:
            raise UserError(f"the rule names no optimizer `{name}`", suggest(name, received))
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
        decaying |= {id(getattr(layer, name)) for name in layer.own_decay}
    # In the network's order, with what is no weight layer's.
    task: dict[int, Tensor] = {id(p): p for p in net.parameters() if id(p) in named[TASK] or id(p) not in elsewhere}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, parameters in {**named, TASK: task}.items():
        free = [p for key, p in parameters.items() if key not in decaying]
        own_decay = [p for key, p in parameters.items() if key in decaying]
        found: list[dict[str, Any]] = [{"params": free}, {"params": own_decay, "weight_decay": 0.0}]
        groups[name] = [group for group in found if group["params"]]
    return {name: found for name, found in groups.items() if found}


def _taught(layer: RuleLayer) -> Iterator[tuple[str, nn.Parameter]]:
    beside = dict(layer.beside)
    for taught in layer.teaches or ():
        for name in taught.tensors:
            parameter = getattr(layer, beside.get(name, name), None)
            if isinstance(parameter, nn.Parameter):
                yield taught.optimizer, parameter
