"""Batch Manhattan, setting 3 (manhattan_3).

Source: Liao et al. 2015, eq. 3, setting 3

Locality: local.

Made by ruledsl 0.1.0 from rule text 3d8d4ac16bda39bd.
"""

import torch


def init_tau(shape):
    """The first value of tau: 0."""
    return torch.full(shape, 0.0)


def t(p, tau, g, decay=0, momentum=0.9):
    """momentum * tau - sign(g) - decay * p, which several equations read."""
    return momentum * tau - torch.sign(g) - decay * p


def next_tau(t):
    """The next value of tau: momentum * tau - sign(g) - decay * p."""
    return t


def next_p(p, t, lr):
    """The next value of p: p + lr * sign(t)."""
    return p + lr * torch.sign(t)
