"""The library's optimizers, and your own, as torch optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ruledsl.errors import UserError, suggest
from ruledsl.plan import Bound, Call, evaluate
from ruledsl.program import INIT, Program
from ruledsl_torch.apart import independent

DECAYS = ("weight_decay", "decay")
"""What optimizers call the pull towards zero. A group with `weight_decay = 0` switches off each of them."""


class RuleOptimizer(torch.optim.Optimizer):
    """An `optimizer` definition, compiled. Its states are the optimizer's `state` of a parameter, under their names.

    Parameters of the definition are options of a parameter group, as `lr` is: a learning-rate scheduler, or you, may
    change them. Numbers among the states are kept in float64, for `1 - beta ** n` of Adam needs it.
    """

    def __init__(self, params: Any, program: Program, lr: float, parameters: Mapping[str, float]) -> None:
        for name in parameters:
            if name not in program.parameters:
                help = suggest(name, program.parameters)
                raise UserError(f"the optimizer {program.rule} has no parameter `{name}`", help)
        self.bound = Bound(program)
        self.clock = {"epoch": 0.0, "progress": 0.0}
        super().__init__(params, {"lr": lr, **program.parameters, **parameters})
        for group in self.param_groups:
            if group.get("weight_decay") == 0 and not program.parameters.get("weight_decay"):
                group.update({name: 0.0 for name in DECAYS if name in program.parameters})

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {**state, "bound": self.bound, "clock": self.clock}

    @property
    def calls(self) -> tuple[Call, ...]:
        """What moves a parameter, terms before their readers."""
        every = [call for phase, calls in self.bound.phases.items() if phase != INIT for call in calls]
        return tuple(call for call in every if call.role in ("term", "assign"))

    def observe(self, **scalars: float) -> None:
        """Set `epoch` or `progress`, for definitions that read them."""
        self.clock.update(scalars)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss, calls = None, self.calls
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            options = {name: group[name] for name in self.bound.parameters}
            clock = {name: torch.tensor(float(v), dtype=torch.float64) for name, v in self.clock.items()}
            options |= clock | {"lr": torch.as_tensor(group["lr"], dtype=torch.float64)}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, calls, options)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch does it, but numbers keep their precision."""
        super().load_state_dict(state_dict)
        ours = [parameter for group in self.param_groups for parameter in group["params"]]
        theirs = [key for group in state_dict["param_groups"] for key in group["params"]]
        for parameter, key in zip(ours, theirs, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if value.dim() == 0:
                    self.state[parameter][name] = value.detach().clone().to(torch.float64)

    def _move(self, parameter: Tensor, calls: tuple[Call, ...], options: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            self._begin(parameter, state, options)
        values = {**options, **state, "p": parameter, "g": parameter.grad, "shape": tuple(parameter.shape)}
        values["generator"] = None
        for call in self.bound.draws:
            values[call.target or ""] = self._made(call, parameter, values)
        evaluate(calls, values)
        # All results follow from the values before the step; only now they are stored.
        results = [(call.target, independent(call.name, values)) for call in calls if call.role == "assign"]
        for target, value in results:
            held = parameter if target == "p" else state[target]
            held.copy_(torch.as_tensor(value, dtype=held.dtype))
        if "step" in state:
            state["step"] += 1

    def _begin(self, parameter: Tensor, state: dict[str, Any], options: Mapping[str, Any]) -> None:
        if "step" in self.bound.clocked:
            state["step"] = torch.zeros((), dtype=torch.float64)
        known = {**options, **state, "p": parameter.detach(), "generator": None}
        for call in self.bound.starts:
            state[call.target or ""] = known[call.target or ""] = self._made(call, parameter, known)

    def _made(self, call: Call, parameter: Tensor, values: dict[str, Any]) -> Tensor:
        """A first or fresh value, in the shape and type of the parameter; a number in float64."""
        scalar = not self.bound.program.tensor(call.target or "").space
        shape = () if scalar else tuple(parameter.shape)
        place = torch.device("cpu") if scalar else parameter.device
        held = torch.zeros(shape, dtype=torch.float64 if scalar else parameter.dtype, device=place)
        with place:
            made = evaluate((call,), {**values, "shape": shape})[call.name]
        return held.copy_(torch.as_tensor(made))


def named(params: Iterable[Any], name: str, lr: float = 0.001, **parameters: float) -> torch.optim.Optimizer:
    """The optimizer that a rule names: torch's own for `sgd` and `adam`, which are faster; otherwise `optimizer`."""
    own = torchs_own(name, **parameters)
    return optimizer(params, name, lr, **parameters) if own is None else own(params, lr=lr)


def torchs_own(name: str, **parameters: float) -> Callable[..., torch.optim.Optimizer] | None:
    """Torch's equal of `sgd` or `adam`, with the library's parameters; None for others."""
    given: dict[str, Any] = dict(parameters)
    if name in ("adam", "sgd"):
        import ruledsl

        given = dict(ruledsl.load(name, **parameters).parameters)  # raises where one is out of its range
    if name == "adam":
        betas = float(given.pop("beta1")), float(given.pop("beta2"))
        settings: dict[str, Any] = {"betas": betas, "eps": given.pop("epsilon"), "fused": True}
        return None if given else partial(torch.optim.Adam, **settings)
    if name == "sgd":
        settings = {key: given.pop(key) for key in ("momentum", "weight_decay", "nesterov")}
        settings["nesterov"] = bool(settings["nesterov"] and settings["momentum"])  # of no momentum there is none
        return None if given else partial(torch.optim.SGD, **settings)
    return None


def optimizer(
    params: Iterable[Any], rule: str | Path | Program | Any, lr: float = 0.001, **parameters: float
) -> torch.optim.Optimizer:
    """A torch optimizer that moves parameters as an `optimizer` definition says.

    rule         a name of the library (`"manhattan_1"`), a path, `ruledsl.load(...)`, or a compiled Program
    parameters   values for its parameters; static ones too, where the rule is a name or a path

    Raises UserError for what is no optimizer, and for parameters that it doesn't have.
    """
    if isinstance(rule, str | Path):
        import ruledsl

        known = ruledsl.load(rule).parameters
        for name in parameters:
            if name not in known:
                raise UserError(f"the optimizer {rule} has no parameter `{name}`", suggest(name, known))
        rule, parameters = ruledsl.load(rule, **parameters), {}
    program = rule if isinstance(rule, Program) else rule.compile("torch")
    if not any(function.role == "assign" and function.target == "p" for function in program.functions):
        raise UserError(f"{program.rule} is no optimizer: it does not move p")
    return RuleOptimizer(params, program, lr, parameters)
