"""Networks as data: the operations that a network is made of, and their shapes. No framework.

Weight layers are in `weighted.py`, which says what shapes mean, and what sequences need in `sequences.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from ruledsl.architectures.sequences import (
    Attention,
    ClassToken,
    Embedding,
    FirstPosition,
    LayerNorm,
    MeanPosition,
    PositionEmbedding,
    Positions,
)
from ruledsl.architectures.weighted import (
    ActivationKind,
    Conv,
    Dense,
    Norm,
    NormPlace,
    Operation,
    Shape,
    Weighted,
    expect,
    norm_parameters,
    same_padding,
    windows,
)
from ruledsl.errors import UserError

__all__ = [
    "Activation",
    "ActivationKind",
    "Attention",
    "BatchNorm",
    "ClassToken",
    "Conv",
    "Dense",
    "Dropout",
    "Embedding",
    "FirstPosition",
    "Flatten",
    "GlobalAveragePool",
    "Layer",
    "LayerNorm",
    "MeanPosition",
    "Norm",
    "NormPlace",
    "Pad",
    "Pool",
    "PositionEmbedding",
    "Positions",
    "Residual",
    "Shape",
    "Subsample",
    "Weighted",
    "chain",
    "same_padding",
]


@dataclass(frozen=True)
class Pool(Operation):
    """Maximum or average over windows; with `ceil`, windows that stick out at the right and bottom count too."""

    kind: Literal["max", "average"]
    kernel: int
    stride: int
    padding: int = 0
    ceil: bool = False

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C, H', W')`."""
        expect("pool", shape, 3, "an image")
        extra = self.stride - 1 if self.ceil else 0
        height, width = (
            windows("pool", shape, size + 2 * self.padding + extra, self.kernel, self.stride, 1) for size in shape[1:]
        )
        return shape[0], height, width


@dataclass(frozen=True)
class GlobalAveragePool(Operation):
    """The mean of each channel over all positions."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C,)`."""
        expect("global average pool", shape, 3, "an image")
        return (shape[0],)


@dataclass(frozen=True)
class Pad(Operation):
    """Zeros around an image, different on each side."""

    top: int
    bottom: int
    left: int
    right: int

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C, top + H + bottom, left + W + right)`."""
        expect("pad", shape, 3, "an image")
        return shape[0], self.top + shape[1] + self.bottom, self.left + shape[2] + self.right


@dataclass(frozen=True)
class Subsample(Operation):
    """Every `stride`-th position of an image, with channels of zeros behind its own: a shortcut without parameters."""

    channels: int
    stride: int

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(channels, ceil(H / stride), ceil(W / stride))`."""
        expect("subsample", shape, 3, "an image")
        if self.channels < shape[0]:
            raise UserError(f"subsample: an image of {shape[0]} channels has more than {self.channels}")
        return (self.channels, *(-(-size // self.stride) for size in shape[1:]))


@dataclass(frozen=True)
class Flatten(Operation):
    """An image as one vector, channel by channel and row by row."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(C * H * W,)`."""
        return (prod(shape),)


@dataclass(frozen=True)
class Activation(Operation):
    """A nonlinearity on its own; most belong to a weight layer, which declares them."""

    kind: ActivationKind

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        return shape


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Batch normalisation on its own; `affine` gives it a learned gain and shift for every channel."""

    name: str
    affine: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        return shape

    def parameter_count(self, shape: Shape) -> int:
        """The gain and shift."""
        return norm_parameters(Norm(affine=self.affine), shape[0])


@dataclass(frozen=True)
class Dropout(Operation):
    """In training, each value is zero with probability `p` and divided by `1 - p` otherwise."""

    p: float

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        return shape


@dataclass(frozen=True)
class Residual(Operation):
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
        """The gain and shift of the block's own normalisation."""
        return norm_parameters(self.norm, self.output_shape(shape)[0])


Layer = (
    Weighted
    | Pool
    | GlobalAveragePool
    | Pad
    | Subsample
    | Flatten
    | Activation
    | BatchNorm
    | Dropout
    | Residual
    | Positions
    | ClassToken
    | PositionEmbedding
    | LayerNorm
    | Attention
    | FirstPosition
    | MeanPosition
)


def chain(layers: tuple[Layer, ...], shape: Shape) -> Shape:
    """The shape that comes out of `layers`."""
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape
