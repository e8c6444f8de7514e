"""Arrays between the layout of the reference and of PyTorch (NCHW, OIHW) and that of JAX (NHWC, HWIO).

The functions transpose without copying and take NumPy arrays, JAX arrays and anything else that has `transpose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Array = Any


def activity_to_jax(v: Array) -> Array:
    """[batch, channels, height, width] -> [batch, height, width, channels]; [batch, units] stays."""
    return v.transpose(0, 2, 3, 1) if v.ndim == 4 else v


def activity_from_jax(v: Array) -> Array:
    """[batch, height, width, channels] -> [batch, channels, height, width]; [batch, units] stays."""
    return v.transpose(0, 3, 1, 2) if v.ndim == 4 else v


def kernel_to_jax(M: Array) -> Array:
    """[out, in] -> [in, out]; [out, in / groups, height, width] -> [height, width, in / groups, out]"""
    return M.transpose(2, 3, 1, 0) if M.ndim == 4 else M.transpose(1, 0)


def kernel_from_jax(M: Array) -> Array:
    """[in, out] -> [out, in]; [height, width, in / groups, out] -> [out, in / groups, height, width]"""
    return M.transpose(3, 2, 0, 1) if M.ndim == 4 else M.transpose(1, 0)


def broadcast_map_to_jax(M: Array, own_axes: int) -> Array:
    """A map [*far space, *own space] from `out` or `post[k]`; the own space of a convolution has `own_axes` = 3.

    [classes, channels, height, width] -> [classes, height, width, channels]
    """
    far_axes = M.ndim - own_axes
    return M.transpose(*_channels_last(far_axes), *(far_axes + axis for axis in _channels_last(own_axes)))


def broadcast_map_from_jax(M: Array, own_axes: int) -> Array:
    """[classes, height, width, channels] -> [classes, channels, height, width], and likewise for `post[k]`."""
    far_axes = M.ndim - own_axes
    return M.transpose(*_channels_first(far_axes), *(far_axes + axis for axis in _channels_first(own_axes)))


def tensor_to_jax(space: Sequence[str], value: Array, conv: bool) -> Array:
    """A tensor of a rule, `space` as in `ruledsl.program.Tensor`; `conv` tells which kind of layer it belongs to."""
    if len(space) < 2:
        return value
    if set(space) == {"pre", "post"}:
        return kernel_to_jax(value)
    return broadcast_map_to_jax(value, 3 if conv else 1)


def tensor_from_jax(space: Sequence[str], value: Array, conv: bool) -> Array:
    """The inverse of `tensor_to_jax`."""
    if len(space) < 2:
        return value
    if set(space) == {"pre", "post"}:
        return kernel_from_jax(value)
    return broadcast_map_from_jax(value, 3 if conv else 1)


def _channels_last(axes: int) -> tuple[int, ...]:
    return (1, 2, 0) if axes == 3 else tuple(range(axes))


def _channels_first(axes: int) -> tuple[int, ...]:
    return (2, 0, 1) if axes == 3 else tuple(range(axes))
