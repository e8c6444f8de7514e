"""What a converted NNX network is told before a step, and what happens between two: all that is no pseudo-gradient."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

from ruledsl.errors import UserError
from ruledsl_jax.initial import advanced
from ruledsl_jax.modules import RuleLayer, Slot, rule_layers, split_key
from ruledsl_jax.plan import VISITS

TELLABLE = ("epoch", "progress", "lr")


def observe(net: nnx.Module, *, target: Array | None = None, **scalars: Any) -> None:
    """Tell a converted network what its rule reads beside activity; before the forward pass, also inside `nnx.jit`.

    target: class indices [batch] or one-hot [batch, classes]; scalars: `epoch`, `progress` (0 to 1), `lr`.
    Those that no function reads are ignored. Raises UserError for other names or shapes.
    """
    for name in scalars:
        if name not in TELLABLE:
            raise UserError(f"a network can't observe `{name}`", "it can observe target, epoch, progress and lr")
    for layer in _layers(net).values():
        for name, value in scalars.items():
            if name in layer.following.plan.clocked:
                getattr(layer, name).set_value(jnp.asarray(value, float))
        if target is not None and "target" in layer.following.plan.inputs:
            layer.target.set_value(_one_hot(target, layer.following.classes or 0))


def advance(net: nnx.Module, gradients: Any = None) -> None:
    """After the optimizer's update: store what `<-` computed, run `after step`, draw `fresh` anew.

    gradients   needed by rules that assign what they compute from activity: the result of
                `nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))`
    Works inside `nnx.jit`. Raises UserError for a network that was not converted, or where gradients are missing.
    """
    results = _slot_gradients(gradients)
    for path, layer in _layers(net).items():
        following = layer.following
        plan = following.plan
        if plan.moves:
            slots = (*plan.slots, VISITS) if plan.slots else ()
            found = {name: results[*path, name] for name in slots if (*path, name) in results}
            if len(found) < len(slots):
                assigned = ", ".join(slot.removeprefix("next ") for slot in plan.slots)
                raise UserError(
                    f"{plan.program.rule} assigns {assigned} from activity, and was given no gradients of its slots",
                    "gradients = nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))(net, ...); "
                    "advance(net, gradients)",
                )
            _store(layer, found)
        step = getattr(layer, "step", None)
        if "step" in plan.clocked and step is not None:
            step.set_value(step.get_value() + 1)


def _store(layer: RuleLayer, results: dict[str, Array]) -> None:
    following = layer.following
    before = layer.tensors()
    clock = {name: getattr(layer, name).get_value() for name in following.plan.clocked}
    after = advanced(
        following.plan,
        layer.linear_map(),
        before,
        results,
        key=split_key(layer),
        phi=following.phi,
        classes=following.classes,
        **clock,
    )
    for name, value in after.items():
        variable = layer.variable(name)
        if variable is not None and value is not before.get(name):
            variable.set_value(value)


def _layers(net: nnx.Module) -> dict[tuple[Any, ...], RuleLayer]:
    layers = dict(rule_layers(net))
    if not layers:
        raise UserError(f"this {type(net).__name__} was not converted", "net = convert(net, rule) comes first")
    return layers


def _slot_gradients(gradients: Any) -> dict[tuple[Any, ...], Array]:
    if gradients is None:
        return {}
    flat = nnx.to_flat_state(nnx.state(gradients, Slot))
    return {path: jnp.asarray(value.get_value() if isinstance(value, nnx.Variable) else value) for path, value in flat}


def _one_hot(target: Array, classes: int) -> Array:
    one_hot = jax.nn.one_hot(target, classes) if target.ndim == 1 else target
    if one_hot.ndim != 2 or one_hot.shape[1] != classes:
        raise UserError(f"target has the shape {list(target.shape)}, where [batch] or [batch, {classes}] was expected")
    return one_hot
