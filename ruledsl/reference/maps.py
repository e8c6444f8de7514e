"""The linear maps of weight layers, written as their definitions: sums over synapses, in NumPy.

Layouts are PyTorch's. Activities are [batch, units] or [batch, channels, *size]; every map between pre and post, in
either direction, is a kernel in the forward layout: [out, in], [out, in / groups, *kernel] or, where a convolution is
transposed, [in, out / groups, *kernel].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mean = Literal["batch", "all"]
Sizes = tuple[int, ...]
Index = tuple[Any, ...]


@dataclass(frozen=True)
class Dense:
    """u_i = sum_j W_ij x_j"""

    units_in: int
    units_out: int

    @property
    def kernel_shape(self) -> Sizes:
        """[post, pre]"""
        return (self.units_out, self.units_in)

    @property
    def pre_shape(self) -> Sizes:
        """[pre]"""
        return (self.units_in,)

    @property
    def post_shape(self) -> Sizes:
        """[post]"""
        return (self.units_out,)

    @property
    def dimensions(self) -> int:
        """Of the positions that a unit has: 0"""
        return 0

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
class Convolution:
    """u[o, p] = sum over i, k of W[o, i, k] x[i, q] with q = stride p + dilation k - padding; q is zero outside of x.

    Transposed, u[o, q] = sum over i, p, k of W[i, o, k] x[i, p] for all p and k with the same q. Positions p and q and
    places k in the kernel have one, two or three dimensions. With groups, channels meet those of their own group alone.
    Where positions are q, x or, transposed, u, is called fine here, and where they are p, coarse.

    input_size      of x; the adjoint has to know it
    output_padding  how many q there are beyond the last that the kernel reaches; zeros unless transposed
    """

    channels_in: int
    channels_out: int
    kernel_size: Sizes
    input_size: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    transposed: bool
    output_padding: Sizes

    @property
    def units_in(self) -> int:
        """Channels, as a dense layer calls them."""
        return self.channels_in

    @property
    def units_out(self) -> int:
        """Channels, as a dense layer calls them."""
        return self.channels_out

    @property
    def kernel_shape(self) -> Sizes:
        """[channels_out, channels_in / groups, *kernel]; transposed: [channels_in, channels_out / groups, *kernel]"""
        if self.transposed:
            return (self.channels_in, self.channels_out // self.groups, *self.kernel_size)
        return (self.channels_out, self.channels_in // self.groups, *self.kernel_size)

    @property
    def output_size(self) -> Sizes:
        """How many times the kernel fits into x; transposed: how far kernels reach that are put at every p."""
        sizes = zip(self.input_size, self.stride, self._reach, self.padding, self.output_padding, strict=True)
        if self.transposed:
            return tuple((size - 1) * step + reach - 2 * pad + more for size, step, reach, pad, more in sizes)
        return tuple((size + 2 * pad - reach) // step + 1 for size, step, reach, pad, _ in sizes)

    @property
    def pre_shape(self) -> Sizes:
        """[channels_in, *input_size]"""
        return (self.channels_in, *self.input_size)

    @property
    def post_shape(self) -> Sizes:
        """[channels_out, *output_size]"""
        return (self.channels_out, *self.output_size)

    @property
    def dimensions(self) -> int:
        """Of the positions that a unit has: 1, 2 or 3"""
        return len(self.kernel_size)

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives; of a transposed convolution, strides aside."""
        return self.channels_in // self.groups * prod(self.kernel_size)

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes, strides aside."""
        return self.channels_out // self.groups * prod(self.kernel_size)

    def apply(self, M: Array, v: Array) -> Array:
        """M @ v for v over pre: [batch, channels_out, *output_size]"""
        return self._to_fine(M, v) if self.transposed else self._to_coarse(M, v)

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v, the exact adjoint of `apply`: [batch, channels_in, *input_size]"""
        return self._to_coarse(M, v) if self.transposed else self._to_fine(M, v)

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The kernel gradient, summed over batch and positions; `all` averages over both, `batch` over the batch."""
        coarse, fine = (v_pre, v_post) if self.transposed else (v_post, v_pre)
        coarse, fine = self._grouped(coarse), self._grouped(self._padded(fine))
        kernel = self._per_group(np.zeros(self.kernel_shape, np.result_type(coarse, fine)))
        for k, q in self._places():
            met = fine[q].reshape(*fine.shape[:3], -1)
            kernel[k] = np.einsum("ngcp,ngfp->gcf", coarse.reshape(*coarse.shape[:3], -1), met)
        summed = kernel.reshape(self.kernel_shape)
        if mean is None:
            return summed
        return summed / (len(v_post) * (self.positions(v_post) if mean == "all" else 1))

    def spread(self, p: Array) -> Array:
        """One number per channel, ready to combine with an activity: [channels, 1, 1] in two dimensions"""
        return p.reshape(-1, *(1 for _ in self.kernel_size))

    def sum_to_units(self, v: Array) -> Array:
        """Sum over batch and positions, [batch, channels, *size] -> [channels]; there may be no batch any more."""
        return np.asarray(v.reshape(-1, *v.shape[-1 - self.dimensions :]).sum(axis=(0, *self._positions)))

    def mean_positions(self, v: Array) -> Array:
        """Mean over positions: [batch, channels, 1, 1] in two dimensions"""
        return np.asarray(v.mean(axis=self._positions, keepdims=True))

    def sum_positions(self, v: Array) -> Array:
        """Sum over positions: [batch, channels, 1, 1] in two dimensions"""
        return np.asarray(v.sum(axis=self._positions, keepdims=True))

    def positions(self, v: Array) -> int:
        """height * width of v, in two dimensions"""
        return prod(v.shape[axis] for axis in self._positions)

    def _to_coarse(self, M: Array, v: Array) -> Array:
        """Every p sums over what its kernel meets in v."""
        kernel, fine = self._per_group(M), self._grouped(self._padded(v))
        size = self.input_size if self.transposed else self.output_size
        coarse = np.zeros((*fine.shape[:2], kernel.shape[1], *size), kernel.dtype)
        for k, q in self._places():
            coarse += np.einsum("gcf,ngf...->ngc...", kernel[k], fine[q])
        return self._ungrouped(coarse)

    def _to_fine(self, M: Array, v: Array) -> Array:
        """Every p of v adds to what its kernel meets."""
        kernel, coarse = self._per_group(M), self._grouped(v)
        shape = self.post_shape if self.transposed else self.pre_shape
        fine = self._grouped(self._padded(np.zeros((len(v), *shape), kernel.dtype)))
        for k, q in self._places():
            fine[q] += np.einsum("gcf,ngc...->ngf...", kernel[k], coarse)
        inside: Index = (..., *(slice(pad, pad + n) for pad, n in zip(self.padding, shape[1:], strict=True)))
        return self._ungrouped(fine[inside])

    def _places(self) -> Iterator[tuple[Index, Index]]:
        """Each place k in the kernel with all q, counted from the first zero of the padding, that it meets."""
        coarse = self.input_size if self.transposed else self.output_size
        for k in np.ndindex(self.kernel_size):
            axes = zip(k, self.dilation, self.stride, coarse, strict=True)
            met = [slice(at * rate, at * rate + (n - 1) * step + 1, step) for at, rate, step, n in axes]
            yield (..., *k), (..., *met)

    @property
    def _positions(self) -> Sizes:
        return tuple(range(-self.dimensions, 0))

    @property
    def _reach(self) -> Sizes:
        return tuple((size - 1) * rate + 1 for size, rate in zip(self.kernel_size, self.dilation, strict=True))

    def _padded(self, v: Array) -> Array:
        return np.pad(v, ((0, 0), (0, 0), *((pad, pad) for pad in self.padding)))

    def _grouped(self, v: Array) -> Array:
        """[batch, channels, *size] -> [batch, group, channel in the group, *size]"""
        return v.reshape(v.shape[0], self.groups, v.shape[1] // self.groups, *v.shape[2:])

    def _ungrouped(self, v: Array) -> Array:
        return v.reshape(v.shape[0], v.shape[1] * v.shape[2], *v.shape[3:])

    def _per_group(self, M: Array) -> Array:
        """[coarse, fine / groups, *kernel] -> [group, coarse in the group, fine in the group, *kernel]"""
        return M.reshape(self.groups, M.shape[0] // self.groups, *M.shape[1:])


Linear = Dense | Convolution
