"""The linear map of a weight layer: all that the JAX backend knows of geometry.

Activities are [batch, units], [batch, *positions, units] or, of a convolution, [batch, *size, channels]. Every map
between pre and post, in either direction, is a kernel in the forward layout: [in, out] or [*kernel, in / groups, out].

A new kind of map is one class with the properties and methods of `Dense`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from ruledsl_jax.randomness import Key, normal

Mean = Literal["batch", "all"]
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Dense:
    """u = W @ x with W: [pre, post].

    positions_size  of a layer that does so in several positions, such as the tokens of a sequence: their numbers
    """

    units_in: int
    units_out: int
    positions_size: Sizes = ()
    sends: ClassVar[bool] = True
    channels_move: ClassVar[bool] = False

    @property
    def kernel_shape(self) -> Sizes:
        """[pre, post]"""
        return (self.units_in, self.units_out)

    @property
    def pre_shape(self) -> Sizes:
        """[*positions, pre]"""
        return (*self.positions_size, self.units_in)

    @property
    def post_shape(self) -> Sizes:
        """[*positions, post]"""
        return (*self.positions_size, self.units_out)

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives."""
        return self.units_in

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes."""
        return self.units_out

    def apply(self, M: Array, v: Array, b: Array | None = None) -> Array:
        """M @ v, or M @ v + b, for v: [batch, pre] -> [batch, post]"""
        return v @ M if b is None else v @ M + b

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v for v: [batch, post] -> [batch, pre]"""
        return v @ M.T

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The outer product summed over batch and positions; `all` averages over both, `batch` over the batch."""
        summed = v_pre.reshape(-1, self.units_in).T @ v_post.reshape(-1, self.units_out)
        return summed if mean is None else summed / (len(v_post) * (self.positions(v_post) if mean == "all" else 1))

    def spread(self, p: Array) -> Array:
        """One number per unit, ready to combine with an activity."""
        return p

    def sum_to_units(self, v: Array) -> Array:
        """Sum over batch and positions: [batch, *positions, units] -> [units]"""
        return v.reshape(-1, v.shape[-1]).sum(0)

    def mean_positions(self, v: Array) -> Array:
        """Mean over positions, of which the axes stay: v itself where there is one position"""
        return v.mean(tuple(range(1, v.ndim - 1)), keepdims=True) if v.ndim > 2 else v

    def sum_positions(self, v: Array) -> Array:
        """Sum over positions, of which the axes stay: v itself where there is one position"""
        return v.sum(tuple(range(1, v.ndim - 1)), keepdims=True) if v.ndim > 2 else v

    def positions(self, v: Array) -> int:
        """How many v has"""
        return math.prod(v.shape[1:-1])


@dataclass(frozen=True)
class Convolution:
    """u = W * x in one, two or three dimensions, W: [*kernel, channels_in / groups, channels_out]; a unit is a channel.

    input_size      the size of x, which the adjoint has to know
    stride, dilation, input_dilation   one number for each dimension; where there are none, ones
    padding         for each dimension one number, or two where the sides differ; where there are none, zeros
    input_dilation  steps from one entry of x to the next, zeros between: the stride of a transposed convolution
    """

    channels_in: int
    channels_out: int
    kernel_size: Sizes
    input_size: Sizes
    stride: Sizes = ()
    padding: tuple[int | tuple[int, int], ...] = ()
    dilation: Sizes = ()
    groups: int = 1
    input_dilation: Sizes = ()
    sends: ClassVar[bool] = True
    channels_move: ClassVar[bool] = True

    @property
    def units_in(self) -> int:
        """Channels of x."""
        return self.channels_in

    @property
    def units_out(self) -> int:
        """Channels of u."""
        return self.channels_out

    @property
    def kernel_shape(self) -> Sizes:
        """[*kernel, channels_in / groups, channels_out]"""
        return (*self.kernel_size, self.channels_in // self.groups, self.channels_out)

    @property
    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros (before, after) in each dimension."""
        given = self.padding or (0,) * len(self.kernel_size)
        return tuple((pad, pad) if isinstance(pad, int) else pad for pad in given)

    @property
    def pre_shape(self) -> Sizes:
        """[*input_size, channels_in]"""
        return (*self.input_size, self.channels_in)

    @property
    def post_shape(self) -> Sizes:
        """[*size of u, channels_out]"""
        ones = (1,) * len(self.kernel_size)
        spread = [(n - 1) * d + 1 for n, d in zip(self.input_size, self.input_dilation or ones, strict=True)]
        reach = [(n - 1) * d + 1 for n, d in zip(self.kernel_size, self.dilation or ones, strict=True)]
        sizes = zip(spread, self.pads, reach, self.stride or ones, strict=True)
        return (*((size + sum(pad) - far) // step + 1 for size, pad, far, step in sizes), self.channels_out)

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives, strides aside."""
        return self.channels_in // self.groups * math.prod(self.kernel_size)

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes, strides aside."""
        return self.channels_out // self.groups * math.prod(self.kernel_size)

    def apply(self, M: Array, v: Array, b: Array | None = None) -> Array:
        """M @ v, or M @ v + b, for v over pre: [batch, *size of u, channels_out]"""
        letters = "DHW"[-len(self.kernel_size) :]
        u = lax.conv_general_dilated(
            v,
            M,
            self.stride or (1,) * len(self.kernel_size),
            self.pads,
            lhs_dilation=self.input_dilation or None,
            rhs_dilation=self.dilation or None,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            feature_group_count=self.groups,
        )
        return u if b is None else u + b

    def adjoint(self, M: Array, v: Array) -> Array:
        """M.T @ v, the exact adjoint of `apply`: [batch, *input_size, channels_in]"""
        # Zeros and not a shape alone: on a mesh of devices they are spread as v is. Nobody computes with them.
        pre = jnp.zeros_like(v, shape=(v.shape[0], *self.pre_shape))
        (result,) = jax.linear_transpose(partial(self.apply, M), pre)(v)
        return jnp.asarray(result)

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The kernel gradient, summed over batch and positions; `all` averages over both, `batch` over the batch."""
        kernel = jnp.zeros_like(v_pre, shape=self.kernel_shape)
        (summed,) = jax.linear_transpose(lambda M: self.apply(M, v_pre), kernel)(v_post)
        if mean is None:
            return jnp.asarray(summed)
        return jnp.asarray(summed / (v_post.shape[0] * (self.positions(v_post) if mean == "all" else 1)))

    def spread(self, p: Array) -> Array:
        """One number per channel, ready to combine with an activity: channels are the last axis anyway."""
        return p

    def sum_to_units(self, v: Array) -> Array:
        """Sum over batch and positions: [batch, *size, channels] -> [channels]"""
        return v.reshape(-1, v.shape[-1]).sum(0)

    def mean_positions(self, v: Array) -> Array:
        """Mean over positions: [batch, 1, 1, channels]"""
        return v.mean(self._axes, keepdims=True)

    def sum_positions(self, v: Array) -> Array:
        """Sum over positions: [batch, 1, 1, channels]"""
        return v.sum(self._axes, keepdims=True)

    def positions(self, v: Array) -> int:
        """height * width of v"""
        return math.prod(v.shape[axis] for axis in self._axes)

    @property
    def _axes(self) -> Sizes:
        return tuple(range(-len(self.kernel_size) - 1, -1))


@dataclass(frozen=True)
class Embedding(Dense):
    """u = W @ x for x one-hot, given as indices [batch, *]; W: [pre, post]. Nobody can be sent an error."""

    sends: ClassVar[bool] = False

    def apply(self, M: Array, v: Array, b: Array | None = None) -> Array:
        """The rows of M for indices v: [batch, *] -> [batch, *, post]"""
        return M[v] if b is None else M[v] + b

    def outer(self, v_post: Array, v_pre: Array, mean: Mean | None = None) -> Array:
        """The outer product with one-hot rows: [pre, post]; see `Dense.outer`"""
        summed = jnp.zeros_like(v_post, shape=self.kernel_shape)
        summed = summed.at[v_pre.reshape(-1)].add(v_post.reshape(-1, self.units_out))
        return summed if mean is None else summed / (len(v_post) * (self.positions(v_post) if mean == "all" else 1))


Linear = Dense | Convolution | Embedding


def forward_weights(layer: Linear, key: Key) -> tuple[Array, Array]:
    """W, normal with variance 1 / fan_in, and b, zero."""
    W = normal(key, layer.kernel_shape) / math.sqrt(layer.fan_in)
    return W, jnp.zeros(layer.units_out, W.dtype)
