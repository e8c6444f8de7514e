"""Batch Manhattan, setting 1 (manhattan_1).

Source: Liao et al. 2015, eq. 3, setting 1

Locality: local.

Made by ruledsl 0.1.0 from rule text 3b9b3c46d16f414b.
"""

import jax.numpy as jnp


def init_tau(shape):
    """The first value of tau: 0."""
    return jnp.full(shape, 0.0)


def t(p, tau, g, decay=0, momentum=0.9):
    """momentum * tau - sign(g) - decay * p, which several equations read."""
    return momentum * tau - jnp.sign(g) - decay * p


def next_tau(t):
    """The next value of tau: momentum * tau - sign(g) - decay * p."""
    return t


def next_p(p, t, lr):
    """The next value of p: p + lr * t."""
    return p + lr * t
