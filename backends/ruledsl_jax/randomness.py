"""Draws by a key of JAX, or by what stands in its place: see `ruledsl_jax.host`. Modules and pasted files draw so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ruledsl.streams import number

Key = Any  # a key of JAX; or, outside of jit, streams on the host
Shape = Sequence[int]


def key_for(*names: int | str) -> Array:
    """The key of JAX for a seed and names, such as a layer's path."""
    halves = np.array(divmod(number(*names), 2**32), np.uint32)
    return jax.random.wrap_key_data(halves, impl="threefry2x32")


def named(key: Key, *names: int | str) -> Key:
    """The key of what is called so. It depends on no other names, and on no order of draws."""
    return key.of(*names) if hasattr(key, "of") else jax.random.fold_in(key, number(*names) % 2**32)


def normal(key: Key, shape: Shape, dtype: Any = float) -> Array:
    """With mean 0 and standard deviation 1."""
    if hasattr(key, "normal"):
        return key.normal(shape, dtype)  # type: ignore[no-any-return]
    return jax.random.normal(key, shape, dtype)


def uniform(key: Key, low: ArrayLike, high: ArrayLike, shape: Shape, dtype: Any = float) -> Array:
    """Between low and high."""
    if hasattr(key, "uniform"):
        return key.uniform(low, high, shape, dtype)  # type: ignore[no-any-return]
    return jax.random.uniform(key, shape, dtype, low, high)


def signs(key: Key, p: ArrayLike, shape: Shape) -> Array:
    """-1 with probability p, otherwise 1."""
    if hasattr(key, "signs"):
        return key.signs(p, shape)  # type: ignore[no-any-return]
    return jnp.where(jax.random.bernoulli(key, p, shape), -1.0, 1.0)


def orthogonal(key: Key, shape: Shape, dtype: Any = float) -> Array:
    """A map with orthonormal columns, or rows where there are fewer of them."""
    if hasattr(key, "orthogonal"):
        return key.orthogonal(shape, dtype)  # type: ignore[no-any-return]
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def key_of(key: Array | int) -> Array:
    """A key, or the one that a number stands for."""
    if isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.key(key)


def keys_like(key: Key, tree: Any) -> Any:
    """A key of its own for every leaf of a tree, found by its path."""
    return jax.tree_util.tree_map_with_path(lambda path, _: named(key, jax.tree_util.keystr(path)), tree)
