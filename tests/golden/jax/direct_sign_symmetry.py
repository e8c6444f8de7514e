"""Sign-symmetric direct feedback alignment (direct_sign_symmetry).

Source: Liao et al. 2015, section 2, setting 3, with the learning of Webster, Choi & Ahn 2021,
section 3

Locality: local; broadcast(e) -> send, broadcast(e) -> C.

decay  weight decay, the same for W and C

Made by ruledsl 0.1.0 from rule text 6c689565bed33af5.

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
like W: [in, out] or [height, width, in / groups, out]; M is [classes, *pre], C is [classes, *pre].
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


def init_M(shape, key, sources):
    """The first value of M: normal(0, sqrt(2 / sources))."""
    return math.sqrt(2 / sources) * normal(key, shape)


def init_C(shape, key, sources):
    """The first value of C: normal(0, sqrt(2 / sources))."""
    return math.sqrt(2 / sources) * normal(key, shape)


def send(M, C, e):
    """The error for the neurons that feed this layer: abs(M) * sign(C) @ e."""
    return jnp.tensordot(e, jnp.abs(M) * jnp.sign(C), axes=1)


def grad_W(layer, W, x, delta, decay=0.0001):
    """The pseudo-gradient of W: outer(delta, x) + decay * W."""
    return layer.outer(delta, x) + decay * W


def grad_C(C, x, e, decay=0.0001):
    """The pseudo-gradient of C: outer(x, e) + decay * C."""
    return jnp.tensordot(e, x, axes=([0], [0])) + decay * C


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def affine(layer, classes, W, b, M, C, x, decay):
    """u = W @ x + b, whose derivative is what the rule says, and a zero [batch, classes] whose gradient is
    e.
    """
    u = layer.apply(W, x, b)
    return u, jnp.zeros_like(u, shape=(len(u), classes))


def affine_fwd(layer, classes, W, b, M, C, x, decay):
    return affine(layer, classes, W, b, M, C, x, decay), (W, M, C, x, decay)


def affine_bwd(layer, classes, residuals, errors):
    W, M, C, x, decay = residuals
    delta, e = errors
    sent = None if M is None else send(M, C, e)
    return (
        grad_W(layer, W, x, delta, decay),
        grad_b(layer, delta),
        None,
        None if M is None else grad_C(C, x, e, decay),
        sent,
        None,
    )


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None. A layer that sends to nobody has no C."""

    W: Array
    b: Array | None
    C: Array | None


class State(NamedTuple):
    """What else belongs to the rule. A layer that sends to nobody has no M."""

    M: Array | None


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
    M = init_M((classes, *layer.pre_shape), named(key, "M"), classes).astype(W.dtype) if sends else None
    C = init_C((classes, *layer.pre_shape), named(key, "C"), classes).astype(W.dtype) if sends else None
    return Params(W, b, C), State(M)


def apply(
    layer: Linear, params: Params, state: State, x: Array, *, classes: int, decay: ArrayLike = 0.0001
) -> tuple[Array, Array]:
    """u = W @ x + b: [batch, *pre] -> [batch, *post], and a zero for the network's output."""
    W, b, C = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    return affine(layer, classes, *vary_alike(W, b, state.M, C, x, decay))
