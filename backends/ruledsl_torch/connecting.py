"""The classes that layers of a network get: emitted ones for any kind of layer, and for networks of several rules."""

from __future__ import annotations

import copyreg
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.ir.phases import TASK
from ruledsl.program import Program, program_of
from ruledsl_torch.layers import Constraint, RuleLayer
from ruledsl_torch.linear import KINDS, recognised
from ruledsl_torch.views import FORWARD


def layer_class(
    program: Program, kind: type[nn.Module], mixed: bool = False, positionwise: bool = False
) -> type[RuleLayer]:
    """The class of a rule's layers of a kind.

    mixed         in a network whose layers follow several rules
    positionwise  in one whose logits are [batch, *positions, classes], under a rule that reads something over them
    """
    module, name = program.module, _name(program.module, kind)
    if name not in vars(module):
        recognised(kind)
        linear_map, axes = KINDS[kind]
        base = module.__dict__["Linear"].__bases__[0]
        _add(module, name, (base, kind), {"linear_map": linear_map, "example_axes": axes}, (kind,))
    for more in [Positionwise] * positionwise + [Mixed] * mixed:
        if f"{more.__name__}{name}" not in vars(module):
            chosen = (kind, more is Mixed, positionwise)
            _add(module, f"{more.__name__}{name}", (more, vars(module)[name]), {}, chosen)
        name = f"{more.__name__}{name}"
    found: type[RuleLayer] = vars(module)[name]
    return found


def moved(program: Program) -> tuple[str, ...]:
    """Which of a layer's `weight` and `bias` something else moves than the task's optimizer."""
    moving = {
        each.target
        for each in program.functions
        if each.role in ("assign", "complete") or (each.role == "grad" and (each.phase, each.optimizer) != (TASK, TASK))
    }
    return tuple(attribute for name, attribute in FORWARD.items() if name in moving)


def followers(program: Program) -> tuple[str, ...]:
    """The rule's own weights that move as W moves: their pseudo-gradients read a term that W's reads too."""
    terms = {each.target for each in program.functions if each.role == "term"}
    reads = {each.target: terms & {*each.arguments} for each in program.functions if each.role == "grad"}
    return tuple(
        tensor.name
        for tensor in program.tensors
        if tensor.kind == "weight" and reads.get(tensor.name, set()) & reads.get("W", set())
    )


def _name(module: ModuleType, kind: type[nn.Module]) -> str:
    """That of the class, with as many underscores as it takes: it may be called like one of torch's, or of a rule's."""
    name = kind.__name__
    while name in vars(module) and not (isinstance(vars(module)[name], type) and kind in vars(module)[name].__bases__):
        name += "_"
    return name


def _add(
    module: ModuleType, name: str, bases: tuple[type, ...], members: dict[str, Any], chosen: tuple[Any, ...]
) -> None:
    named = {"__module__": module.__name__, "__doc__": bases[-1].__doc__}
    made = type(name, bases, {**named, **members})
    vars(module)[name] = made
    copyreg.pickle(made, partial(_reduced, chosen))


def _reduced(chosen: tuple[Any, ...], layer: Any) -> tuple[Any, ...]:
    # A process that has not converted a layer of this kind has no such class in its module.
    return _remade, (program_of(layer), chosen), layer.__getstate__()


def _remade(program: Program, chosen: tuple[Any, ...]) -> Any:
    made = layer_class(program, *chosen)
    return made.__new__(made)


def constraint_class(program: Program) -> type[Constraint]:
    """The class of an emitted constraint."""
    found = [each for each in vars(program.module).values() if isinstance(each, type) and issubclass(each, Constraint)]
    return next(each for each in found if each is not Constraint)


class Positionwise(RuleLayer):
    """A layer whose rule reads something over the outputs, where these are [batch, *positions, classes].

    Every position is an example of its own, as it is to a loss that averages over all of them: the layer runs on
    [batch * positions, units], its e and target are those of the position, and so are its maps from the outputs.
    """

    def shape_of(self, *spaces: str) -> tuple[int, ...]:
        units = self.linear_map()
        sizes = {"pre": units.units_in, "post": units.units_out}
        return (self.classes or 0, *(sizes[space] for space in spaces if space != "out"))

    def check_neurons(self, x: Tensor) -> None:
        """The maps are those of any position."""

    def forward(self, x: Tensor) -> Tensor:
        axes = x.dim() - self.example_axes
        if axes < 2:
            return super().forward(x)  # type: ignore[no-any-return]
        zeros = self.network.running.output
        before = 0 if zeros is None else len(zeros)
        u: Tensor = super().forward(x.flatten(0, axes - 1)).unflatten(0, x.shape[:axes])
        for zero in [] if zeros is None else [zeros.pop() for _ in range(len(zeros) - before)]:
            zeros.append(zero.unflatten(0, x.shape[:axes]) if zero.dim() else zero)
        return u


class Mixed(RuleLayer):
    """A layer in a network in which others follow another rule: it takes part in what that rule needs of it.

    In a phase that its own rule does not have it sends errors on, and learns nothing. Where others read its delta, it
    adds their perturbation to its u.
    """

    def _get_name(self) -> str:
        return type(self).__name__.removeprefix("Mixed")  # as print(net) shows it

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
