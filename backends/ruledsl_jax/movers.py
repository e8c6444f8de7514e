"""What moves parameters in training: an optimizer's part for those parameters that it is given in the same phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ruledsl_jax.taught import asked

Target = tuple[str, str]
"""A layer's path, and one of its tensors."""
Make = Callable[[Any, Any], optax.GradientTransformation]
Choice = Callable[[Any, Any], Any]
"""From new values and old ones, those to be stored: the old ones, if the loss was no finite number."""


def _new(new: Any, old: Any) -> Any:
    return new


@dataclass(frozen=True, eq=False)
class Mover:
    """An optimizer, for some parameters.

    optimizer  its name: `task`, or what a rule calls it
    phases     those in which all of its targets have a gradient
    make       from a learning rate and a random key, the transformation; its `update` may take more by name: what
               `move` is told, and `fine`, with which it stores
    """

    name: str
    optimizer: str
    phases: frozenset[str]
    targets: tuple[Target, ...]
    make: Make

    def first(self, params: Mapping[str, Any], key: Array) -> Any:
        """The state before the first step."""
        return self.make(0.0, key).init(self._of(params))

    def move(
        self,
        state: Any,
        params: Mapping[str, Any],
        gradients: Mapping[tuple[str, str, str], Array],
        rate: Array,
        told: Mapping[str, Any],
    ) -> tuple[Any, dict[Target, Array]]:
        """One step: the next state, and the parameters that have moved. `told`: the counters, and `fine`, a Choice."""
        before = self._of(params)
        brought = {_flat(target): gradients[self.optimizer, *target] for target in self.targets}
        update = self.make(rate, None).update
        known = {name: value for name, value in told.items() if name in asked(update)}
        updates, after = update(brought, state, before, **known)
        fine: Choice = told["fine"]
        moved = fine(optax.apply_updates(before, updates), before)
        return after if "fine" in known else fine(after, state), {
            target: moved[_flat(target)] for target in self.targets
        }

    def _of(self, params: Mapping[str, Any]) -> dict[str, Array]:
        return {_flat(target): getattr(params[target[0]], target[1]) for target in self.targets}


def adam(rate: Any, betas: tuple[float, float], eps: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam as PyTorch has it: the decay is part of the gradient."""
    scale, decayed = optax.scale_by_adam(*betas, eps), _decayed(weight_decay)

    def update(gradients: Any, state: Any, params: Any, fine: Choice = _new) -> tuple[Any, Any]:
        # The direction is computed from what is stored, which then needs no second copy.
        _, after = scale.update(decayed(gradients, params), state)
        after = fine(after, state)
        first, second = (1 - beta**after.count for beta in betas)

        def change(m: Array, v: Array) -> Array:
            return -rate * (m / first) / (jnp.sqrt(v / second) + eps)

        return jax.tree.map(change, after.mu, after.nu), after

    return optax.GradientTransformation(scale.init, update)


def sgd(rate: Any, momentum: float, nesterov: bool, weight_decay: float) -> optax.GradientTransformation:
    """Stochastic gradient descent as PyTorch has it: the decay is part of the gradient."""
    trace, decayed = optax.trace(momentum), _decayed(weight_decay)

    def update(gradients: Any, state: Any, params: Any, fine: Choice = _new) -> tuple[Any, Any]:
        gradients = decayed(gradients, params)
        if momentum:
            # The direction is what is stored, which then needs no second copy.
            state = fine(trace.update(gradients, state)[1], state)
            ahead = jax.tree.map(lambda own, kept: own + momentum * kept, gradients, state.trace)
            gradients = ahead if nesterov else state.trace
        return jax.tree.map(lambda own: -rate * own, gradients), state

    return optax.GradientTransformation(trace.init if momentum else lambda params: optax.EmptyState(), update)


def _decayed(strength: float) -> Callable[[Any, Any], Any]:
    """From gradients and parameters, the gradients with the decay."""
    if not strength:
        return lambda gradients, params: gradients
    return lambda gradients, params: jax.tree.map(lambda own, p: own + strength * p, gradients, params)


def _flat(target: Target) -> str:
    return ".".join(target)
