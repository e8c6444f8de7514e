"""Maximum and average over windows of images [batch, height, width, channels]."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ruledsl.architectures.components import Pool

Sizes = tuple[int, int]


def pooled(pool: Pool, v: Array, size: Sizes) -> Array:
    """[batch, height, width, channels] -> [batch, *size, channels]"""
    return _maximum(pool, v, size) if pool.kind == "max" else _average(pool, v, size)


def _maximum(pool: Pool, v: Array, size: Sizes) -> Array:
    if pool.kernel != pool.stride or pool.padding:
        return _largest(pool, size, v)[0]
    # The derivative of windows that lie side by side is written in one go; that of `_largest` adds up as many images as
    # a window has entries.
    largest = jax.custom_vjp(lambda v: _largest(pool, size, v)[0])
    largest.defvjp(partial(_largest, pool, size), partial(_given_back, pool, v.shape))
    return largest(v)


def _largest(pool: Pool, size: Sizes, v: Array) -> tuple[Array, Array]:
    """The largest entry of every window, and its number.

    Window by window entry: XLA's own windows have a derivative that takes a processor ten times as long. Of equal
    entries the first one counts, as in PyTorch, and what is no number comes through.
    """
    first, *others = _entries(pool, v, size, -jnp.inf)
    largest, where = first, jnp.zeros(first.shape, jnp.int32)
    for number, each in enumerate(others, 1):
        stays = (largest >= each) | jnp.isnan(largest)
        largest, where = jnp.where(stays, largest, each), jnp.where(stays, where, number)
    return largest, where


def _given_back(pool: Pool, shape: tuple[int, ...], where: Array, error: Array) -> tuple[Array]:
    """The errors of windows that lie side by side, at the entries with these numbers: [*shape]"""
    numbers = jnp.arange(pool.kernel**2).reshape(pool.kernel, 1, pool.kernel, 1)
    spread = jnp.where(where[:, :, None, :, None, :] == numbers, error[:, :, None, :, None, :], 0)
    batch, height, _, width, _, channels = spread.shape
    whole = spread.reshape(batch, height * pool.kernel, width * pool.kernel, channels)
    # Windows may reach over the image's end, or end before it.
    missing = [(0, size - have, 0) for size, have in zip(shape, whole.shape, strict=True)]
    return (jax.lax.pad(whole, jnp.zeros((), whole.dtype), missing),)


def _average(pool: Pool, v: Array, size: Sizes) -> Array:
    heights, widths = (_counts(pool, *pair) for pair in zip(v.shape[1:3], size, strict=True))
    counts = jnp.asarray(np.outer(heights, widths)[:, :, None], v.dtype)
    return sum(_entries(pool, v, size, 0.0), jnp.zeros((), v.dtype)) / counts


def _entries(pool: Pool, v: Array, size: Sizes, outside: float) -> list[Array]:
    """For every entry of a window, row by row, that entry of all windows."""
    reach = [(count - 1) * pool.stride + pool.kernel for count in size]
    pads = [(pool.padding, max(0, far - n - pool.padding)) for far, n in zip(reach, v.shape[1:3], strict=True)]
    if any(map(any, pads)):
        v = jnp.pad(v, ((0, 0), *pads, (0, 0)), constant_values=outside)
    cut = partial(_cut, pool)
    return [v[:, cut(i, size[0]), cut(j, size[1])] for i in range(pool.kernel) for j in range(pool.kernel)]


def _cut(pool: Pool, start: int, count: int) -> slice:
    return slice(start, start + (count - 1) * pool.stride + 1, pool.stride)


def _counts(pool: Pool, size: int, windows: int) -> list[int]:
    """How many entries of each window are inside."""
    starts = [index * pool.stride - pool.padding for index in range(windows)]
    return [min(start + pool.kernel, size) - max(start, 0) for start in starts]
