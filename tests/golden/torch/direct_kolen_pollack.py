"""Direct Kolen-Pollack learning (direct_kolen_pollack).

Source: Webster, Choi & Ahn 2021, section 3

Locality: local; broadcast(e) -> send.

decay  weight decay, the same for W and B

Made by ruledsl 0.1.0 from rule text 7cb10db849438286.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import torch


def init_B(shape, sources, generator=None):
    """The first value of B: normal(0, sqrt(2 / sources))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(2 / sources), generator=generator)


def send(B, e):
    """The error for the neurons that feed this layer: B @ e."""
    return torch.tensordot(e, B, dims=1)


def grad_W(layer, W, x, delta, decay=0.0001):
    """The pseudo-gradient of W: outer(delta, x) + decay * W."""
    return layer.outer(delta, x) + decay * W


def grad_B(B, x, e, decay=0.0001):
    """The pseudo-gradient of B: outer(x, e) + decay * B."""
    return torch.tensordot(e, x, dims=([0], [0])) + decay * B


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
