"""Several optimizers for one NNX network: each pseudo-gradient goes to the one that the rule means it for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import optax
from flax import nnx
from jax import Array

from ruledsl.errors import UserError, suggest
from ruledsl.program import TASK
from ruledsl_jax import movers
from ruledsl_jax.modules import RuleLayer, rule_layers
from ruledsl_jax.optimization import optimizer as of_library
from ruledsl_jax.record import record_of
from ruledsl_jax.taught import asked

Path = tuple[Any, ...]
"""Of a variable in `nnx.state`."""


class Moments(nnx.Variable[Any]):
    """The state of an optimizer."""


class Target(NamedTuple):
    """A parameter: its name, its path, and that of what a pass brings for it."""

    name: str
    path: Path
    origin: Path


class Group(NamedTuple):
    """The parameters that one optimizer moves in the same phases."""

    optimizer: str
    phases: tuple[str, ...]
    targets: tuple[Target, ...]


class Optimizers(nnx.Module):
    """The optimizers of a network by name: `task`, and those that its rule names (`by align`).

    A parameter that two of them teach is moved by each in its own way. They move only in phases that have a
    pseudo-gradient for them.
    """

    def __init__(self, net: nnx.Module, by_name: Mapping[str, optax.GradientTransformation]) -> None:
        self.by_name = tuple(by_name.items())
        self.groups = tuple(_groups(net, by_name))
        values = _values(net)
        first = [self._made(group).init(_held(group, values)) for group in self.groups]
        self.moments = nnx.List([Moments(state) for state in first])

    def update(self, net: nnx.Module, gradients: Any, **told: Any) -> None:
        """After a backward pass, before `advance`.

        gradients  those of `nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))`
        told       `epoch` and `progress`, for optimizers that read them
        """
        phase, values = record_of(net).phase, _values(net)
        flat = nnx.to_flat_state(nnx.state(gradients))
        brought = {path: each.get_value() if isinstance(each, nnx.Variable) else each for path, each in flat}
        for number, group in enumerate(self.groups):
            if phase in group.phases:
                missing = [target for target in group.targets if target.origin not in brought]
                if missing:
                    raise UserError(
                        f"no gradient was given of {'.'.join(map(str, missing[0].origin))}",
                        "gradients = nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))(net, ...)",
                    )
                self._step(number, values, {each.name: brought[each.origin] for each in group.targets}, told)

    def move(self, net: nnx.Module, phase: str, gradients: Mapping[tuple[str, str, str], Array]) -> None:
        """A step in a phase that sees no batch: pseudo-gradients by optimizer, layer and tensor."""
        values = _values(net)
        found: dict[str, dict[str, Array]] = {}
        for (optimizer, layer, tensor), value in gradients.items():
            found.setdefault(optimizer, {})[f"{layer}.{tensor}"] = value
        for number, group in enumerate(self.groups):
            if phase in group.phases:
                self._step(number, values, {each.name: found[group.optimizer][each.name] for each in group.targets}, {})

    def _made(self, group: Group) -> optax.GradientTransformation:
        return dict(self.by_name)[group.optimizer]

    def _step(
        self, number: int, values: Mapping[Path, Any], brought: Mapping[str, Array], told: Mapping[str, Any]
    ) -> None:
        group, moments = self.groups[number], self.moments[number]
        before, update = _held(group, values), self._made(group).update
        shaped = {name: value.reshape(before[name].shape) for name, value in brought.items()}
        known = {name: value for name, value in told.items() if name in asked(update)}
        updates, state = update(shaped, moments.get_value(), before, **known)
        moments.set_value(state)
        after: Any = optax.apply_updates(before, updates)
        for target in group.targets:
            values[target.path].set_value(after[target.name])


def optimizers(
    net: nnx.Module, *, task: optax.GradientTransformation, **others: optax.GradientTransformation
) -> Optimizers:
    """An optimizer for everything that a converted network learns.

    task    what moves W, b, whatever else the rule teaches without naming an optimizer, and parameters that follow no
            rule: any transformation of optax, or `ruledsl_jax.optimizer("manhattan_1", 0.001)`
    others  by name, those that the rule names (`by align`); left out, what the rule says of them

        optimizers = ruledsl_jax.optimizers(net, task=optax.adam(1e-3))
        gradients = nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))(net, x)
        optimizers.update(net, gradients)
        ruledsl_jax.advance(net, gradients, optimizers)

    Raises UserError for a network that was not converted, and for a name that its rule doesn't know.
    """
    record_of(net)
    layers = [layer for _, layer in rule_layers(net)]
    declared = {name: own for layer in layers for name, own in layer.following.part.program.optimizers.items()}
    used = {output.optimizer for layer in layers for _, output in layer.following.binding.taught} - {TASK}
    for name, made in {"task": task, **others}.items():
        if name not in {TASK, *used}:
            raise UserError(f"no rule of this network names an optimizer `{name}`", suggest(name, {TASK, *used}))
        if not hasattr(made, "update") or not hasattr(made, "init"):
            raise UserError(
                f"{name} is {made!r}, which is no transformation of optax", f"optimizers(net, {name}=optax.sgd(0.1))"
            )
    by_name = {TASK: task}
    for name in sorted(used):
        if name not in others and name not in declared:
            raise UserError(f"the rule trains `by {name}` and does not say what that is", f"{name}=optax.sgd(0.1)")
        by_name[name] = others[name] if name in others else _declared(*declared[name])
    return Optimizers(net, by_name)


def _declared(kind: str, values: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optimizer that a rule declares: `optimizer align = adam(lr = 0.001)`."""
    from ruledsl.training.config import OptimizerConfig, as_settings

    config = OptimizerConfig.model_validate(as_settings(kind, values))
    if config.name == "adam":
        return movers.adam(config.lr, config.betas, config.eps, config.weight_decay)
    if config.name == "sgd":
        return movers.sgd(config.lr, config.momentum, config.nesterov, config.weight_decay)
    return of_library(config.name, config.lr, **config.parameters)


