"""Direct random target projection (drtp).

Source: Frenkel, Lefebvre & Bol 2021

Locality: local; broadcast(target) -> send.

Made by ruledsl 0.1.0 from rule text 793b1c7e6edabf94.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import torch


def init_B(shape, sources, generator=None):
    """The first value of B: normal(0, sqrt(2 / sources))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(2 / sources), generator=generator)


def send(B, target, batch_size):
    """The error for the neurons that feed this layer: -(B @ target / batch_size)."""
    return -(torch.tensordot(target, B, dims=1) / batch_size)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
