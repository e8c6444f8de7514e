"""Adam (adam).

Source: Kingma & Ba 2014, Algorithm 1

Locality: local.

beta1    decay of the average gradient
beta2    decay of the average squared gradient
epsilon  keeps the step finite

Made by ruledsl 0.1.0 from rule text 9189b2ad7f5c0f4d.
"""

import jax.numpy as jnp


def init_n(shape):
    """The first value of n: 0."""
    return jnp.full(shape, 0.0)


def init_m(shape):
    """The first value of m: 0."""
    return jnp.full(shape, 0.0)


def init_s(shape):
    """The first value of s: 0."""
    return jnp.full(shape, 0.0)


def n1(n):
    """n + 1, which several equations read."""
    return n + 1


def m1(m, g, beta1=0.9):
    """beta1 * m + (1 - beta1) * g, which several equations read."""
    return beta1 * m + (1 - beta1) * g


def s1(s, g, beta2=0.999):
    """beta2 * s + (1 - beta2) * (g * g), which several equations read."""
    return beta2 * s + (1 - beta2) * (g * g)


def next_n(n1):
    """The next value of n: n + 1."""
    return n1


def next_m(m1):
    """The next value of m: beta1 * m + (1 - beta1) * g."""
    return m1


def next_s(s1):
    """The next value of s: beta2 * s + (1 - beta2) * (g * g)."""
    return s1


def next_p(p, m1, n1, s1, lr, beta1=0.9, beta2=0.999, epsilon=1e-08):
    """The next value of p: p - lr / (1 - beta1 ** n1) * (m1 / (sqrt(s1 / (1 - beta2 ** n1)) +
        epsilon)).
    """
    return p - lr / (1 - beta1 ** n1) * (m1 / (jnp.sqrt(s1 / (1 - beta2 ** n1)) + epsilon))
