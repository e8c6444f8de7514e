"""Several optimizers for one network: each pseudo-gradient goes to the one that the rule means it for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError, suggest
from ruledsl.program import TASK
from ruledsl_torch.layers import RuleLayer
from ruledsl_torch.optimization import RuleOptimizer, named
from ruledsl_torch.record import Record, record_of

Factory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
Choice = Factory | str | tuple[str, Mapping[str, float]]


class Optimizers:
    """The optimizers of a network by name: `task`, and those that its rule names (`by align`).

    `step` and `zero_grad` stand for those of all. A parameter that two of them teach is moved by each in its own way.
    Optimizers teach only in phases that have a pseudo-gradient for them.
    """

    def __init__(self, record: Record | None, by_name: Mapping[str, torch.optim.Optimizer]) -> None:
        """`record` is that of a converted network; without one, every optimizer takes all that there is."""
        self.by_name = dict(by_name)
        self.record = record
        if record is not None:
            record.optimizers = self

    def __getitem__(self, name: str) -> torch.optim.Optimizer:
        return self.by_name[name]

    def items(self) -> Iterable[tuple[str, torch.optim.Optimizer]]:
        """Names and optimizers."""
        return self.by_name.items()

    def zero_grad(self) -> None:
        """Before each backward pass."""
        for one in self.by_name.values():
            one.zero_grad()

    def step(self) -> None:
        """After a backward pass, before `advance`."""
        if self.record is None:
            for one in self.by_name.values():
                one.step()
            return
        phase, travels = self.record.phase, self.record.travels
        gradients: list[tuple[str, Tensor, Tensor]] = []
        routed: set[int] = set()
        for layer in self.record.layers.values():
            for place, call in layer.plan.in_pass(phase, travels).outputs.items():
                target = layer.tensor(call.target) if call.role == "grad" and call.target else None
                holder = layer.tensor(place) if target is not None else None
                if target is not None:
                    routed.add(id(target))
                    if holder is not None and holder.grad is not None:
                        gradients.append((call.optimizer, target, holder.grad))
        if phase == TASK:
            gradients += [(TASK, p, p.grad) for p in self._of(TASK) if id(p) not in routed and p.grad is not None]
        self.apply(gradients)

    def apply(self, gradients: Iterable[tuple[str, Tensor, Tensor]]) -> None:
        """One step with the given pseudo-gradients: (optimizer, parameter, value). `.grad` stays as it was."""
        meant: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, parameter, value in gradients:
            meant.setdefault(name, []).append((parameter, value))
        for name, pairs in meant.items():
            kept = [(parameter, parameter.grad) for parameter in self._of(name)]
            for parameter, _ in kept:
                parameter.grad = None
            for parameter, value in pairs:
                # Torch's fused optimizers take it for granted that both lie in memory alike.
                alike = value.stride() == parameter.stride()
                parameter.grad = value if alike else torch.empty_like(parameter).copy_(value)
            self.by_name[name].step()
            for parameter, gradient in kept:
                parameter.grad = gradient

    def observe(self, **scalars: float) -> None:
        """Tell the library's optimizers `epoch` or `progress`."""
        for one in self.by_name.values():
            if isinstance(one, RuleOptimizer):
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


def optimizers(net: nn.Module, **choices: Choice) -> Optimizers:
    """Every optimizer that the rule of a converted network names, to be used like one:

        optimizer = optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.1))
        optimizer.zero_grad(); loss(net(x), t).backward(); optimizer.step(); advance(net)

    choices   for `task` and each other name: a function from parameters to a torch optimizer, or a name (`"adam"`, an
              optimizer of the library, a path), or both that and its parameters: `align=("adam", {"lr": 0.0098})`.
              Left out, what the rule says: `optimizer align = adam(lr = 0.001)`. `sgd` and `adam` are torch's own.

    Where a rule writes a decay term itself, the optimizer's weight decay is off for that parameter.
    Raises UserError for a missing or unknown name.
    """
    record = record_of(net)
    own = getattr(net, "_orig_mod", net)
    chosen: dict[str, Choice] = {}
    for layer in reversed(list(record.layers.values())):
        chosen.update(layer.plan.program.optimizers)
    received = receivers(record, own)
    for name in choices:
        if name not in received:
            raise UserError(f"the rule names no optimizer `{name}`", suggest(name, received))
    chosen.update(choices)
    made: dict[str, torch.optim.Optimizer] = {}
    for name, groups in received.items():
        if name not in chosen:
            raise UserError(
                f"which optimizer is `{name}`?", f"optimizers(net, {name}=lambda p: torch.optim.SGD(p, 0.1))"
            )
        choice = chosen[name]
        if isinstance(choice, str):
            choice = (choice, {})
        made[name] = named(groups, choice[0], **choice[1]) if isinstance(choice, tuple) else choice(groups)
    return Optimizers(record, made)


def receivers(record: Record | None, net: nn.Module) -> dict[str, list[dict[str, Any]]]:
    """By optimizer, its parameters in torch's groups; those whose rule decays them come with `weight_decay = 0`."""
    named: dict[str, dict[int, Tensor]] = {TASK: {}}
    decaying: set[int] = set()
    elsewhere: set[int] = set()
    for layer in record.layers.values() if record else ():
        for name, parameter in _taught(layer):
            named.setdefault(name, {})[id(parameter)] = parameter
            elsewhere |= {id(parameter)} if name != TASK else set()
        own = (layer.tensor(tensor.name) for tensor in layer.plan.program.tensors if tensor.own_decay)
        decaying |= {id(parameter) for parameter in own if parameter is not None}
    # In the network's order, with what is no weight layer's.
    task: dict[int, Tensor] = {id(p): p for p in net.parameters() if id(p) in named[TASK] or id(p) not in elsewhere}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, parameters in {**named, TASK: task}.items():
        free = [p for key, p in parameters.items() if key not in decaying]
        own_decay = [p for key, p in parameters.items() if key in decaying]
        found: list[dict[str, Any]] = [{"params": free}, {"params": own_decay, "weight_decay": 0.0}]
        groups[name] = [group for group in found if group["params"]]
    return {name: found for name, found in groups.items() if found}


def _taught(layer: RuleLayer) -> Iterator[tuple[str, Tensor]]:
    for function in layer.plan.program.functions:
        if function.role == "grad" and function.target is not None:
            parameter = layer.tensor(function.target)
            if isinstance(parameter, nn.Parameter):
                yield function.optimizer, parameter
