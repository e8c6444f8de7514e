"""What a held-out batch shows of a network's layers, see `ruledsl.training.probes`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ruledsl.program import PROGRAM, TASK
from ruledsl.training.probes import CLASSES, Seen, effective
from ruledsl_jax import networks
from ruledsl_jax.learning import Carry, Learner, Moment, Numbers, Step, Training, Use
from ruledsl_jax.losses import losses
from ruledsl_jax.taught import Taught

Taps = dict[str, Array]
"""By path, zeros in the shape of an activity, whose derivative is the error there."""


class Passed(NamedTuple):
    """What a pass brings: deltas and the (pseudo-)gradients of W, by path."""

    deltas: Taps
    gradients: dict[str, Array]


class _Used(Use):
    """The network as it is used, under backprop; `inputs`: what is added to the input of each layer."""

    def __init__(self, learner: Learner, carry: Carry, taps: Taps, inputs: Taps) -> None:
        super().__init__(learner, carry)
        self.taps, self.inputs = taps, inputs

    def linear(self, path: str, x: Array) -> Array:
        u = super().linear(path, x + self.inputs[path] if path in self.inputs else x)
        return u + self.taps[path] if path in self.taps else u


class _Taught(Training):
    """The network as it is used, under its rules."""

    taps: Taps

    def linear(self, path: str, x: Array) -> Array:
        return super().linear(path, x) + self.taps[path]

    def norm(self, path: str, v: Array) -> Array:
        return Use(self.learner, self.step.carry._replace(params=self.params)).norm(path, v)

    def dropout(self, path: str, p: float, v: Array) -> Array:
        return v


def look(
    learner: Learner, carry: Carry, numbers: Numbers, moment: Moment, images: Array, labels: Array
) -> dict[str, Seen]:
    """Every weight layer of a network, by its path; images [batch, *size, channels]."""
    exact, taught = passes(learner)(carry, numbers, moment, images, labels)
    maps = {path: effective_map(learner, carry, numbers, moment, path) for path in learner.maps}
    direct = any(found is not None and found[1] for found in maps.values())
    below = downstream(learner)(carry, images) if direct and learner.classes <= CLASSES else {}
    seen = {}
    for path in learner.maps:
        weight, found = np.asarray(carry.params[path].W), maps[path]
        forward = weight if found is None or not found[1] else below.get(path)
        feedback = None if found is None or forward is None else (np.asarray(forward), np.asarray(found[0]))
        gradients = [np.asarray(each.gradients[path]) for each in (exact, taught) if path in each.gradients]
        delta = np.asarray(exact.deltas[path]), np.asarray(taught.deltas[path])
        seen[path] = Seen(weight, feedback, delta, (gradients[0], gradients[1]) if len(gradients) == 2 else None)
    return seen


def effective_map(
    learner: Learner, carry: Carry, numbers: Numbers, moment: Moment, path: str
) -> tuple[Array, bool] | None:
    """The map that a layer's `send` applies, and whether it is that of e; None for one that sends to nobody."""
    layer: Taught | None = learner.layers.get(path)
    if layer is None or not layer.sends:
        return None
    held = {**carry.params[path]._asdict(), **carry.state[path]._asdict()}
    known = {name: value for name, value in held.items() if value is not None}
    known |= {**told(learner, numbers, moment, path), "classes": layer.classes}
    known |= {"fan_in": layer.linear.fan_in, "fan_out": layer.linear.fan_out}
    program = vars(layer.module)[PROGRAM]
    return effective(program, layer.linear, known, jnp.eye(layer.classes or learner.classes))


def told(learner: Learner, numbers: Numbers, moment: Moment, path: str) -> Mapping[str, Any]:
    """What the functions of a layer are told beside its tensors."""
    nothing = jnp.zeros(0, jnp.int32)
    known = Step(learner, numbers, moment, nothing, nothing, Carry({}, {}, {}, {}, {}, jnp.array(True))).told[path]
    return {name: value for name, value in known.items() if name not in ("target", "batch_size")}


@cache
def passes(learner: Learner) -> Any:
    """A function: one pass under backprop, and one of the task's under the rules."""

    @jax.jit
    def both(carry: Carry, numbers: Numbers, moment: Moment, images: Array, labels: Array) -> tuple[Passed, Passed]:
        taps = {path: jnp.zeros((len(images), *own.post_shape)) for path, own in learner.maps.items()}
        params = carry.params

        def exact(params: Any, taps: Taps) -> Array:
            used = _Used(learner, carry._replace(params=params), taps, {})
            return losses(learner.loss, networks.forward(learner.architecture, used, images), labels).mean()

        step = Step(learner, numbers, moment, images, labels, carry)
        beside = {path: layer.beside(params[path]) for path, layer in learner.layers.items()}

        def ruled(learnt: Any, taps: Taps) -> Array:
            run = _Taught(step, TASK, *learnt)
            run.taps = taps
            return losses(learner.loss, run.logits(images), labels).mean()

        derived, deltas = jax.grad(exact, argnums=(0, 1))(params, taps)
        brought, errors = jax.grad(ruled, argnums=(0, 1))((params, carry.state, beside), taps)
        own = {path: derived[path].W for path in learner.maps}
        found = step.gradients(TASK, *brought)
        pseudo = {path: value for (_, path, tensor), value in found.items() if tensor == "W"}
        return Passed(deltas, own), Passed(errors, pseudo)

    return both


@cache
def downstream(learner: Learner) -> Any:
    """A function: by layer, the derivative of the logits by its input, averaged over the batch: [classes, *pre]."""

    @jax.jit
    def derived(carry: Carry, images: Array) -> dict[str, Array]:
        added = {path: jnp.zeros(layer.linear.pre_shape) for path, layer in learner.layers.items()}

        def mean(added: Taps) -> Array:
            return networks.forward(learner.architecture, _Used(learner, carry, {}, added), images).sum(0)

        return jax.tree.map(lambda each: each / len(images), jax.jacrev(mean)(added))

    return derived
