"""Batch Manhattan, setting 1 (manhattan_1).

Source: Liao et al. 2015, eq. 3, setting 1

Locality: local.

Made by ruledsl 0.1.0 from rule text 3b9b3c46d16f414b.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def init_tau(p):
    """The first value of tau: 0."""
    return jnp.zeros_like(p)


def compute_t(p, tau, g, decay=0, momentum=0.9):
    """momentum * tau - sign(g) - decay * p, which several equations read."""
    return momentum * tau - jnp.sign(g) - decay * p


def next_tau(t):
    """The next value of tau: momentum * tau - sign(g) - decay * p."""
    return t


def next_p(p, t, lr):
    """The next value of p: p + lr * t."""
    return p + lr * t


class Manhattan1State(NamedTuple):
    """What is kept from step to step."""

    step: jax.Array  # the number of steps so far
    tau: optax.Params  # like the parameters


def manhattan_1(learning_rate, momentum=0.9, decay=0.0):
    """Batch Manhattan, setting 1, as an optax.GradientTransformation.

    learning_rate  a number, or a schedule of the number of steps
    """

    def init(params):
        tau = jax.tree.map(init_tau, params)
        return Manhattan1State(jnp.zeros((), jnp.int32), tau)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("manhattan_1 reads the parameters: update(updates, state, params)")
        step, tau = state
        lr = learning_rate(step) if callable(learning_rate) else learning_rate
        t = jax.tree.map(lambda p, tau, g: compute_t(p, tau, g, decay, momentum), params, tau, updates)
        # next_p adds to p, and reads it nowhere else: at p = 0 it is the update, free of the rounding of p
        change = jax.tree.map(lambda p, t: next_p(0.0, t, lr).astype(p.dtype), params, t)
        return change, Manhattan1State(
            step=optax.safe_increment(step),
            tau=jax.tree.map(lambda tau, t: next_tau(t).astype(tau.dtype), tau, t),
        )

    return optax.GradientTransformation(init, update)
