"""The classes that layers of a network get: emitted ones for any kind of layer, and for networks of several rules."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.ir.phases import TASK
from ruledsl.program import Program, pickle_by_text
from ruledsl_torch.layers import Constraint, RuleLayer
from ruledsl_torch.linear import KINDS


def layer_class(program: Program, kind: type[nn.Module], mixed: bool = False) -> type[RuleLayer]:
    """The class of a rule's layers of a kind; `mixed`: in a network whose layers follow several rules."""
    module, name = program.module, kind.__name__
    if name not in vars(module):
        linear_map, axes = KINDS[kind]
        base = module.__dict__["Linear"].__bases__[0]
        _add(module, name, (base, kind), {"linear_map": linear_map, "example_axes": axes})
    if mixed and f"Mixed{name}" not in vars(module):
        _add(module, f"Mixed{name}", (Mixed, vars(module)[name]), {})
    found: type[RuleLayer] = vars(module)[f"Mixed{name}" if mixed else name]
    return found


def _add(module: ModuleType, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> None:
    made = type(name, bases, {"__module__": module.__name__, "__doc__": bases[-1].__doc__, **members})
    vars(module)[name] = made
    pickle_by_text(made)


def constraint_class(program: Program) -> type[Constraint]:
    """The class of an emitted constraint."""
    found = [each for each in vars(program.module).values() if isinstance(each, type) and issubclass(each, Constraint)]
    return next(each for each in found if each is not Constraint)


class Mixed(RuleLayer):
    """A layer in a network in which others follow another rule: it takes part in what that rule needs of it.

    In a phase that its own rule does not have it sends errors on, and learns nothing. Where others read its delta, it
    adds their perturbation to its u.
    """

    def forward(self, x: Tensor) -> Tensor:
        network = self.network
        if not torch.is_grad_enabled():
            return super().forward(x)  # type: ignore[no-any-return]
        if network.phase in (TASK, *self.with_errors) or self.__dict__.get("_sending"):
            u = super().forward(x)
        else:
            self.__dict__["_sending"] = True
            try:
                detached = {name: parameter.detach() for name, parameter in self.named_parameters()}
                u = torch.func.functional_call(self, detached, (x,))
            finally:
                self.__dict__["_sending"] = False
            return u
        return network.perturbed(self.path, u)  # type: ignore[no-any-return]
