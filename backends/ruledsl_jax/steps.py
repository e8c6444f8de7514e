"""What a converted NNX network is told before a step, and what happens between two: all that is no pseudo-gradient."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ruledsl.errors import UserError
from ruledsl_jax.modules import BATCH, TELLABLE, Assigned, RuleLayer, rule_layers


def observe(net: nnx.Module, *, target: Array | None = None, **scalars: Any) -> None:
    """Tell a converted network what its rule reads beside activity; before the forward pass, also inside `nnx.jit`.

    target: class indices [batch] or one-hot [batch, classes]; scalars: `epoch`, `progress` (0 to 1), `lr`.
    Those that no function reads are ignored. Raises UserError for other names or shapes.
    """
    for name in scalars:
        if name not in TELLABLE:
            raise UserError(f"a network can't observe `{name}`", "it can observe target, epoch, progress and lr")
    for layer in _layers(net).values():
        binding = layer.following.binding
        for name, value in scalars.items():
            if name in binding.clocked:
                getattr(layer, name).set_value(jnp.asarray(value, float))
        if target is not None and "target" in binding.reads:
            layer.target.set_value(_one_hot(target, layer.following.classes or 0))


def advance(net: nnx.Module, gradients: Any = None) -> None:
    """After the optimizer's update: store what `<-` computed, run `after step`, draw `fresh` anew.

    A rule that reads `batch_size` is given that of the last forward pass.

    gradients   needed by rules that assign what they compute from activity: the result of
                `nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))`
    Works inside `nnx.jit`. Raises UserError for a network that was not converted, or where gradients are missing.
    """
    arrived = _arrived(gradients)
    for path, layer in _layers(net).items():
        if hasattr(layer.following.module, "advance"):
            _advance(layer, {names[-1]: value for names, value in arrived.items() if names[:-1] == path})
        if "step" in layer.following.binding.clocked:
            step: Any = getattr(layer, "step")  # noqa: B009
            step.set_value(step.get_value() + 1)


def _advance(layer: RuleLayer, arrived: dict[str, Array]) -> None:
    following, module = layer.following, layer.following.module
    given = layer.arguments()
    asked = inspect.signature(module.advance).parameters
    fields = (*("changes" in asked) * module.State._fields, *("beside" in asked) * layer.receivers)
    expected = [name for name in fields if isinstance(layer.variable(name), Assigned)]
    if not arrived.keys() >= set(expected):
        raise UserError(
            f"{following.part.rule} computes {expected[0]} from activity, and no gradient of that was given",
            "gradients = nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))(net, ...); "
            "advance(net, gradients)",
        )
    given["changes"] = module.State(*(arrived.get(name) for name in module.State._fields))
    if layer.receivers:
        given["beside"] = module.Beside(*(arrived.get(name) for name in layer.receivers))
    if hasattr(layer, BATCH):
        given["batch_size"] = getattr(layer, BATCH).get_value()
    params, state = following.call(module.advance, layer=layer.linear_map(), key=layer.split_key(), **given)
    for made, before in ((params, given["params"]), (state, given["state"])):
        for name, value in made._asdict().items():
            variable = layer.variable(name)
            if variable is not None and value is not getattr(before, name):
                variable.set_value(jax.tree.map(lambda new, old: new.astype(old.dtype), value, getattr(before, name)))


def _layers(net: nnx.Module) -> dict[tuple[Any, ...], RuleLayer]:
    layers = dict(rule_layers(net))
    if not layers:
        raise UserError(f"this {type(net).__name__} was not converted", "net = convert(net, rule) comes first")
    return layers


def _arrived(gradients: Any) -> dict[tuple[Any, ...], Array]:
    if gradients is None:
        return {}
    flat = nnx.to_flat_state(nnx.state(gradients, Assigned))
    return {path: jnp.asarray(value.get_value() if isinstance(value, nnx.Variable) else value) for path, value in flat}


def _one_hot(target: Array, classes: int) -> Array:
    one_hot = jax.nn.one_hot(target, classes) if target.ndim == 1 else target
    if one_hot.ndim != 2 or one_hot.shape[1] != classes:
        raise UserError(f"target has the shape {list(target.shape)}, where [batch] or [batch, {classes}] was expected")
    return one_hot
