"""Backpropagation with alignment (backprop_alignment).

Source: Moskovitz et al. 2018, eq. 9

Locality: nonlocal; reverse(W) -> send.

strength  weight of the penalty

Made by ruledsl 0.1.0 from rule text 00d10bd592b7535f.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import torch


def init_V(shape, fan_in, generator=None):
    """The first value of V: normal(0, sqrt(1 / fan_in))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(1 / fan_in), generator=generator)


def send(layer, W, delta):
    """The error for the neurons that feed this layer: W.T @ delta."""
    return layer.adjoint(W, delta)


def grad_W(layer, W, V, x, delta, strength=0.001):
    """The pseudo-gradient of W: outer(delta, x) + 2 * strength * (W - V)."""
    return layer.outer(delta, x) + 2 * strength * (W - V)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
