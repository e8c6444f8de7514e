"""The linear map of a weight layer: all that the JAX backend knows of geometry.

Activities are [batch, units] or [batch, height, width, channels]; a dense layer takes more leading axes as well.
Every map between pre and post, in either direction, is a kernel in the forward layout: [in, out] or
[height, width, in / groups, out].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
from jax import Array, lax
from jax import numpy as jnp

from ruledsl.sizes import Conv2dSizes, DenseSizes, Pair

Mean = Literal["batch", "all"]


@dataclass(frozen=True)
class Dense(DenseSizes):
    """u = W @ x with W: [pre, post]."""

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[pre, post]"""
        return (self.units_in, self.units_out)

    @property
    def pre_shape(self) -> tuple[int, ...]:
        """[pre]"""
        return (self.units_in,)

    @property
    def post_shape(self) -> tuple[int, ...]:
        """[post]"""
        return (self.units_out,)

    def apply(self, M: Array, v: Array, b: Array | None = None) -> Array:
        """M @ v, or M @ v + b, for v: [batch, pre] -> [batch, post]"""
        return v @ M if b is None else v @ M + b

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v for v: [batch, post] -> [batch, pre]"""
        return v @ M.T

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The outer product summed over the batch, or averaged: [pre, post]"""
        summed = v_pre.reshape(-1, self.units_in).T @ v_post.reshape(-1, self.units_out)
        return summed if mean is None else summed / v_post.shape[0]

    def spread(self, p: Array) -> Array:
        """One number per unit, ready to combine with an activity."""
        return p

    def sum_to_units(self, v: Array) -> Array:
        """Sum over the batch: [batch, units] -> [units]"""
        return v.reshape(-1, v.shape[-1]).sum(0)

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
class Conv2d(Conv2dSizes):
    """u = W * x with W: [height, width, channels_in / groups, channels_out]; `input_size` is that of x.

    `padding` has for height and for width one number, or two where the sides differ.
    """

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[height, width, channels_in / groups, channels_out]"""
        return (*self.kernel_size, self.channels_in // self.groups, self.channels_out)

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """Zeros (before, after) in height and in width."""
        height, width = ((pad, pad) if isinstance(pad, int) else pad for pad in self.padding)
        return height, width

    @property
    def output_size(self) -> Pair:
        """height, width of u"""
        sizes = zip(self.input_size, self.pads, self.kernel_size, self.dilation, self.stride, strict=True)
        height, width = ((size + sum(pad) - (k - 1) * d - 1) // s + 1 for size, pad, k, d, s in sizes)
        return height, width

    @property
    def pre_shape(self) -> tuple[int, ...]:
        """[height, width, channels_in]"""
        return (*self.input_size, self.channels_in)

    @property
    def post_shape(self) -> tuple[int, ...]:
        """[height, width, channels_out]"""
        return (*self.output_size, self.channels_out)

    def apply(self, M: Array, v: Array, b: Array | None = None) -> Array:
        """M @ v, or M @ v + b, for v over pre: [batch, height, width, channels_out]"""
        u = lax.conv_general_dilated(
            v,
            M,
            self.stride,
            self.pads,
            rhs_dilation=self.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return u if b is None else u + b

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v, the exact adjoint of `apply`: [batch, *input_size, channels_in]"""
        pre = jax.ShapeDtypeStruct((v.shape[0], *self.pre_shape), v.dtype)  # type: ignore[no-untyped-call]
        (result,) = jax.linear_transpose(partial(self.apply, M), pre)(v)
        return jnp.asarray(result)

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The kernel gradient, summed over batch and positions; `all` averages over both, `batch` over the batch."""
        kernel = jax.ShapeDtypeStruct(self.kernel_shape, v_pre.dtype)  # type: ignore[no-untyped-call]
        (summed,) = jax.linear_transpose(lambda M: self.apply(M, v_pre), kernel)(v_post)
        if mean is None:
            return jnp.asarray(summed)
        return jnp.asarray(summed / (v_post.shape[0] * (self.positions(v_post) if mean == "all" else 1)))

    def spread(self, p: Array) -> Array:
        """One number per channel, ready to combine with an activity: channels are the last axis anyway."""
        return p

    def sum_to_units(self, v: Array) -> Array:
        """Sum over batch and positions: [batch, height, width, channels] -> [channels]"""
        return v.reshape(-1, v.shape[-1]).sum(0)

    def mean_positions(self, v: Array) -> Array:
        """Mean over positions: [batch, 1, 1, channels]"""
        return v.mean((-3, -2), keepdims=True)

    def sum_positions(self, v: Array) -> Array:
        """Sum over positions: [batch, 1, 1, channels]"""
        return v.sum((-3, -2), keepdims=True)

    def positions(self, v: Array) -> int:
        """height * width of v"""
        return v.shape[-3] * v.shape[-2]


Linear = Dense | Conv2d
