"""Activation alignment (activation_alignment).

Source: Kunin et al. 2020, R_AA; section B.2

Locality: nonlocal; reverse(B) -> B.

alpha  weight of sparse
beta   weight of amp

Made by ruledsl 0.1.0 from rule text c8a481a47abb8db7.

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


def grad_B_align(layer, B, b, x, u, alpha=0.001, beta=0.002):
    """The pseudo-gradient of B: outer(2 * alpha * h - beta * u, x, mean=batch).T."""
    h = layer.apply(B, x, b)
    return layer.outer(2 * alpha * h - beta * u, x, mean="batch")
