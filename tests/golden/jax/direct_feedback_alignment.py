"""Direct feedback alignment (direct_feedback_alignment).

Source: Nokland 2016; Moskovitz et al. 2018, section 2

Locality: local; broadcast(e) -> send.

Made by ruledsl 0.1.0 from rule text 539abcf79db70b50.

A network is pure functions of its layers' parameters and states:

    hidden, output = Dense(784, 256), Dense(256, 10)
    params_1, state_1 = init(hidden, key_1, classes=10, sends=False)  # the first layer sends to nobody
    params_2, state_2 = init(output, key_2, classes=10)

    u, zero_1 = apply(hidden, params_1, state_1, x, classes=10)
    logits, zero_2 = apply(output, params_2, state_2, jax.nn.relu(u), classes=10)
    logits = logits + zero_1 + zero_2

and `jax.grad` of a loss of the logits gives the rule's pseudo-gradients, for any optimizer.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of a
layer: Dense, Convolution or Embedding. Maps between its two sides, in either direction, are stored
like W: [in, out] or [height, width, in / groups, out]; B is [classes, *pre].
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ruledsl_jax.linear import Linear, forward_weights
from ruledsl_jax.mesh import vary_alike
from ruledsl_jax.randomness import Key, named, normal


def init_B(shape, key, sources):
    """The first value of B: normal(0, sqrt(2 / sources))."""
    return math.sqrt(2 / sources) * normal(key, shape)


def send(B, e):
    """The error for the neurons that feed this layer: B @ e."""
    return jnp.tensordot(e, B, axes=1)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def affine(layer, classes, W, b, B, x):
    """u = W @ x + b, whose derivative is what the rule says, and a zero [batch, classes] whose gradient is
    e.
    """
    u = layer.apply(W, x, b)
    return u, jnp.zeros_like(u, shape=(len(u), classes))


def affine_fwd(layer, classes, W, b, B, x):
    return affine(layer, classes, W, b, B, x), (B, x)


def affine_bwd(layer, classes, residuals, errors):
    B, x = residuals
    delta, e = errors
    sent = None if B is None else send(B, e)
    return grad_W(layer, x, delta), grad_b(layer, delta), None, sent


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None."""

    W: Array
    b: Array | None


class State(NamedTuple):
    """What else belongs to the rule. A layer that sends to nobody has no B."""

    B: Array | None


def init(
    layer: Linear,
    key: Key,
    *,
    classes: int,
    W: Array | None = None,
    b: Array | None = None,
    sends: bool = True,
) -> tuple[Params, State]:
    """First values, for the W and b of a network that exists, or with new ones.

    sends  False for a layer whose input has no derivative that anybody needs: it is zero there
    """
    if W is None:
        W, b = forward_weights(layer, named(key, "W"))
    B = init_B((classes, *layer.pre_shape), named(key, "B"), classes).astype(W.dtype) if sends else None
    return Params(W, b), State(B)


def apply(layer: Linear, params: Params, state: State, x: Array, *, classes: int) -> tuple[Array, Array]:
    """u = W @ x + b: [batch, *pre] -> [batch, *post], and a zero for the network's output."""
    W, b = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    return affine(layer, classes, *vary_alike(W, b, state.B, x))
