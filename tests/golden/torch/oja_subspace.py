"""Oja's subspace rule (oja_subspace).

Source: Oja 1989

Locality: nonlocal; reverse(W) -> W.

Made by ruledsl 0.1.0 from rule text 597497dedb939459.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import torch


def send(x):
    """The error for the neurons that feed this layer: full_like(x, 0)."""
    return torch.zeros_like(x)


def grad_W(layer, W, x, u):
    """The pseudo-gradient of W: outer(u, W.T @ u - x, mean=all)."""
    return layer.outer(u, layer.adjoint(W, u) - x, mean="all")


def grad_b(b):
    """The pseudo-gradient of b: full_like(b, 0)."""
    return torch.zeros_like(b)
