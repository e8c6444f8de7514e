"""What the optimizers that are made from definitions have in common: states, options, and the way through a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

DECAYS = ("weight_decay", "decay")
"""What optimizers call the pull towards zero. A group that comes with `weight_decay = 0` switches off each of them."""


class RuleOptimizer(torch.optim.Optimizer):
    """The base of an emitted optimizer, which says how a parameter starts and moves.

    The states of a parameter are in `state[p]` under the definition's names. Parameters of the definition are options
    of a parameter group, as `lr` is: a learning-rate scheduler, or you, may change them. Numbers among the states are
    kept in float64, for `1 - beta ** n` of Adam needs it.

    rule      the name of the definition
    numbers   the states that are numbers
    draws     by parameter and name, the generator of a draw; a copy has none
    """

    rule: ClassVar[str]
    numbers: ClassVar[tuple[str, ...]] = ()
    draws: Callable[[Tensor, str], Any] | None = None

    def __init__(self, params: Any, options: Mapping[str, Any], foreach: bool | None = None) -> None:
        """`foreach` as in torch's own: all parameters at once, which is the default where all of them allow it."""
        self.clock = {"epoch": 0.0, "progress": 0.0}
        super().__init__(params, {**options, "foreach": foreach})

    def start(self, p: Tensor, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Make the first states of a parameter."""
        raise NotImplementedError

    def move(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        """Move parameters, one after the other."""
        raise NotImplementedError

    def move_together(self, p: list[Tensor], group: Mapping[str, Any]) -> None:
        """Move parameters of one type on one device, all of them at once."""
        raise NotImplementedError

    def source(self, p: Tensor, name: str) -> Any:
        """What a value of a parameter is drawn from: torch's own generator, where `draws` says nothing else."""
        return None if self.draws is None else self.draws(p, name)

    def observe(self, **scalars: float) -> None:
        """Set `epoch` or `progress`, for definitions that read them."""
        self.clock.update(scalars)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for p in parameters:
                if not self.state[p]:
                    self.start(p, self.state[p], group)
            if not together(parameters, group):
                self.move(parameters, group)
                continue
            alike: dict[Any, list[Tensor]] = {}
            for p in parameters:
                alike.setdefault((p.device, p.dtype), []).append(p)
            for some in alike.values():
                self.move_together(some, group)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch does it; a group that comes with `weight_decay = 0` has no decay under any name."""
        if param_group.get("weight_decay") == 0:
            param_group = {**{name: 0.0 for name in DECAYS if name in self.defaults}, **param_group}
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch does it, but numbers keep their precision."""
        super().load_state_dict(state_dict)
        ours = [p for group in self.param_groups for p in group["params"]]
        theirs = [key for group in state_dict["param_groups"] for key in group["params"]]
        for p, key in zip(ours, theirs, strict=True):
            saved = state_dict["state"].get(key, {})
            for name in self.numbers:
                if name in saved:
                    self.state[p][name] = scalar(saved[name])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("foreach", None)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {**state, "clock": self.clock}

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A class that was made from text is found again through the program that has the text.
        program = vars(sys.modules[type(self).__module__]).get("__program__")
        if program is None:
            return super().__reduce_ex__(protocol)
        return _unstarted, (program, type(self).__name__), self.__getstate__()


def _unstarted(program: Any, name: str) -> RuleOptimizer:
    made = getattr(program.module, name)
    return made.__new__(made)  # type: ignore[no-any-return]


def together(parameters: list[Tensor], group: Mapping[str, Any]) -> bool:
    """Whether parameters are moved all at once: as told, or where each of them is a plain tensor.

    A compiler fuses by itself what the equations say, and options that are tensors (a learning rate that does not have
    torch.compile start anew) are for it.
    """
    if not parameters or torch.compiler.is_compiling():
        return False
    if any(isinstance(option, Tensor) for option in group.values()):
        return False
    if group["foreach"] is None:
        return all(type(p) in (Tensor, torch.nn.Parameter) for p in parameters)
    return bool(group["foreach"])


def scalar(value: Any) -> Tensor:
    """A number among the states: in float64, and on the CPU. A new one takes its place, it is never written to."""
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


def number(held: Tensor) -> Any:
    """A number among the states as Python's own; torch.compile would have to be started anew for each of its values."""
    return held if torch.compiler.is_compiling() else held.item()