def _groups(net: nnx.Module, by_name: Mapping[str, Any]) -> Iterator[Group]:
    found: dict[tuple[str, tuple[str, ...]], list[Target]] = {}
    for optimizer, phases, target in _targets(net):
        found.setdefault((optimizer, phases), []).append(target)
    for (optimizer, phases), targets in found.items():
        yield Group(optimizer, phases, tuple(targets))


def _targets(net: nnx.Module) -> Iterator[tuple[str, tuple[str, ...], Target]]:
    """Every parameter with its optimizer, and the phases in which it has a pseudo-gradient for that."""
    ruled: set[Path] = set()
    for path, layer in rule_layers(net):
        phases: dict[tuple[str, str, str], set[str]] = {}
        for phase, output in layer.following.binding.taught:
            phases.setdefault((output.optimizer, output.target, _origin(layer, phase, output)), set()).add(phase)
        ruled |= {(*path, layer.name_of(name)) for name in layer.following.taught.module.Params._fields}
        for (optimizer, tensor, origin), some in phases.items():
            variable = layer.variable(tensor)
            if isinstance(variable, nnx.Param):
                name = f"{layer.following.taught.path}.{tensor}"
                yield optimizer, tuple(sorted(some)), Target(name, (*path, layer.name_of(tensor)), (*path, origin))
    for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param)):
        if path not in ruled:
            yield TASK, (TASK,), Target(".".join(map(str, path)), path, path)


def _origin(layer: RuleLayer, phase: str, output: Any) -> str:
    """The name of the variable whose gradient is a pseudo-gradient."""
    apart = output.receiver if not output.own and layer.following.taught.pass_of(phase) is not None else None
    return apart or layer.name_of(output.target)


def _values(net: nnx.Module) -> dict[Path, nnx.Variable[Any]]:
    return {path: node for path, node in nnx.iter_graph(net) if isinstance(node, nnx.Variable)}


def _held(group: Group, values: Mapping[Path, Any]) -> dict[str, Array]:
    return {target.name: values[target.path].get_value() for target in group.targets}
