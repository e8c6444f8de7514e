"""The linear maps of weight layers, written as their definitions: sums over synapses, in NumPy.

Layouts are PyTorch's. Activities are [batch, units] or [batch, channels, height, width]; every map between pre and
post, in either direction, is a kernel in the forward layout: [out, in] or [out, in / groups, height, width].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mean = Literal["batch", "all"]
Pair = tuple[int, int]
Windows = tuple[slice, slice]


@dataclass(frozen=True)
class Dense:
    """u_i = sum_j W_ij x_j"""

    units_in: int
    units_out: int

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[post, pre]"""
        return (self.units_out, self.units_in)

    @property
    def pre_shape(self) -> tuple[int, ...]:
        """[pre]"""
        return (self.units_in,)

    @property
    def post_shape(self) -> tuple[int, ...]:
        """[post]"""
        return (self.units_out,)

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives."""
        return self.units_in

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes."""
        return self.units_out

    def apply(self, M: Array, v: Array) -> Array:
        """M @ v for v: [batch, pre] -> [batch, post]"""
        return np.asarray(np.einsum("oi,ni->no", M, v))

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v for v: [batch, post] -> [batch, pre]"""
        return np.asarray(np.einsum("oi,no->ni", M, v))

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The outer product summed over the batch, or averaged: [post, pre]"""
        summed = np.asarray(np.einsum("no,ni->oi", v_post, v_pre))
        return summed if mean is None else summed / len(v_post)

    def spread(self, p: Array) -> Array:
        """One number per unit, ready to combine with an activity."""
        return p

    def sum_to_units(self, v: Array) -> Array:
        """Sum over the batch: [batch, units] -> [units]"""
        return np.asarray(v.sum(axis=0))

    def mean_positions(self, v: Array) -> Array:
        """v itself: a dense layer has one position."""
        return v

    def sum_positions(self, v: Array) -> Array:
        """v itself: a dense layer has one position."""
        return v

    def positions(self, v: Array) -> int:
        """1"""
        return 1


@dataclass(frozen=True)
class Conv2d:
    """u[o, p] = sum over i, k of W[o, i, k] x[i, stride p + dilation k - padding]; `input_size` is that of x.

    With groups, output channel o sees only the input channels of its own group, which i then counts.
    """

    channels_in: int
    channels_out: int
    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    input_size: Pair

    @property
    def units_in(self) -> int:
        """Channels, as a dense layer calls them."""
        return self.channels_in

    @property
    def units_out(self) -> int:
        """Channels, as a dense layer calls them."""
        return self.channels_out

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[channels_out, channels_in / groups, height, width]"""
        return (self.channels_out, self.channels_in // self.groups, *self.kernel_size)

    @property
    def output_size(self) -> Pair:
        """How many times the kernel fits, vertically and horizontally."""
        height, width = (
            (self.input_size[axis] + 2 * self.padding[axis] - self._reach(axis)) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return height, width

    @property
    def pre_shape(self) -> tuple[int, ...]:
        """[channels_in, height, width]"""
        return (self.channels_in, *self.input_size)

    @property
    def post_shape(self) -> tuple[int, ...]:
        """[channels_out, height, width]"""
        return (self.channels_out, *self.output_size)

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives."""
        return self.channels_in // self.groups * self.kernel_size[0] * self.kernel_size[1]

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes, strides aside."""
        return self.channels_out // self.groups * self.kernel_size[0] * self.kernel_size[1]

    def apply(self, M: Array, v: Array) -> Array:
        """M @ v for v over pre: [batch, channels_out, height, width]"""
        padded, kernel = self._grouped(self._padded(v)), self._per_group(M)
        u = np.zeros((len(v), self.groups, self.channels_out // self.groups, *self.output_size), kernel.dtype)
        for i, j, windows in self._offsets():
            u += np.einsum("goi,ngihw->ngohw", kernel[..., i, j], padded[..., *windows])
        return u.reshape(len(v), *self.post_shape)

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v, the exact adjoint of `apply`: [batch, channels_in, *input_size]"""
        kernel, errors = self._per_group(M), self._grouped(v)
        padded = np.zeros_like(self._grouped(self._padded(np.zeros((len(v), *self.pre_shape), kernel.dtype))))
        for i, j, windows in self._offsets():
            padded[..., *windows] += np.einsum("goi,ngohw->ngihw", kernel[..., i, j], errors)
        (top, left), (height, width) = self.padding, self.input_size
        return padded[..., top : top + height, left : left + width].reshape(len(v), *self.pre_shape)

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The kernel gradient, summed over batch and positions; `all` averages over both, `batch` over the batch."""
        padded, errors = self._grouped(self._padded(v_pre)), self._grouped(v_post)
        kernel = self._per_group(np.zeros(self.kernel_shape, np.result_type(v_post, v_pre)))
        for i, j, windows in self._offsets():
            kernel[..., i, j] = np.einsum("ngohw,ngihw->goi", errors, padded[..., *windows])
        summed = kernel.reshape(self.kernel_shape)
        if mean is None:
            return summed
        return summed / (len(v_post) * (self.positions(v_post) if mean == "all" else 1))

    def spread(self, p: Array) -> Array:
        """One number per channel, ready to combine with an activity: [channels, 1, 1]"""
        return p[:, None, None]

    def sum_to_units(self, v: Array) -> Array:
        """Sum over batch and positions: [batch, channels, height, width] -> [channels]"""
        return np.asarray(v.sum(axis=(0, 2, 3)) if v.ndim == 4 else v.sum(axis=(1, 2)))

    def mean_positions(self, v: Array) -> Array:
        """Mean over positions: [batch, channels, 1, 1]"""
        return np.asarray(v.mean(axis=(-2, -1), keepdims=True))

    def sum_positions(self, v: Array) -> Array:
        """Sum over positions: [batch, channels, 1, 1]"""
        return np.asarray(v.sum(axis=(-2, -1), keepdims=True))

    def positions(self, v: Array) -> int:
        """height * width of v"""
        return int(v.shape[-2] * v.shape[-1])

    def _reach(self, axis: int) -> int:
        return (self.kernel_size[axis] - 1) * self.dilation[axis] + 1

    def _offsets(self) -> Iterator[tuple[int, int, Windows]]:
        """Each place (i, j) in the kernel, with the pixels of the padded input that it meets."""
        for i in range(self.kernel_size[0]):
            for j in range(self.kernel_size[1]):
                yield i, j, (self._met_by(i, 0), self._met_by(j, 1))

    def _met_by(self, place: int, axis: int) -> slice:
        first = place * self.dilation[axis]
        return slice(first, first + (self.output_size[axis] - 1) * self.stride[axis] + 1, self.stride[axis])

    def _padded(self, v: Array) -> Array:
        vertical, horizontal = self.padding
        return np.pad(v, ((0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)))

    def _grouped(self, v: Array) -> Array:
        """[batch, channels, height, width] -> [batch, group, channel in the group, height, width]"""
        return v.reshape(v.shape[0], self.groups, v.shape[1] // self.groups, *v.shape[2:])

    def _per_group(self, M: Array) -> Array:
        """[out, in / groups, height, width] -> [group, out in the group, in in the group, height, width]"""
        return M.reshape(self.groups, self.channels_out // self.groups, *M.shape[1:])


Linear = Dense | Conv2d
