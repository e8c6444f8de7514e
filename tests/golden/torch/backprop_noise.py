"""Backpropagation with noise (backprop_noise).

Source: Moskovitz et al. 2018, section 5.3

Locality: nonlocal; reverse(W) -> send, pool(units) -> send, pool(units) -> W.

scale  standard deviation of the noise relative to that of the gradient

Made by ruledsl 0.1.0 from rule text 0b658bc067bfa31f.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import torch


def draw_N(shape, generator=None):
    """The value of N in this step: normal(0, 1)."""
    return torch.empty(shape).normal_(0.0, 1.0, generator=generator)


def send(layer, W, delta):
    """The error for the neurons that feed this layer: W.T @ delta."""
    return layer.adjoint(W, delta)


def grad_W(layer, N, x, delta, scale=1):
    """The pseudo-gradient of W: G + scale * std(G) * N."""
    G = layer.outer(delta, x)
    return G + scale * G.std(correction=0) * N


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)
