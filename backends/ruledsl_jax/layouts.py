"""Arrays between the layout of the reference and of PyTorch (NCHW, OIHW) and that of JAX (NHWC, HWIO).

The functions transpose without copying and take NumPy arrays, JAX arrays and anything else that has `transpose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Array = Any
Moves = tuple[bool, bool]


def activity_to_jax(v: Array) -> Array:
    """[batch, channels, *size] -> [batch, *size, channels]; [batch, units] stays."""
    return v.transpose(0, *range(2, v.ndim), 1)


def activity_from_jax(v: Array) -> Array:
    """[batch, *size, channels] -> [batch, channels, *size]; [batch, units] stays."""
    return v.transpose(0, v.ndim - 1, *range(1, v.ndim - 1))


def kernel_to_jax(M: Array) -> Array:
    """[out, in] -> [in, out]; [out, in / groups, *kernel] -> [*kernel, in / groups, out]"""
    return M.transpose(*range(2, M.ndim), 1, 0)


def kernel_from_jax(M: Array) -> Array:
    """[in, out] -> [out, in]; [*kernel, in / groups, out] -> [out, in / groups, *kernel]"""
    return M.transpose(M.ndim - 1, M.ndim - 2, *range(M.ndim - 2))


def turned(M: Array, groups: int) -> Array:
    """The kernel of a transposed convolution, [in, out / groups, *kernel], as that of the convolution which it is of x
    with zeros between its entries, [out, in / groups, *kernel], back to front; and the same way back."""
    first, second, *size = M.shape
    grouped = M.reshape(groups, first // groups, second, *size).swapaxes(1, 2)
    return grouped.reshape(groups * second, first // groups, *size)[(..., *(slice(None, None, -1) for _ in size))]


def broadcast_map_to_jax(M: Array, own_axes: int, moves: Moves = (True, True)) -> Array:
    """A map [*far space, *own space] from `out` or `post[k]`; a convolution counts channels among `own_axes`.

    moves  whether channels stand first in the far space and in the own: [positions, units] is the same everywhere
    [classes, channels, height, width] -> [classes, height, width, channels]
    """
    return _by_sides(M, own_axes, moves, _channels_last)


def broadcast_map_from_jax(M: Array, own_axes: int, moves: Moves = (True, True)) -> Array:
    """[classes, height, width, channels] -> [classes, channels, height, width], and likewise for `post[k]`."""
    return _by_sides(M, own_axes, moves, _channels_first)


def tensor_to_jax(space: Sequence[str], value: Array, own_axes: int, moves: Moves = (True, True)) -> Array:
    """A tensor of a rule, `space` as in `ruledsl.program.Tensor`; `own_axes` of one example of its layer's x."""
    if len(space) < 2:
        return value
    if set(space) == {"pre", "post"}:
        return kernel_to_jax(value)
    return broadcast_map_to_jax(value, own_axes, moves)


def tensor_from_jax(space: Sequence[str], value: Array, own_axes: int, moves: Moves = (True, True)) -> Array:
    """The inverse of `tensor_to_jax`."""
    if len(space) < 2:
        return value
    if set(space) == {"pre", "post"}:
        return kernel_from_jax(value)
    return broadcast_map_from_jax(value, own_axes, moves)


def _by_sides(M: Array, own_axes: int, moves: Moves, order: Callable[[int], Sequence[int]]) -> Array:
    far_axes = M.ndim - own_axes
    far, own = (order(n) if move else range(n) for n, move in zip((far_axes, own_axes), moves, strict=True))
    return M.transpose(*far, *(far_axes + axis for axis in own))


def _channels_last(axes: int) -> tuple[int, ...]:
    return (*range(1, axes), 0)


def _channels_first(axes: int) -> tuple[int, ...]:
    return (axes - 1, *range(axes - 1))
