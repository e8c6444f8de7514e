"""Dense feedback alignment (dense_feedback_alignment).

Source: Moskovitz et al. 2018, section 4

Locality: local; broadcast(delta[k]) -> send.

Made by ruledsl 0.1.0 from rule text 2ffbb756ece00faf.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import jax
import jax.numpy as jnp


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * jax.random.normal(key, shape)


def init_D(shape, key, sources):
    """The first value of D: normal(0, sqrt(2 / sources))."""
    return math.sqrt(2 / sources) * jax.random.normal(key, shape)


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
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
