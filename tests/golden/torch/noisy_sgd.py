"""Stochastic gradient descent with noisy updates (noisy_sgd).

Source: Kunin et al. 2020, section B.3

Locality: local.

Compiled with nesterov = False.

momentum      how much of the last step is kept
weight_decay  L2 penalty
sigma         standard deviation of the noise, in units of the learning rate

Made by ruledsl 0.1.0 from rule text 43e1d0b029f57db0.
"""

import torch


def init_v(shape):
    """The first value of v: 0."""
    return torch.full(shape, 0.0)


def t(p, v, g, momentum=0, weight_decay=0):
    """momentum * v + d, which several equations read."""
    d = g + weight_decay * p
    return momentum * v + d


def draw_n(shape, generator=None):
    """The value of n in this step: normal(0, 1)."""
    return torch.empty(shape).normal_(0.0, 1.0, generator=generator)


def next_v(t):
    """The next value of v: momentum * v + d."""
    return t


def next_p(p, n, t, lr, sigma=0.001):
    """The next value of p: p - lr * t + lr * sigma * n."""
    return p - lr * t + lr * sigma * n
