"""What a converted NNX network is told before a step, and what happens between two: all that is no pseudo-gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ruledsl.errors import UserError, suggest
from ruledsl.program import TASK
from ruledsl_jax.modules import BATCH, CLOCK, PARAMETER, TELLABLE, Assigned, RuleLayer, Told, rule_layers
from ruledsl_jax.record import IDLE, Record, record_of
from ruledsl_jax.taught import asked, call

if TYPE_CHECKING:
    from ruledsl_jax.routing import Optimizers

Arrived = Mapping[str, Array]
"""The gradients of a layer's assigned tensors, by the names of these."""


def observe(net: nnx.Module, *, target: Array | None = None, **scalars: Any) -> None:
    """Tell a converted network what its rule reads beside activity; before the forward pass, also inside `nnx.jit`.

    target: class indices [batch] or one-hot [batch, classes]; scalars: `epoch`, `progress` (0 to 1), `lr`, and new
    values for parameters of the rule. A schedule's `first` epochs count by `epoch`, from 0, which is a number of Python
    then: another phase is another program.
    Those that no function reads are ignored. Raises UserError for other names or shapes.
    """
    record, layers = _parts(net)
    followers = [layer for layer in layers.values() if layer.following.part.rule == record.rule] or [*layers.values()]
    known = list(dict.fromkeys(name for layer in followers for name in layer.following.part.parameters))
    for name, value in scalars.items():
        if name in known:
            _change(followers, name, value)
        elif name not in TELLABLE:
            raise UserError(f"a network can't observe `{name}`", suggest(name, (*known, "target", *TELLABLE)))
        for layer in layers.values() if name in TELLABLE else ():
            if name in layer.following.clocked:
                getattr(layer, name).set_value(jnp.asarray(value, float))
    if "epoch" in scalars and record.schedule.first:
        if isinstance(scalars["epoch"], jax.core.Tracer):
            raise UserError(
                f"{record.rule} has phases of its own in its first epochs, and epoch is known only when a program runs",
                "call observe(net, epoch=...) outside of nnx.jit",
            )
        net.ruledsl = record.told(float(scalars["epoch"]))  # type: ignore[attr-defined]
    for layer in layers.values() if target is not None else ():
        if "target" in layer.following.binding.reads:
            layer.target.set_value(_one_hot(jnp.asarray(target), layer.following.taught.classes or 0))


def _change(layers: Iterable[RuleLayer], name: str, value: Any) -> None:
    """Give a parameter of a rule another value."""
    held, number = PARAMETER.format(name), jnp.asarray(value, float)
    for layer in layers:
        if name in layer.following.part.parameters and held in vars(layer):
            getattr(layer, held).set_value(number)
        elif name in layer.following.part.parameters:
            setattr(layer, held, Told(number))


def advance(net: nnx.Module, gradients: Any = None, optimizers: Optimizers | None = None) -> None:
    """After the optimizer's update: store what `<-` computed, run driven phases and `after step`, draw `fresh` anew.

    Then the network is ready for the next step, in whichever phase that is: `net.ruledsl.phase`. A step in which
    several phases see the batch takes as many passes, with `advance` after each; the last one ends the step.

    gradients   needed by rules that assign what they compute from activity: the result of
                `nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))`
    optimizers  what `ruledsl_jax.optimizers` made, needed by rules that have something for them in a driven phase
    Works inside `nnx.jit`. Raises UserError for a network that was not converted, or where one of these is missing.
    """
    record, layers = _parts(net)
    arrived = _arrived(gradients)
    brought = {name: arrived.get(path, {}) for name, (path, _) in _paths(net).items()}
    phase = record.phase
    if phase != IDLE:
        for name, layer in layers.items():
            _end_pass(layer, phase, record.passes_as in record.errors or phase == TASK, brought[name])
        record = record.after_pass()
        if record.waiting:
            net.ruledsl = record  # type: ignore[attr-defined]
            return
    for each in record.phases:
        if each in record.driven:
            _drive(net, layers, each, optimizers)
    for name, layer in layers.items():
        _end_step(layer, brought[name] if phase == TASK else {})
    after = record.after_step()
    if after != net.ruledsl:  # type: ignore[attr-defined]
        net.ruledsl = after  # type: ignore[attr-defined]


def _end_pass(layer: RuleLayer, phase: str, errors: bool, arrived: Arrived) -> None:
    """Store what `<-` made of a pass; of a rule that has the task alone, that waits for the end of the step."""
    taught = layer.following.taught
    if not errors:
        moved = [o.target for o in taught.outputs_of(phase) if o.kind != "grad"] if taught.has(phase) else []
        moved = [name for name in moved if layer.variable(name) is not None]
        moved = [name for name in moved if taught.sends or name not in taught.binding.serves_sending]
        _check(layer, moved, arrived)
        for name in moved:
            layer.set_value(name, layer.value(name) + arrived[layer.name_of(name)].reshape(layer.value(name).shape))
    elif taught.has(f"advance_{phase}"):
        _store(layer, f"advance_{phase}", arrived)


