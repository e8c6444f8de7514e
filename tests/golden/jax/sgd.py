"""Stochastic gradient descent (sgd).

Source: Liao et al. 2015, eq. 3, setting 0; Akrout et al. 2019, D.1 (Nesterov momentum)

Locality: local.

Compiled with nesterov = False.

momentum      how much of the last step is kept
weight_decay  L2 penalty

Made by ruledsl 0.1.0 from rule text 1bf373e649da3fcf.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def init_v(p):
    """The first value of v: 0."""
    return jnp.zeros_like(p)


def compute_t(p, v, g, momentum=0, weight_decay=0):
    """momentum * v + d, which several equations read."""
    d = g + weight_decay * p
    return momentum * v + d


def next_v(t):
    """The next value of v: momentum * v + d."""
    return t


def next_p(p, t, lr):
    """The next value of p: p - lr * t."""
    return p - lr * t


class SgdState(NamedTuple):
    """What is kept from step to step."""

    step: jax.Array  # the number of steps so far
    v: optax.Params  # like the parameters


def sgd(learning_rate, momentum=0.0, weight_decay=0.0):
    """Stochastic gradient descent, as an optax.GradientTransformation.

    learning_rate  a number, or a schedule of the number of steps
    """

    def init(params):
        v = jax.tree.map(init_v, params)
        return SgdState(jnp.zeros((), jnp.int32), v)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("sgd reads the parameters: update(updates, state, params)")
        step, v = state
        lr = learning_rate(step) if callable(learning_rate) else learning_rate
        t = jax.tree.map(lambda p, v, g: compute_t(p, v, g, momentum, weight_decay), params, v, updates)
        # next_p adds to p, and reads it nowhere else: at p = 0 it is the update, free of the rounding of p
        change = jax.tree.map(lambda p, t: next_p(0.0, t, lr).astype(p.dtype), params, t)
        return change, SgdState(
            step=optax.safe_increment(step),
            v=jax.tree.map(lambda v, t: next_v(t).astype(v.dtype), v, t),
        )

    return optax.GradientTransformation(init, update)
