"""Adam (adam).

Source: Kingma & Ba 2014, Algorithm 1

Locality: local.

beta1    decay of the average gradient
beta2    decay of the average squared gradient
epsilon  keeps the step finite

Made by ruledsl 0.1.0 from rule text 9189b2ad7f5c0f4d.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def init_n():
    """The first value of n: 0."""
    return 0


def init_m(p):
    """The first value of m: 0."""
    return jnp.zeros_like(p)


def init_s(p):
    """The first value of s: 0."""
    return jnp.zeros_like(p)


def compute_n1(n):
    """n + 1, which several equations read."""
    return n + 1


def compute_m1(m, g, beta1=0.9):
    """beta1 * m + (1 - beta1) * g, which several equations read."""
    return beta1 * m + (1 - beta1) * g


def compute_s1(s, g, beta2=0.999):
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


class AdamState(NamedTuple):
    """What is kept from step to step."""

    step: jax.Array  # the number of steps so far
    n: jax.Array  # one number for all parameters
    m: optax.Params  # like the parameters
    s: optax.Params  # like the parameters


def adam(learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-08):
    """Adam, as an optax.GradientTransformation.

    learning_rate  a number, or a schedule of the number of steps
    """

    def init(params):
        n = jnp.asarray(init_n(), float)
        m = jax.tree.map(init_m, params)
        s = jax.tree.map(init_s, params)
        return AdamState(jnp.zeros((), jnp.int32), n, m, s)

    def update(updates, state, params=None):
        step, n, m, s = state
        lr = learning_rate(step) if callable(learning_rate) else learning_rate
        n1 = compute_n1(n)
        m1 = jax.tree.map(lambda m, g: compute_m1(m, g, beta1), m, updates)
        s1 = jax.tree.map(lambda s, g: compute_s1(s, g, beta2), s, updates)
        # next_p adds to p, and reads it nowhere else: at p = 0 it is the update, free of the rounding of p
        change = jax.tree.map(
            lambda g, m1, s1: next_p(0.0, m1, n1, s1, lr, beta1, beta2, epsilon).astype(g.dtype),
            updates,
            m1,
            s1,
        )
        return change, AdamState(
            step=optax.safe_increment(step),
            n=jnp.asarray(next_n(n1), float),
            m=jax.tree.map(lambda m, m1: next_m(m1).astype(m.dtype), m, m1),
            s=jax.tree.map(lambda s, s1: next_s(s1).astype(s.dtype), s, s1),
        )

    return optax.GradientTransformation(init, update)
