"""Kolen-Pollack learning (kolen_pollack).

Source: Akrout et al. 2019, eqs. 16 and 17; Kunin et al. 2020, section D.3

Locality: local.

decay  weight decay, the same in both directions (Akrout et al. 2019, D.1)

Made by ruledsl 0.1.0 from rule text 1c38e90b82b3dce3.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import jax


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * jax.random.normal(key, shape)


def outer_delta_x(layer, x, delta):
    """outer(delta, x), which several equations read."""
    return layer.outer(delta, x)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(W, outer_delta_x, decay=0.0001):
    """The pseudo-gradient of W: outer(delta, x) + decay * W."""
    return outer_delta_x + decay * W


def grad_B(B, outer_delta_x, decay=0.0001):
    """The pseudo-gradient of B: outer(delta, x).T + decay * B."""
    return outer_delta_x + decay * B


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
