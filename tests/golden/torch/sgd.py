"""Stochastic gradient descent (sgd).

Source: Liao et al. 2015, eq. 3, setting 0; Akrout et al. 2019, D.1 (Nesterov momentum)

Locality: local.

Compiled with nesterov = False.

momentum      how much of the last step is kept
weight_decay  L2 penalty

Made by ruledsl 0.1.0 from rule text 1bf373e649da3fcf.
"""

import torch


def init_v(shape):
    """The first value of v: 0."""
    return torch.full(shape, 0.0)


def t(p, v, g, momentum=0, weight_decay=0):
    """momentum * v + d, which several equations read."""
    d = g + weight_decay * p
    return momentum * v + d


def next_v(t):
    """The next value of v: momentum * v + d."""
    return t


def next_p(p, t, lr):
    """The next value of p: p - lr * t."""
    return p - lr * t
