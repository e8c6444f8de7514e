"""Frozen excitatory and inhibitory synapses (frozen_signs).

Source: Moskovitz et al. 2018, sections 3.1 (E/I) and 4

Locality: local.

at      fraction of the training after which signs are frozen
margin  how far from zero a weight is kept

Made by ruledsl 0.1.0 from rule text 68f95c9ffb07f91c.

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
from jax.typing import ArrayLike

from ruledsl_jax.linear import Linear


def init_s(W):
    """The first value of s: sign(W)."""
    return jnp.sign(W)


def next_s_after(W, s, progress, at=0.05):
    """The next value of s: if frozen then s else sign(W)."""
    frozen = progress >= at
    return jnp.where(frozen, s, jnp.sign(W))


def next_W_after(W, s, progress, at=0.05, margin=1e-06):
    """The next value of W: if progress < at then W else if s > 0 then max(W, margin) else if s < 0 then
        min(W, -margin) else W.
    """
    return jnp.where(
        progress < at,
        W,
        jnp.where(s > 0, jnp.maximum(W, margin), jnp.where(s < 0, jnp.minimum(W, -margin), W)),
    )


class State(NamedTuple):
    """What the constraint keeps of a layer."""

    s: Array


def init(layer: Linear, params: Any) -> State:
    """First values for a layer that has its weights."""
    W = params.W
    s = init_s(W).astype(W.dtype)
    return State(s)


def after_step(
    layer: Linear,
    params: Any,
    state: State,
    *,
    progress: ArrayLike,
    at: ArrayLike = 0.05,
    margin: ArrayLike = 1e-06,
) -> tuple[Any, State]:
    """What happens after a step."""
    params, state = (
        params._replace(W=next_W_after(params.W, state.s, progress, at, margin)),
        state._replace(s=next_s_after(params.W, state.s, progress, at)),
    )
    return params, state
