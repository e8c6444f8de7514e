"""The library's optimizers, and your own, as torch optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ruledsl.errors import UserError, suggest
from ruledsl.program import Program
from ruledsl_torch import routing
from ruledsl_torch.rule_optimizer import RuleOptimizer


def named(params: Iterable[Any], name: str, lr: float = 0.001, **parameters: float) -> torch.optim.Optimizer:
    """The optimizer that a rule names: torch's own for `sgd` and `adam`, which are faster; otherwise `optimizer`."""
    own = torchs_own(name, **parameters)
    return own(params, lr=lr) if own is not None else optimizer(params, name, lr, foreach=None, **parameters)


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
    params: Iterable[Any],
    rule: str | Path | Program | Any,
    lr: float = 0.001,
    *,
    foreach: bool | None = None,
    **parameters: float,
) -> RuleOptimizer:
    """A torch optimizer that moves parameters as an `optimizer` definition says.

    rule         a name of the library (`"manhattan_1"`), a path, `ruledsl.load(...)`, or a compiled Program
    foreach      whether all parameters are moved at once, as in torch's own
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
    for name in parameters:
        if name not in program.parameters:
            help = suggest(name, program.parameters)
            raise UserError(f"the optimizer {program.rule} has no parameter `{name}`", help)
    return optimizer_class(program)(params, lr=lr, foreach=foreach, **parameters)


def optimizer_class(program: Program) -> Callable[..., RuleOptimizer]:
    """The class that the module of an optimizer defines; raises UserError for what is no optimizer."""
    made = (each for each in vars(program.module).values() if isinstance(each, type) and each is not RuleOptimizer)
    found = next((each for each in made if issubclass(each, RuleOptimizer)), None)
    if found is None:
        raise UserError(f"{program.rule} is no optimizer: it does not move p")
    return found


Choice = routing.Factory | str | tuple[str, Mapping[str, float]]


def optimizers(net: nn.Module, **choices: Choice) -> routing.Optimizers:
    """As `routing.optimizers`, by name too: `align="adam"` (of the library, or a path), or `("adam", {"lr": 0.0098})`.

    `sgd` and `adam` are torch's own.
    """
    return routing.optimizers(net, **{name: _factory(choice) for name, choice in choices.items()})


def _factory(choice: Choice) -> routing.Factory:
    name, parameters = choice if isinstance(choice, tuple) else (choice, {})
    return partial(named, name=name, **parameters) if isinstance(name, str) else name
