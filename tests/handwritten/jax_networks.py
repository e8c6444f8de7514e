"""Two small networks whose layers follow a module's rule, and a step of learning; used as anybody would use them."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from ruledsl_jax.linear import Convolution, Dense, Linear

CLASSES, BATCH = 4, 8


@dataclass(frozen=True)
class Network:
    """Weight layers in a row, with tanh between them. A layer's input takes the shape that it asks for."""

    rule: ModuleType
    layers: tuple[Linear, ...]

    @property
    def dense_feedback(self) -> bool:
        """Whether errors of all layers downstream are told."""
        return hasattr(self.rule, "perturbations")

    def init(self, key: Array) -> tuple[list[Any], list[Any]]:
        """Parameters and states of all layers; the first one sends to nobody."""
        keys = jax.random.split(key, len(self.layers))
        made = [
            self.rule.init(layer, keys[i], *([self.layers[i + 1 :]] if self.dense_feedback else []), sends=i > 0)
            for i, layer in enumerate(self.layers)
        ]
        return [params for params, _ in made], [state for _, state in made]

    def batch(self, seed: int) -> tuple[Array, Array]:
        """x: [batch, *pre] and labels: [batch]."""
        x = jax.random.normal(jax.random.key(100 + seed), (BATCH, *self.layers[0].pre_shape))
        return x, jnp.arange(BATCH) % CLASSES

    def logits(self, params: Any, state: Any, x: Array, remat: bool = False) -> Array:
        """[batch, classes]"""
        apply = jax.checkpoint(self.rule.apply, static_argnums=(0,)) if remat else self.rule.apply
        zeros = self.rule.perturbations(self.layers, x) if self.dense_feedback else ()
        u = x
        for i, layer in enumerate(self.layers):
            x = u.reshape(len(u), *layer.pre_shape)
            x = jnp.tanh(x) if i else x
            if self.dense_feedback:
                u, zeros = apply(layer, params[i], state[i], x, zeros)
            else:
                u = apply(layer, params[i], state[i], x)
        return u

    def loss(self, params: Any, state: Any, x: Array, labels: Array, remat: bool = False) -> Array:
        """Mean cross-entropy."""
        logits = self.logits(params, state, x, remat)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

    def step(
        self, params: Any, state: Any, key: Array, batch: tuple[Array, Array], rate: Any = 0.1
    ) -> tuple[list[Any], list[Any]]:
        """The phases of a step: gradient descent in the task, then the mirror, where the rule has one."""
        gradients = jax.grad(self.loss)(params, state, *batch)
        params = jax.tree.map(lambda p, g: p - rate * g, params, gradients)
        if hasattr(self.rule, "mirror"):
            keys = jax.random.split(key, len(self.layers))
            state = state[:1] + [
                self.rule.mirror(self.layers[i], params[i], state[i], keys[i], BATCH, eta_B=rate)
                for i in range(1, len(self.layers))
            ]
        return params, state

    def by_hand(self, params: Any, state: Any, x: Array, labels: Array) -> list[Any]:
        """The pseudo-gradients without automatic differentiation: errors are sent from layer to layer."""
        inputs, u = [], x
        for i, layer in enumerate(self.layers):
            x = u.reshape(len(u), *layer.pre_shape)
            inputs.append(jnp.tanh(x) if i else x)
            u = layer.apply(params[i].W, inputs[i], params[i].b)
        deltas = [(jax.nn.softmax(u) - jax.nn.one_hot(labels, CLASSES)) / len(labels)]
        gradients: list[Any] = []
        for i, layer in reversed(list(enumerate(self.layers))):
            delta, x, maps = deltas[0], inputs[i], tuple(state[i])
            gradients.insert(0, self.rule.Params(self.rule.grad_W(layer, x, delta), self.rule.grad_b(layer, delta)))
            if i:
                further = (tuple(deltas[1:]),) if self.dense_feedback else ()
                sent = self.rule.send(layer, *maps, delta, *further) * (1 - x**2)
                deltas.insert(0, sent.reshape(len(x), *self.layers[i - 1].post_shape))
        return gradients


def mlp(rule: ModuleType) -> Network:
    """7-6-5-4"""
    return Network(rule, (Dense(7, 6), Dense(6, 5), Dense(5, CLASSES)))


def convnet(rule: ModuleType) -> Network:
    """Two convolutions on [6, 6, 2], one of them with stride and groups, and a dense layer."""
    first = Convolution(2, 4, (3, 3), (6, 6), padding=(1, 1))
    second = Convolution(4, 6, (3, 3), (6, 6), stride=(2, 2), groups=2)
    return Network(rule, (first, second, Dense(24, CLASSES)))
