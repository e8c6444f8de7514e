"""Batch Manhattan, setting 2 (manhattan_2).

Source: Liao et al. 2015, eq. 3, setting 2

Locality: local.

Made by ruledsl 0.1.0 from rule text aa0c9be0654ce87e.
"""

import torch


def init_tau(shape):
    """The first value of tau: 0."""
    return torch.full(shape, 0.0)


def t(p, tau, g, decay=0, momentum=0.9):
    """sign(momentum * tau - sign(g) - decay * p), which several equations read."""
    return torch.sign(momentum * tau - torch.sign(g) - decay * p)


def next_tau(t):
    """The next value of tau: sign(momentum * tau - sign(g) - decay * p)."""
    return t


def next_p(p, t, lr):
    """The next value of p: p + lr * t."""
    return p + lr * t
