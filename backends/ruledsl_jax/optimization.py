"""The library's optimizers, and your own, as optax transformations."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import partial
from inspect import isclass, isfunction, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import optax

from ruledsl.errors import UserError, suggest
from ruledsl.program import Program

if TYPE_CHECKING:
    from ruledsl.rule import Rule


def optimizer(
    rule: str | Path | Program | Rule,
    learning_rate: optax.ScalarOrSchedule = 0.001,
    *,
    key: jax.Array | int | None = None,
    **parameters: Any,
) -> optax.GradientTransformation:
    """An optax transformation that moves parameters as an `optimizer` definition says.

    rule            a name of the library (`"manhattan_1"`), a path, `ruledsl.load(...)`, or a compiled Program
    learning_rate   a number, or a schedule of the number of steps
    key             for a definition that draws: a key, or a number that stands for one
    parameters      values for its parameters; static ones too, where the rule is a name or a path

    Raises UserError for what is no optimizer, and for parameters that it doesn't have.
    """
    import ruledsl

    if isinstance(rule, str | Path):
        known = ruledsl.load(rule).parameters
        for name in parameters:
            if name not in known:
                raise UserError(f"the optimizer {rule} has no parameter `{name}`", suggest(name, known))
        rule, parameters = ruledsl.load(rule, **parameters), {}
    program = rule if isinstance(rule, Program) else rule.compile("jax")
    for name in parameters:
        if name not in program.parameters:
            help = suggest(name, program.parameters)
            raise UserError(f"the optimizer {program.rule} has no parameter `{name}`", help)
    make = factory(program)
    if key is not None:
        if "key" not in signature(make).parameters:
            raise UserError(f"the optimizer {program.rule} draws nothing, and takes no key")
        parameters["key"] = key
    return make(learning_rate, **parameters)


def factory(program: Program) -> Callable[..., optax.GradientTransformation]:
    """The function of a module that makes the transformation, as `optax.inject_hyperparams` takes it.

    Raises UserError for what is no optimizer.
    """
    made = None
    for each in vars(program.module).values():
        if isfunction(each) and next(iter(signature(each).parameters), None) == "learning_rate":
            made = each
        elif isclass(each) and issubclass(each, tuple):
            copyreg.pickle(each, partial(_reduced, program))
    if made is None:
        raise UserError(f"{program.rule} is no optimizer: it does not move p")
    return made


def _reduced(program: Program, state: Any) -> tuple[Any, ...]:
    # A class that was made from text is found again through the program that has the text.
    return _restored, (program, type(state).__name__, tuple(state))


def _restored(program: Program, name: str, fields: tuple[Any, ...]) -> Any:
    factory(program)
    return getattr(program.module, name)(*fields)
