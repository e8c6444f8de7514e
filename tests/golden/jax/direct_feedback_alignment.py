"""Direct feedback alignment (direct_feedback_alignment).

Source: Nokland 2016; Moskovitz et al. 2018, section 2

Locality: local; broadcast(e) -> send.

Made by ruledsl 0.1.0 from rule text 539abcf79db70b50.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import jax
import jax.numpy as jnp


def init_B(shape, key, sources):
    """The first value of B: normal(0, sqrt(2 / sources))."""
    return math.sqrt(2 / sources) * jax.random.normal(key, shape)


def send(B, e):
    """The error for the neurons that feed this layer: B @ e."""
    return jnp.tensordot(e, B, axes=1)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
