"""Networks as data: the operations that a network is made of, and their shapes. No framework.

Shapes leave out the batch: `(channels, height, width)` for images and `(units,)` for vectors. A backend that keeps its
images in another layout (NHWC) flattens in this one's order, so that a dense layer sees the same units everywhere.
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


@dataclass(frozen=True)
class Norm:
    """Batch normalisation that belongs to a weight layer or a block: `before` or `after` the activation.

    `affine` gives it a learned gain and shift for every channel.
    """

    place: NormPlace = "before"
    affine: bool = True


@dataclass(frozen=True)
class Dense:
    """A fully connected weight layer: map, then `norm` before, `activation`, `norm` after."""

    name: str
    units: int
    activation: ActivationKind | None = None
    bias: bool = True
    norm: Norm | None = None

    def output_shape(self, shape: Shape) -> Shape:
        """`(units_in,)` -> `(units,)`."""
        _expect(self.name, shape, 1, "a vector (put a Flatten before it)")
        return (self.units,)

    def forward_kernel(self, shape: Shape) -> Kernel:
        """Its forward weights, for inputs of this shape: [units, units_in]."""
        return Kernel((self.units, shape[0]), self.bias)

    def parameter_count(self, shape: Shape) -> int:
        """Weights, biases, and the gain and shift of its normalisation."""
        return self.forward_kernel(shape).count + _norm_parameters(self.norm, self.units)


@dataclass(frozen=True)
class Conv:
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
        _expect(self.name, shape, 3, "an image")
        if shape[0] % self.groups or self.channels % self.groups:
            raise UserError(f"layer {self.name}: {self.groups} groups do not divide {shape[0]} -> {self.channels}")
        top, bottom, left, right = self.pads(shape)
        height, width = self.kernel_size
        return (
            self.channels,
            _positions(self.name, shape, shape[1] + top + bottom, height, self.stride, self.dilation),
            _positions(self.name, shape, shape[2] + left + right, width, self.stride, self.dilation),
        )

    def forward_kernel(self, shape: Shape) -> Kernel:
        """Its forward weights, for inputs of this shape: [channels, C_in / groups, height, width]."""
        return Kernel((self.channels, shape[0] // self.groups, *self.kernel_size), self.bias)

    def parameter_count(self, shape: Shape) -> int:
        """Weights, biases, and the gain and shift of its normalisation."""
        return self.forward_kernel(shape).count + _norm_parameters(self.norm, self.channels)


@dataclass(frozen=True)
class Pool:
    """Maximum or average over windows; with `ceil`, windows that stick out at the right and bottom count too."""

    kind: Literal["max", "average"]
    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C, H', W')`."""
        _expect("pool", shape, 3, "an image")
        extra = self.stride - 1 if self.ceil else 0
        height, width = (
            _positions("pool", shape, size + 2 * self.padding + extra, self.kernel, self.stride, 1)
            for size in shape[1:]
        )
        return shape[0], height, width

    def parameter_count(self, shape: Shape) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class GlobalAveragePool:
    """The mean of each channel over all positions."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C,)`."""
        _expect("global average pool", shape, 3, "an image")
        return (shape[0],)

    def parameter_count(self, shape: Shape) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Pad:
    """Zeros around an image, different on each side."""

    top: int
    bottom: int
    left: int
    right: int

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C, top + H + bottom, left + W + right)`."""
        _expect("pad", shape, 3, "an image")
        return shape[0], self.top + shape[1] + self.bottom, self.left + shape[2] + self.right

    def parameter_count(self, shape: Shape) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Flatten:
    """An image as one vector, channel by channel and row by row."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C * H * W,)`."""
        return (prod(shape),)

    def parameter_count(self, shape: Shape) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Activation:
    """A nonlinearity on its own; most belong to a weight layer, which declares them."""

    kind: ActivationKind

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        return shape

    def parameter_count(self, shape: Shape) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation on its own; `affine` gives it a learned gain and shift for every channel."""

    name: str
    affine: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        return shape

    def parameter_count(self, shape: Shape) -> int:
        """The gain and shift."""
        return _norm_parameters(Norm(affine=self.affine), shape[0])


@dataclass(frozen=True)
class Dropout:
    """In training, each value is zero with probability `p` and divided by `1 - p` otherwise."""

    p: float

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        return shape

    def parameter_count(self, shape: Shape) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Residual:
    """`activation(body(x) + shortcut(x))`, with `norm` around the activation; an empty shortcut is the identity."""

    name: str
    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
    activation: ActivationKind | None = None
    norm: Norm | None = None

    def output_shape(self, shape: Shape) -> Shape:
        """That of the body, which the shortcut must have too."""
        ends = [chain(layers, shape) for layers in (self.body, self.shortcut)]
        if ends[0] != ends[1]:
            raise UserError(f"block {self.name}: its body ends in {ends[0]} but its shortcut in {ends[1]}")
        return ends[0]

    def parameter_count(self, shape: Shape) -> int:
        """Of the body, the shortcut and the block's own normalisation."""
        inside = sum(count(layers, shape) for layers in (self.body, self.shortcut))
        return inside + _norm_parameters(self.norm, self.output_shape(shape)[0])


Weighted = Dense | Conv
Layer = Dense | Conv | Pool | GlobalAveragePool | Pad | Flatten | Activation | BatchNorm | Dropout | Residual


def chain(layers: tuple[Layer, ...], shape: Shape) -> Shape:
    """The shape that comes out of `layers`."""
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape


def count(layers: tuple[Layer, ...], shape: Shape) -> int:
    """How many parameters `layers` learn on inputs of this shape."""
    total = 0
    for layer in layers:
        total += layer.parameter_count(shape)
        shape = layer.output_shape(shape)
    return total


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros (before, after) such that there are ceil(size / stride) windows."""
    needed = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return needed // 2, needed - needed // 2


def _positions(name: str, shape: Shape, size: int, kernel: int, stride: int, dilation: int) -> int:
    reach = (kernel - 1) * dilation + 1
    if size < reach:
        raise UserError(f"layer {name}: its window of {reach} does not fit into an input of shape {shape}")
    return (size - reach) // stride + 1


def _norm_parameters(norm: Norm | None, channels: int) -> int:
    return 2 * channels if norm is not None and norm.affine else 0


def _expect(name: str, shape: Shape, axes: int, what: str) -> None:
    if len(shape) != axes:
        raise UserError(f"layer {name} needs {what}, but gets an input of shape {shape}")
