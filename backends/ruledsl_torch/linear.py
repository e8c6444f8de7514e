"""The linear map of a weight layer: all that the torch backend knows of geometry.

Activities are [batch, units] or [batch, channels, height, width]; a dense layer takes more leading axes as well.
Every map between pre and post, in either direction, is a kernel in the forward layout: [out, in] or
[out, in / groups, height, width].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.sizes import Conv2dSizes, DenseSizes, Pair

Mean = Literal["batch", "all"]


@dataclass(frozen=True)
class Dense(DenseSizes):
    """u = W @ x with W: [post, pre]."""

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[post, pre]"""
        return (self.units_out, self.units_in)

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """M @ v, or M @ v + b, for v: [batch, pre] -> [batch, post]"""
        return F.linear(v, M, b)

    def adjoint(self, M: Tensor, v: Tensor) -> Tensor:
        """M.T @ v for v: [batch, post] -> [batch, pre]"""
        return v @ M

    def outer(self, v_post: Tensor, v_pre: Tensor, mean: Mean | None = None) -> Tensor:
        """The outer product summed over the batch, or averaged: [post, pre]"""
        summed = v_post.reshape(-1, self.units_out).t() @ v_pre.reshape(-1, self.units_in)
        return summed if mean is None else summed.div_(v_post.shape[0])

    def spread(self, p: Tensor) -> Tensor:
        """One number per unit, ready to combine with an activity."""
        return p

    def sum_to_units(self, v: Tensor) -> Tensor:
        """Sum over the batch: [batch, units] -> [units]"""
        return v.reshape(-1, v.shape[-1]).sum(0)

    def mean_positions(self, v: Tensor) -> Tensor:
        """v itself: a dense layer has one position."""
        return v

    def sum_positions(self, v: Tensor) -> Tensor:
        """v itself: a dense layer has one position."""
        return v

    def positions(self, v: Tensor) -> int:
        """1"""
        return 1


@dataclass(frozen=True)
class Conv2d(Conv2dSizes):
    """u = W * x with W: [channels_out, channels_in / groups, height, width]; a unit is a channel.

    `input_size` is the height and width of x, which the adjoint has to know.
    """

    padding: Pair

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """[channels_out, channels_in / groups, height, width]"""
        return (self.channels_out, self.channels_in // self.groups, *self.kernel_size)

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """M @ v, or M @ v + b, for v over pre: [batch, channels_out, height, width]"""
        return F.conv2d(v, M, b, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, M: Tensor, v: Tensor) -> Tensor:
        """M.T @ v, the exact adjoint of `apply`: [batch, channels_in, *input_size]"""
        only_sizes = v.new_empty((v.shape[0], self.channels_in, *self.input_size))
        return self._backward(v, only_sizes, M, (True, False, False))[0]

    def outer(self, v_post: Tensor, v_pre: Tensor, mean: Mean | None = None) -> Tensor:
        """The kernel gradient, summed over batch and positions; `all` averages over both, `batch` over the batch."""
        only_sizes = v_pre.new_empty(self.kernel_shape)
        summed = self._backward(v_post, v_pre, only_sizes, (False, True, False))[1]
        if mean is None:
            return summed
        return summed.div_(v_post.shape[0] * (self.positions(v_post) if mean == "all" else 1))

    def spread(self, p: Tensor) -> Tensor:
        """One number per channel, ready to combine with an activity: [channels, 1, 1]"""
        return p[:, None, None]

    def sum_to_units(self, v: Tensor) -> Tensor:
        """Sum over batch and positions: [batch, channels, height, width] -> [channels]"""
        return v.sum((0, 2, 3)) if v.dim() == 4 else v.sum((1, 2))

    def mean_positions(self, v: Tensor) -> Tensor:
        """Mean over positions: [batch, channels, 1, 1]"""
        return v.mean((-2, -1), keepdim=True)

    def sum_positions(self, v: Tensor) -> Tensor:
        """Sum over positions: [batch, channels, 1, 1]"""
        return v.sum((-2, -1), keepdim=True)

    def positions(self, v: Tensor) -> int:
        """height * width of v"""
        return v.shape[-2] * v.shape[-1]

    def _backward(self, v_post: Tensor, v_pre: Tensor, M: Tensor, mask: tuple[bool, bool, bool]) -> list[Tensor]:
        gradients: list[Tensor] = torch.ops.aten.convolution_backward(
            v_post, v_pre, M, None, self.stride, self.padding, self.dilation, False, (0, 0), self.groups, mask
        )
        return gradients


Linear = Dense | Conv2d


def linear_map(module: nn.Linear | nn.Conv2d, x: Tensor | None = None) -> Linear:
    """The map of a layer. `x`, an input of it, tells a convolution the size that its adjoint returns to."""
    if isinstance(module, nn.Linear):
        return Dense(module.in_features, module.out_features)
    padding = symmetric_padding(module)
    assert padding is not None
    return Conv2d(
        module.in_channels,
        module.out_channels,
        (module.kernel_size[0], module.kernel_size[1]),
        (module.stride[0], module.stride[1]),
        padding,
        (module.dilation[0], module.dilation[1]),
        module.groups,
        (1, 1) if x is None else (x.shape[2], x.shape[3]),
    )


def symmetric_padding(conv: nn.Conv2d) -> Pair | None:
    """The padding in pixels, the same on both sides; None for a `same` that would pad one side more."""
    if not isinstance(conv.padding, str):
        return (conv.padding[0], conv.padding[1])
    if conv.padding == "valid":
        return (0, 0)
    total = [conv.dilation[axis] * (conv.kernel_size[axis] - 1) for axis in (0, 1)]
    return None if total[0] % 2 or total[1] % 2 else (total[0] // 2, total[1] // 2)