def _end_step(layer: RuleLayer, arrived: Arrived) -> None:
    """`after step`, in order; `fresh` tensors, constraints and the counters."""
    following, taught = layer.following, layer.following.taught
    if taught.has("advance"):
        _store(layer, "advance", arrived)
    for one in following.constraints:
        fields = one.program.module.State._fields
        kept = one.program.module.State(*(layer.value(f"{one.rule}_{name}") for name in fields))
        known = {**layer.arguments(), **one.parameters, "state": kept, "key": layer.key(), "layer": layer.linear_map()}
        known |= {"phi": taught.phi, "classes": taught.classes}
        params, kept = call(one.program.module.after_step, known)
        _put(layer, params, known["params"])
        for name, value in kept._asdict().items():
            layer.set_value(f"{one.rule}_{name}", value)
    for name in ("step" in following.clocked) * ("step",) + hasattr(layer, CLOCK) * (CLOCK,):
        counter: Told = getattr(layer, name)
        counter.set_value(counter.get_value() + 1)


def _store(layer: RuleLayer, name: str, arrived: Arrived) -> None:
    """Call a function that stores."""
    taught = layer.following.taught
    given = layer.arguments()
    names = asked(getattr(taught.module, name))
    fields = (*("changes" in names) * taught.module.State._fields, *("beside" in names) * layer.receivers)
    expected = [field for field in fields if isinstance(layer.variable(field), Assigned)]
    expected += [BATCH] * ("batch_size" in names)
    _check(layer, expected, arrived)
    given["changes"] = taught.module.State(*(arrived.get(field) for field in taught.module.State._fields))
    if layer.receivers:
        given["beside"] = taught.module.Beside(*(arrived.get(field) for field in layer.receivers))
    given["batch_size"] = arrived.get(BATCH)
    params, state = taught.run(name, **{**given, "key": layer.key(), "layer": layer.linear_map()})
    _put(layer, params, given["params"])
    _put(layer, state, given["state"])


def _check(layer: RuleLayer, expected: Iterable[str], arrived: Arrived) -> None:
    """Raises UserError where something that an assignment reads has not arrived."""
    missing = [name for name in expected if name not in arrived]
    if missing:
        raise UserError(
            f"{layer.following.part.rule} computes {missing[0]} from activity, and no gradient of that was given",
            "gradients = nnx.grad(loss, argnums=nnx.DiffState(0, ruledsl_jax.TAUGHT))(net, ...); "
            "advance(net, gradients)",
        )


def _put(layer: RuleLayer, made: Any, before: Any) -> None:
    """Store the fields of Params or State that have changed."""
    for name, value in made._asdict().items():
        if value is not None and value is not getattr(before, name):
            layer.set_value(name, value)


def _drive(net: nnx.Module, layers: Mapping[str, RuleLayer], phase: str, optimizers: Optimizers | None) -> None:
    """One step of a phase with `drive` in all layers."""
    gradients: dict[tuple[str, str, str], Array] = {}
    stored: list[tuple[RuleLayer, Any, Any]] = []
    for path, layer in layers.items():
        taught = layer.following.taught
        own = next((each for each in taught.binding.driven if each.phase == phase), None)
        if own is None or not (taught.sends or not own.sending_only):
            continue
        given = {**layer.arguments(), "key": layer.key(), "batch_size": layer.following.batch}
        brought, results = taught.sorted_results(phase, taught.run(phase, **given))
        gradients |= {(optimizer, path, name): value for (optimizer, name), value in brought.items()}
        before = given["params"], given["state"]
        stored += [(layer, new, old) for new, old in zip(results, before, strict=True) if new is not None]
    if gradients and optimizers is None:
        raise UserError(
            f"{record_of(net).rule} trains `by {next(iter(gradients))[0]}` in the phase {phase}, and nobody does so",
            "optimizers = ruledsl_jax.optimizers(net, task=...); advance(net, gradients, optimizers)",
        )
    if optimizers is not None:
        optimizers.move(net, phase, gradients)
    for layer, new, before in stored:
        _put(layer, new, before)


def _parts(net: nnx.Module) -> tuple[Record, dict[str, RuleLayer]]:
    """The record of a network, and its layers by name in the order in which they run."""
    record = record_of(net)
    found = {name: layer for name, (_, layer) in _paths(net).items()}
    return record, {name: found[name] for name in record.layers}


def _paths(net: nnx.Module) -> dict[str, tuple[tuple[Any, ...], RuleLayer]]:
    """By name, the layers and their paths in `nnx.state`."""
    return {layer.following.taught.path: (path, layer) for path, layer in rule_layers(net)}


def _arrived(gradients: Any) -> dict[tuple[Any, ...], dict[str, Array]]:
    """By path of a layer, what has arrived for its assigned tensors."""
    found: dict[tuple[Any, ...], dict[str, Array]] = {}
    if gradients is None:
        return found
    for path, value in nnx.to_flat_state(nnx.state(gradients, Assigned)):
        array = jnp.asarray(value.get_value() if isinstance(value, nnx.Variable) else value)
        found.setdefault(path[:-1], {})[path[-1]] = array
    return found


def _one_hot(target: Array, classes: int) -> Array:
    one_hot = jax.nn.one_hot(target, classes) if target.ndim == 1 else target
    if one_hot.ndim != 2 or one_hot.shape[1] != classes:
        raise UserError(f"target has the shape {list(target.shape)}, where [batch] or [batch, {classes}] was expected")
    return one_hot
