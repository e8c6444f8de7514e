"""Sign-symmetric direct feedback alignment (direct_sign_symmetry).

Source: Liao et al. 2015, section 2, setting 3, with the learning of Webster, Choi & Ahn 2021,
section 3

Locality: local; broadcast(e) -> send.

decay  weight decay, the same for W and C

Made by ruledsl 0.1.0 from rule text 1546284fb5c82d99.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import torch


def init_M(shape, sources, generator=None):
    """The first value of M: normal(0, sqrt(2 / sources))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(2 / sources), generator=generator)


def init_C(shape, sources, generator=None):
    """The first value of C: normal(0, sqrt(2 / sources))."""
    return torch.empty(shape).normal_(0.0, math.sqrt(2 / sources), generator=generator)


def send(M, C, e):
    """The error for the neurons that feed this layer: abs(M) * sign(C) @ e."""
    return torch.tensordot(e, torch.abs(M) * torch.sign(C), dims=1)


def grad_W(layer, W, x, delta, decay=0.0001):
    """The pseudo-gradient of W: outer(delta, x) + decay * W."""
    return layer.outer(delta, x) + decay * W


def grad_C(C, x, e, decay=0.0001):
    """The pseudo-gradient of C: outer(x, e) + decay * C."""
    return torch.tensordot(e, x, dims=([0], [0])) + decay * C


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
