"""Weights of constant norm (constant_norm).

Source: Moskovitz et al. 2018, eq. 10

Locality: nonlocal; norm(W) -> n, norm(W) -> W.

Made by ruledsl 0.1.0 from rule text 829a178ba35ae2e6.

What holds after every step, in addition to what a layer's rule says. `params` are those of the rule:

    state = init(layer, params)
    params, state = after_step(layer, params, state)

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of a
layer: Dense, Convolution or Embedding. Maps between its two sides, in either direction, are stored
like W: [in, out] or [height, width, in / groups, out].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from ruledsl_jax.linear import Linear


def init_n(shape, W):
    """The first value of n: norm(W)."""
    return jnp.sqrt(jnp.sum(jnp.square(W)))


def next_W_after(W, n):
    """The next value of W: n / norm(W) * W."""
    return n / jnp.sqrt(jnp.sum(jnp.square(W))) * W


class State(NamedTuple):
    """What the constraint keeps of a layer."""

    n: Array


def init(layer: Linear, params: Any) -> State:
    """First values for a layer that has its weights."""
    W = params.W
    n = jnp.asarray(init_n((), W), W.dtype)
    return State(n)


def after_step(layer: Linear, params: Any, state: State) -> tuple[Any, State]:
    """What happens after a step."""
    params = params._replace(W=next_W_after(params.W, state.n))
    return params, state
