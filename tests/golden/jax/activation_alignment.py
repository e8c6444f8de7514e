"""Activation alignment (activation_alignment).

Source: Kunin et al. 2020, R_AA; section B.2

Locality: nonlocal; pool(positions) -> send, pool(positions) -> B, reverse(B) -> B.

alpha  weight of sparse
beta   weight of amp

Made by ruledsl 0.1.0 from rule text fbbd303a6adbf24e.

A network is pure functions of its layers' parameters and states:

    hidden, output = Dense(784, 256), Dense(256, 10)
    params_1, state_1 = init(hidden, key_1, sends=False)  # the first layer sends to nobody
    params_2, state_2 = init(output, key_2)

    logits = apply(output, params_2, state_2, jax.nn.relu(apply(hidden, params_1, state_1, x)))

and `jax.grad` of a loss of the logits gives the rule's pseudo-gradients, for any optimizer.
Phases: `task` and `align` in turn:

    # layer by layer
    u, gradients_by_align = align(hidden, params_1, state_1, x)

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of a
layer: Dense, Convolution or Embedding. Maps between its two sides, in either direction, are stored
like W: [in, out] or [height, width, in / groups, out].
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ruledsl_jax.linear import Linear, forward_weights
from ruledsl_jax.mesh import vary_alike
from ruledsl_jax.randomness import Key, named, normal


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * normal(key, shape)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


def grad_B_align(layer, B, b, x, u, alpha=0.001, beta=0.002):
    """The pseudo-gradient of B: outer(2 * alpha * h - beta * u, x, mean=batch).T."""
    h = layer.apply(B, x, b)
    return layer.outer(2 * alpha * h - beta * u, x, mean="batch")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(layer, W, b, B, x):
    """u = W @ x + b, whose derivative is what the rule says."""
    return layer.apply(W, x, b)


def affine_fwd(layer, W, b, B, x):
    return affine(layer, W, b, B, x), (B, x)


def affine_bwd(layer, residuals, delta):
    B, x = residuals
    sent = None if B is None else send(layer, B, delta)
    return grad_W(layer, x, delta), grad_b(layer, delta), None, sent


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None. A layer that sends to nobody has no B."""

    W: Array
    b: Array | None
    B: Array | None


class State(NamedTuple):
    """What else belongs to the rule: nothing."""


def init(
    layer: Linear, key: Key, *, W: Array | None = None, b: Array | None = None, sends: bool = True
) -> tuple[Params, State]:
    """First values, for the W and b of a network that exists, or with new ones.

    sends  False for a layer whose input has no derivative that anybody needs: it is zero there
    """
    if W is None:
        W, b = forward_weights(layer, named(key, "W"))
    B = init_B(layer.kernel_shape, named(key, "B"), layer.fan_out).astype(W.dtype) if sends else None
    return Params(W, b, B), State()


def apply(layer: Linear, params: Params, state: State, x: Array) -> Array:
    """u = W @ x + b: [batch, *pre] -> [batch, *post]."""
    W, b, B = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    return affine(layer, *vary_alike(W, b, B, x))


def align(
    layer: Linear,
    params: Params,
    state: State,
    x: Array,
    *,
    alpha: ArrayLike = 0.001,
    beta: ArrayLike = 0.002,
) -> tuple[Array, Params]:
    """The phase `align`, in which no errors travel: B gets a pseudo-gradient."""
    W, b, B = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    u = layer.apply(W, x, b)
    return u, Params(W=None, b=None, B=None if B is None else grad_B_align(layer, B, b, x, u, alpha, beta))
