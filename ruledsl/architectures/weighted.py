"""The layers that a rule teaches, and what every operation of a network says of itself. No framework.

Shapes leave out the batch: `(channels, height, width)` for images, `(units,)` for vectors and `(positions, units)` for
sequences. A backend that keeps its images in another layout (NHWC) flattens in this one's order, so that a dense layer
sees the same units everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from ruledsl.errors import UserError
from ruledsl.streams import Kernel

Shape = tuple[int, ...]
ActivationKind = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid"]
NormPlace = Literal["before", "after"]


class Operation:
    """An operation that learns nothing and multiplies nothing, unless its class says otherwise."""

    def parameter_count(self, shape: Shape) -> int:
        """How many numbers it learns by itself, those of the layers inside aside."""
        return 0

    def multiply_adds(self, shape: Shape) -> int:
        """Of one example, without normalisations, biases and the layers inside."""
        return 0


@dataclass(frozen=True)
class Norm:
    """Batch normalisation that belongs to a weight layer or a block: `before` or `after` the activation.

    `affine` gives it a learned gain and shift for every channel.
    """

    place: NormPlace = "before"
    affine: bool = True


@dataclass(frozen=True)
class Dense(Operation):
    """A fully connected weight layer: map, then `norm` before, `activation`, `norm` after.

    A sequence goes through it position by position.
    """

    name: str
    units: int
    activation: ActivationKind | None = None
    bias: bool = True
    norm: Norm | None = None

    def output_shape(self, shape: Shape) -> Shape:
        """`(units_in,)` -> `(units,)`, or `(positions, units_in)` -> `(positions, units)`."""
        if len(shape) != 2 or self.norm is not None:
            expect(f"layer {self.name}", shape, 1, "a vector (put a Flatten before it)")
        return (*shape[:-1], self.units)

    def forward_kernel(self, shape: Shape) -> Kernel:
        """Its forward weights, for inputs of this shape: [units, units_in]."""
        return Kernel((self.units, shape[-1]), self.bias)

    def parameter_count(self, shape: Shape) -> int:
        """Weights, biases, and the gain and shift of its normalisation."""
        return self.forward_kernel(shape).count + norm_parameters(self.norm, self.units)

    def multiply_adds(self, shape: Shape) -> int:
        """One for every synapse and position."""
        return prod(shape) * self.units


@dataclass(frozen=True)
class Conv(Operation):
    """A 2-d convolution layer: map, then `norm` before, `activation`, `norm` after.

    `padding` is the number of zeros on each side, or `same`: the convention of TensorFlow, where the output has
    ceil(size / stride) positions and an odd zero goes to the right and the bottom.
    """

    name: str
    channels: int
    kernel: int | tuple[int, int]
    activation: ActivationKind | None = None
    stride: int = 1
    padding: int | Literal["same"] = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    norm: Norm | None = None

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    def pads(self, shape: Shape) -> tuple[int, int, int, int]:
        """Zeros at the (top, bottom, left, right) of an input of this shape."""
        if self.padding != "same":
            return (self.padding,) * 4
        top, bottom = same_padding(shape[1], self.kernel_size[0], self.stride, self.dilation)
        left, right = same_padding(shape[2], self.kernel_size[1], self.stride, self.dilation)
        return top, bottom, left, right

    def padded(self, shape: Shape) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """Those of its zeros that the image gets before it comes to the layer, and (height, width) of those that the
        layer adds itself, on both sides alike: all of them, or none where two sides differ."""
        top, bottom, left, right = self.pads(shape)
        if (top, left) == (bottom, right):
            return (0, 0, 0, 0), (top, left)
        return (top, bottom, left, right), (0, 0)

    def seen_shape(self, shape: Shape) -> Shape:
        """What comes to the layer itself, for an input of this shape."""
        top, bottom, left, right = self.padded(shape)[0]
        return shape[0], top + shape[1] + bottom, left + shape[2] + right

    def output_shape(self, shape: Shape) -> Shape:
        """`(C_in, H, W)` -> `(channels, H', W')`."""
        expect(f"layer {self.name}", shape, 3, "an image")
        if shape[0] % self.groups or self.channels % self.groups:
            raise UserError(f"layer {self.name}: {self.groups} groups do not divide {shape[0]} -> {self.channels}")
        top, bottom, left, right = self.pads(shape)
        height, width = self.kernel_size
        return (
            self.channels,
            windows(f"layer {self.name}", shape, shape[1] + top + bottom, height, self.stride, self.dilation),
            windows(f"layer {self.name}", shape, shape[2] + left + right, width, self.stride, self.dilation),
        )

    def forward_kernel(self, shape: Shape) -> Kernel:
        """Its forward weights, for inputs of this shape: [channels, C_in / groups, height, width]."""
        return Kernel((self.channels, shape[0] // self.groups, *self.kernel_size), self.bias)

    def parameter_count(self, shape: Shape) -> int:
        """Weights, biases, and the gain and shift of its normalisation."""
        return self.forward_kernel(shape).count + norm_parameters(self.norm, self.channels)

    def multiply_adds(self, shape: Shape) -> int:
        """One for every synapse of the kernel and position."""
        return prod(self.forward_kernel(shape).shape) * prod(self.output_shape(shape)[1:])


Weighted = Dense | Conv


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros (before, after) such that there are ceil(size / stride) windows."""
    needed = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return needed // 2, needed - needed // 2


def windows(name: str, shape: Shape, size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many windows fit along an axis. Raises UserError where none does."""
    reach = (kernel - 1) * dilation + 1
    if size < reach:
        raise UserError(f"{name}: its window of {reach} does not fit into an input of shape {shape}")
    return (size - reach) // stride + 1


def norm_parameters(norm: Norm | None, channels: int) -> int:
    """The gain and shift of a normalisation that may not be there."""
    return 2 * channels if norm is not None and norm.affine else 0


def expect(name: str, shape: Shape, axes: int, what: str) -> None:
    """Raises UserError for a shape with another number of axes; `what` is what these would make it."""
    if len(shape) != axes:
        raise UserError(f"{name} needs {what}, but gets an input of shape {shape}")
