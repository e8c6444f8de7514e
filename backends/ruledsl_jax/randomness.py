"""Keys for what an optimizer draws."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax import numpy as jnp


def key_of(key: Array | int) -> Array:
    """A key, or the one that a number stands for."""
    if isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.key(key)


def keys_like(key: Array, tree: Any) -> Any:
    """A key of its own for every leaf of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
