"""Weights of constant norm (constant_norm).

Source: Moskovitz et al. 2018, eq. 10

Locality: nonlocal; norm(W) -> n, norm(W) -> W.

Made by ruledsl 0.1.0 from rule text 829a178ba35ae2e6.
"""

import torch


def init_n(shape, W):
    """The first value of n: norm(W)."""
    return torch.linalg.vector_norm(W)


def next_W_after(W, n):
    """The next value of W: n / norm(W) * W."""
    return n / torch.linalg.vector_norm(W) * W
