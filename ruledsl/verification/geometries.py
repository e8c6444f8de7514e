"""The layers on which every backend is compared with the reference: plain data, in PyTorch's terms."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class DenseGeometry:
    """A dense layer: [batch, units_in] -> [batch, units_out]."""

    name: str
    units_in: int
    units_out: int

    def arguments(self) -> dict[str, int]:
        """Of the class `Dense` of any backend."""
        return {"units_in": self.units_in, "units_out": self.units_out}

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution on inputs of `input_size` (height, width); `padding` is the same on both sides."""

    name: str
    channels_in: int
    channels_out: int
    kernel_size: Pair
    input_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def arguments(self) -> dict[str, int | Pair]:
        """Of the class `Conv2d` of any backend."""
        return {name: value for name, value in vars(self).items() if name != "name"}

    def __str__(self) -> str:
        return self.name


Geometry = DenseGeometry | ConvGeometry

DENSE: tuple[DenseGeometry, ...] = (
    DenseGeometry("dense", 7, 5),
    DenseGeometry("dense_single_output", 4, 1),
)
CONVS: tuple[ConvGeometry, ...] = (
    ConvGeometry("conv3x3", 3, 4, (3, 3), (6, 6)),
    ConvGeometry("same_padding", 2, 3, (3, 3), (5, 5), padding=(1, 1)),
    ConvGeometry("pointwise", 4, 6, (1, 1), (5, 4)),
    ConvGeometry("pointwise_stride", 4, 3, (1, 1), (5, 6), stride=(2, 2)),
    ConvGeometry("stride", 3, 4, (3, 3), (7, 7), stride=(2, 2), padding=(1, 1)),
    ConvGeometry("stride_leaves_a_rest", 2, 3, (3, 3), (8, 8), stride=(2, 2)),
    ConvGeometry("stride_skips_pixels", 2, 4, (2, 2), (9, 8), stride=(3, 4)),
    ConvGeometry("uneven_stride", 3, 2, (3, 3), (7, 8), stride=(1, 3), padding=(0, 1)),
    ConvGeometry("dilation", 2, 4, (3, 3), (8, 8), dilation=(2, 2), padding=(2, 2)),
    ConvGeometry("uneven_dilation", 2, 3, (3, 2), (9, 7), dilation=(2, 3), padding=(1, 0)),
    ConvGeometry("wide_kernel", 2, 3, (1, 5), (4, 9), padding=(0, 2)),
    ConvGeometry("tall_kernel_wide_input", 3, 2, (4, 2), (6, 11), padding=(3, 1)),
    ConvGeometry("groups", 4, 6, (3, 3), (5, 5), groups=2, padding=(1, 1)),
    ConvGeometry("depthwise", 4, 4, (3, 3), (6, 6), groups=4, padding=(1, 1)),
    ConvGeometry("depthwise_multiplier", 3, 6, (2, 2), (5, 5), groups=3),
    ConvGeometry("everything", 4, 6, (3, 2), (11, 9), stride=(2, 3), padding=(2, 1), dilation=(2, 1), groups=2),
    ConvGeometry("kernel_covers_input", 2, 5, (4, 4), (4, 4)),
)
GEOMETRIES: tuple[Geometry, ...] = DENSE + CONVS
BATCH = 3
