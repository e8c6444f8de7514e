"""Weights of constant norm (constant_norm).

Source: Moskovitz et al. 2018, eq. 10

Locality: nonlocal; norm(W) -> n, norm(W) -> W.

Made by ruledsl 0.1.0 from rule text 829a178ba35ae2e6.
"""

import jax.numpy as jnp


def init_n(shape, W):
    """The first value of n: norm(W)."""
    return jnp.sqrt(jnp.sum(jnp.square(W)))


def next_W_after(W, n):
    """The next value of W: n / norm(W) * W."""
    return n / jnp.sqrt(jnp.sum(jnp.square(W))) * W
