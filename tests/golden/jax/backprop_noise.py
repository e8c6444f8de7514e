"""Backpropagation with noise (backprop_noise).

Source: Moskovitz et al. 2018, section 5.3

Locality: nonlocal; pool(units) -> send, reverse(W) -> send, pool(units) -> W.

scale  standard deviation of the noise relative to that of the gradient

Made by ruledsl 0.1.0 from rule text 0b658bc067bfa31f.

A network is pure functions of its layers' parameters and states:

    hidden, output = Dense(784, 256), Dense(256, 10)
    params_1, state_1 = init(hidden, key_1)
    params_2, state_2 = init(output, key_2)

    logits = apply(output, params_2, state_2, jax.nn.relu(apply(hidden, params_1, state_1, x)))

and `jax.grad` of a loss of the logits gives the rule's pseudo-gradients, for any optimizer.
Beside gradient descent:

    # after each step
    params_2, state_2 = advance(output, params_2, state_2, key)

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
from jax.typing import ArrayLike

from ruledsl_jax.linear import Linear, forward_weights
from ruledsl_jax.mesh import vary_alike
from ruledsl_jax.randomness import Key, named, normal


def draw_N(shape, key):
    """The value of N in this step: normal(0, 1)."""
    return normal(key, shape)


def send(layer, W, delta):
    """The error for the neurons that feed this layer: W.T @ delta."""
    return layer.adjoint(W, delta)


def grad_W(layer, N, x, delta, scale=1):
    """The pseudo-gradient of W: G + scale * std(G) * N."""
    G = layer.outer(delta, x)
    return G + scale * jnp.std(G) * N


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(layer, W, b, N, x, scale):
    """u = W @ x + b, whose derivative is what the rule says."""
    return layer.apply(W, x, b)


def affine_fwd(layer, W, b, N, x, scale):
    return affine(layer, W, b, N, x, scale), (W, N, x, scale)


def affine_bwd(layer, residuals, delta):
    W, N, x, scale = residuals
    sent = send(layer, W, delta) if layer.sends else None
    return grad_W(layer, N, x, delta, scale), grad_b(layer, delta), None, sent, None


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None."""

    W: Array
    b: Array | None


class State(NamedTuple):
    """What else belongs to the rule."""

    N: Array


def init(layer: Linear, key: Key, *, W: Array | None = None, b: Array | None = None) -> tuple[Params, State]:
    """First values, for the W and b of a network that exists, or with new ones."""
    if W is None:
        W, b = forward_weights(layer, named(key, "W"))
    N = draw_N(layer.kernel_shape, named(key, "N")).astype(W.dtype)
    return Params(W, b), State(N)


def apply(layer: Linear, params: Params, state: State, x: Array, *, scale: ArrayLike = 1) -> Array:
    """u = W @ x + b: [batch, *pre] -> [batch, *post]."""
    W, b = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    return affine(layer, *vary_alike(W, b, state.N, x, scale))


def advance(layer: Linear, params: Params, state: State, key: Key) -> tuple[Params, State]:
    """Between two steps: N drawn anew."""
    state = state._replace(N=draw_N(state.N.shape, named(key, "N")).astype(state.N.dtype))
    return params, state
