"""Oja's rule (oja).

Source: Oja 1982, eq. 3

Locality: local.

Made by ruledsl 0.1.0 from rule text 101938fe078bb844.

Activities are [batch, units] or [batch, channels, height, width]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_torch.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import torch


def send(x):
    """The error for the neurons that feed this layer: full_like(x, 0)."""
    return torch.zeros_like(x)


def grad_W(layer, W, x, u):
    """The pseudo-gradient of W: W * outer(u * u, full_like(x, 1), mean=all) - outer(u, x, mean=all)."""
    return W * layer.outer(u * u, torch.ones_like(x), mean="all") - layer.outer(u, x, mean="all")


def grad_b(b):
    """The pseudo-gradient of b: full_like(b, 0)."""
    return torch.zeros_like(b)
