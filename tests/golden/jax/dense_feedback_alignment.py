"""Dense feedback alignment (dense_feedback_alignment).

Source: Moskovitz et al. 2018, section 4

Locality: local; broadcast(delta[k]) -> send.

Made by ruledsl 0.1.0 from rule text 2ffbb756ece00faf.

A network is pure functions of its layers' parameters and states. Errors reach a layer from all
layers downstream as the gradients of zeros, which every layer hands on to the next:

    first, second, third = Dense(784, 256), Dense(256, 256), Dense(256, 10)
    params_1, state_1 = init(first, key_1, sends=False)  # the first layer sends to nobody
    params_2, state_2 = init(second, key_2, downstream=[third])
    params_3, state_3 = init(third, key_3)

    zeros = perturbations([first, second, third], x)
    u, zeros = apply(first, params_1, state_1, x, zeros)
    u, zeros = apply(second, params_2, state_2, jax.nn.relu(u), zeros)
    logits, zeros = apply(third, params_3, state_3, jax.nn.relu(u), zeros)

and `jax.grad` of a loss of the logits gives the rule's pseudo-gradients, for any optimizer.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of a
layer: Dense, Convolution or Embedding. Maps between its two sides, in either direction, are stored
like W: [in, out] or [height, width, in / groups, out]; D[k] is [*post of layer k, *pre].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ruledsl_jax.layers import connected
from ruledsl_jax.linear import Linear, forward_weights
from ruledsl_jax.mesh import vary_alike
from ruledsl_jax.randomness import Key, named, normal


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * normal(key, shape)


def init_D(shape, key, sources):
    """The first value of D: normal(0, sqrt(2 / sources))."""
    return math.sqrt(2 / sources) * normal(key, shape)


def send(layer, B, D, delta, delta_k):
    """The error for the neurons that feed this layer: B @ delta + sum(k, D[k] @ delta[k])."""
    return (
        layer.adjoint(B, delta)
        + sum(
            jnp.tensordot(delta_at_k, D_at_k, axes=delta_at_k.ndim - 1)
            for D_at_k, delta_at_k in zip(D, delta_k, strict=True)
        )
    )


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(layer, W, b, B, D, x, zeros):
    """u = W @ x + b, whose derivative is what the rule says, and `zeros` as they came."""
    return layer.apply(W, x, b), zeros


def affine_fwd(layer, W, b, B, D, x, zeros):
    return affine(layer, W, b, B, D, x, zeros), (B, D, x)


def affine_bwd(layer, residuals, errors):
    B, D, x = residuals
    delta, arriving = errors
    D, delta_k = connected(D, arriving)
    sent = None if B is None else send(layer, B, D, delta, delta_k)
    return grad_W(layer, x, delta), grad_b(layer, delta), None, None, sent, arriving


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None."""

    W: Array
    b: Array | None


class State(NamedTuple):
    """What else belongs to the rule. A layer that sends to nobody has no B and no D."""

    B: Array | None
    D: tuple[Array | None, ...] | None


def init(
    layer: Linear,
    key: Key,
    downstream: Sequence[Linear | None] = (),
    *,
    W: Array | None = None,
    b: Array | None = None,
    sends: bool = True,
) -> tuple[Params, State]:
    """First values, for the W and b of a network that exists, or with new ones.

    downstream  the layers that run after this one, in their order; None for those that it doesn't reach
    sends       False for a layer whose input has no derivative that anybody needs: it is zero there
    """
    if W is None:
        W, b = forward_weights(layer, named(key, "W"))
    B = init_B(layer.kernel_shape, named(key, "B"), layer.fan_out).astype(W.dtype) if sends else None

    def D_from(k: int, at_k: Linear | None) -> Array | None:
        if at_k is None:
            return None
        shape = (*at_k.post_shape, *layer.pre_shape)
        return init_D(shape, named(key, "D", k), math.prod(at_k.post_shape)).astype(W.dtype)

    D = tuple(D_from(k, at_k) for k, at_k in enumerate(downstream)) if sends else None
    return Params(W, b), State(B, D)


def perturbations(layers: Sequence[Linear], x: Array) -> tuple[Array, ...]:
    """Zeros for the u of every layer of a network, in the order in which they run; x is the network's input."""
    dtype = jnp.result_type(x, 1.0)
    return tuple(jnp.zeros_like(x, dtype, shape=(len(x), *layer.post_shape)) for layer in layers)


def apply(
    layer: Linear, params: Params, state: State, x: Array, zeros: Sequence[Array]
) -> tuple[Array, tuple[Array, ...]]:
    """u = W @ x + b: [batch, *pre] -> [batch, *post], and the zeros for the layers downstream.

    zeros  the first is for this layer's u, the others for those downstream
    """
    W, b = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    own, *downstream = zeros
    u, handed_on = affine(layer, *vary_alike(W, b, state.B, state.D, x, tuple(downstream)))
    return u + own, handed_on
