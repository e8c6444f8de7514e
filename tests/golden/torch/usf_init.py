"""Sign-concordant feedback, initialisation method (usf_init).

Source: Moskovitz et al. 2018, eq. 4

Locality: nonlocal; sign(W) -> send.

Made by ruledsl 0.1.0 from rule text b3fa14ec3c89ace3.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import torch


def init_B0(shape, fan_out, generator=None):
    """The first value of B0: normal(0, sqrt(1 / fan_out))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(1 / fan_out), generator=generator)


def send(layer, W, B0, delta):
    """The error for the neurons that feed this layer: abs(B0) * sign(W.T) @ delta."""
    return layer.adjoint(torch.abs(B0) * torch.sign(W), delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
