"""Sign-concordant feedback, strict normalisation (usf_sn).

Source: Moskovitz et al. 2018, eq. 5

Locality: nonlocal; norm(W) -> send, sign(W) -> send.

Made by ruledsl 0.1.0 from rule text 6b1bd1eca398954a.

A network is pure functions of its layers' parameters and states:

    hidden, output = Dense(784, 256), Dense(256, 10)
    params_1, state_1 = init(hidden, key_1)
    params_2, state_2 = init(output, key_2)

    logits = apply(output, params_2, state_2, jax.nn.relu(apply(hidden, params_1, state_1, x)))

and `jax.grad` of a loss of the logits gives the rule's pseudo-gradients, for any optimizer.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of a
layer: Dense, Convolution or Embedding. Maps between its two sides, in either direction, are stored
like W: [in, out] or [height, width, in / groups, out].
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ruledsl_jax.linear import Linear, forward_weights
from ruledsl_jax.mesh import vary_alike
from ruledsl_jax.randomness import Key, named


def send(layer, W, delta):
    """The error for the neurons that feed this layer: norm(W) / norm(sign(W)) * (sign(W.T) @ delta)."""
    sign = jnp.sign(W)
    return jnp.sqrt(jnp.sum(jnp.square(W))) / jnp.sqrt(jnp.sum(jnp.square(sign))) * layer.adjoint(sign, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(layer, W, b, x):
    """u = W @ x + b, whose derivative is what the rule says."""
    return layer.apply(W, x, b)


def affine_fwd(layer, W, b, x):
    return affine(layer, W, b, x), (W, x)


def affine_bwd(layer, residuals, delta):
    W, x = residuals
    sent = send(layer, W, delta) if layer.sends else None
    return grad_W(layer, x, delta), grad_b(layer, delta), sent


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None."""

    W: Array
    b: Array | None


class State(NamedTuple):
    """What else belongs to the rule: nothing."""


def init(layer: Linear, key: Key, *, W: Array | None = None, b: Array | None = None) -> tuple[Params, State]:
    """First values, for the W and b of a network that exists, or with new ones."""
    if W is None:
        W, b = forward_weights(layer, named(key, "W"))
    return Params(W, b), State()


def apply(layer: Linear, params: Params, state: State, x: Array) -> Array:
    """u = W @ x + b: [batch, *pre] -> [batch, *post]."""
    W, b = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    return affine(layer, *vary_alike(W, b, x))
