"""Feedback alignment (feedback_alignment).

Source: Lillicrap et al. 2016; Moskovitz et al. 2018, eq. 3 and section 5.1; Liao et al. 2015,
setting 6 (RndF)

Locality: local.

Made by ruledsl 0.1.0 from rule text ae9c38bc75bc1358.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import jax


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * jax.random.normal(key, shape)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
