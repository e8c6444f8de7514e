"""Stochastic gradient descent with noisy updates (noisy_sgd).

Source: Kunin et al. 2020, section B.3

Locality: local.

Compiled with nesterov = False.

momentum      how much of the last step is kept
weight_decay  L2 penalty
sigma         standard deviation of the noise, in units of the learning rate

Made by ruledsl 0.1.0 from rule text 43e1d0b029f57db0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ruledsl_jax.randomness import key_of, keys_like, named, normal


def init_v(p):
    """The first value of v: 0."""
    return jnp.zeros_like(p)


def compute_t(p, v, g, momentum=0, weight_decay=0):
    """momentum * v + d, which several equations read."""
    d = g + weight_decay * p
    return momentum * v + d


def draw_n(key, p):
    """The value of n in this step: normal(0, 1)."""
    return normal(key, p.shape, p.dtype)


def next_v(t):
    """The next value of v: momentum * v + d."""
    return t


def next_p(p, n, t, lr, sigma=0.001):
    """The next value of p: p - lr * t + lr * sigma * n."""
    return p - lr * t + lr * sigma * n


class NoisySgdState(NamedTuple):
    """What is kept from step to step."""

    step: jax.Array  # the number of steps so far
    key: jax.Array  # for the next draw
    v: optax.Params  # like the parameters


def noisy_sgd(learning_rate, momentum=0.0, weight_decay=0.0, sigma=0.001, *, key=0):
    """Stochastic gradient descent with noisy updates, as an optax.GradientTransformation.

    learning_rate  a number, or a schedule of the number of steps
    key            for what is drawn: a key, or a number that stands for one
    """

    def init(params):
        own = key_of(key)
        v = jax.tree.map(init_v, params)
        return NoisySgdState(jnp.zeros((), jnp.int32), own, v)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("noisy_sgd reads the parameters: update(updates, state, params)")
        step, key, v = state
        key, own = jax.random.split(key)
        lr = learning_rate(step) if callable(learning_rate) else learning_rate
        n = jax.tree.map(draw_n, keys_like(named(own, "n"), params), params)
        t = jax.tree.map(lambda p, v, g: compute_t(p, v, g, momentum, weight_decay), params, v, updates)
        # next_p adds to p, and reads it nowhere else: at p = 0 it is the update, free of the rounding of p
        change = jax.tree.map(lambda p, n, t: next_p(0.0, n, t, lr, sigma).astype(p.dtype), params, n, t)
        return change, NoisySgdState(
            step=optax.safe_increment(step),
            key=key,
            v=jax.tree.map(lambda v, t: next_v(t).astype(v.dtype), v, t),
        )

    return optax.GradientTransformation(init, update)
