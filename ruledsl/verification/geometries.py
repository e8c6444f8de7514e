"""The layers on which every backend is compared with the reference: plain data, in PyTorch's terms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class DenseGeometry:
    """A dense layer: [batch, units_in] -> [batch, units_out]."""

    name: str
    units_in: int
    units_out: int

    def arguments(self) -> dict[str, int]:
        """Of the reference's `Dense`, by name."""
        return {"units_in": self.units_in, "units_out": self.units_out}

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution on inputs of `input_size`, in as many dimensions as that has; `padding` is alike on both sides.

    One number for stride, padding, dilation or output_padding is meant for every dimension.
    """

    name: str
    channels_in: int
    channels_out: int
    kernel_size: Sizes
    input_size: Sizes
    stride: int | Sizes = 1
    padding: int | Sizes = 0
    dilation: int | Sizes = 1
    groups: int = 1
    transposed: bool = False
    output_padding: int | Sizes = 0

    def arguments(self) -> dict[str, Any]:
        """Of the reference's `Convolution`, by name: stride and the like with one number for each dimension."""
        found = {name: value for name, value in vars(self).items() if name != "name"}
        for name in ("stride", "padding", "dilation", "output_padding"):
            if isinstance(found[name], int):
                found[name] = (found[name],) * len(self.kernel_size)
        return found

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class SequenceGeometry:
    """A dense layer in several positions: [batch, *positions, units_in] -> [batch, *positions, units_out].

    It is what a convolution with a kernel of one is, with its units last: as such the reference computes it.
    """

    name: str
    units_in: int
    units_out: int
    positions: Sizes

    def arguments(self) -> dict[str, Any]:
        """Of the reference's `Convolution`, by name."""
        ones = (1,) * len(self.positions)
        return ConvGeometry(self.name, self.units_in, self.units_out, ones, self.positions).arguments()

    def __str__(self) -> str:
        return self.name


Geometry = DenseGeometry | ConvGeometry | SequenceGeometry

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
    ConvGeometry("conv1d", 3, 4, (3,), (8,), padding=1),
    ConvGeometry("conv1d_everything", 4, 6, (3,), (11,), stride=2, padding=1, dilation=2, groups=2),
    ConvGeometry("conv3d", 2, 3, (2, 2, 2), (3, 4, 3)),
    ConvGeometry("conv3d_everything", 4, 2, (1, 3, 2), (3, 7, 5), (2, 1, 3), (0, 2, 1), (1, 2, 3), 2),
)
_transposed = partial(ConvGeometry, transposed=True)
TRANSPOSED: tuple[ConvGeometry, ...] = (
    _transposed("transposed1d", 3, 2, (3,), (5,), stride=2),
    _transposed("transposed1d_everything", 4, 6, (4,), (5,), 3, 2, 2, 2, output_padding=1),
    _transposed("transposed", 3, 4, (3, 3), (4, 5)),
    _transposed("transposed_stride", 2, 3, (3, 2), (4, 3), stride=2, padding=1),
    _transposed("transposed_leaves_gaps", 2, 3, (1, 2), (3, 3), stride=(2, 3)),
    _transposed("output_padding", 3, 2, (3, 3), (3, 4), stride=2, padding=1, output_padding=(1, 0)),
    _transposed("transposed_depthwise", 4, 4, (3, 3), (4, 4), padding=1, groups=4),
    _transposed("transposed_everything", 4, 6, (3, 2), (4, 3), (2, 3), (2, 1), (2, 1), 2, output_padding=(1, 2)),
    _transposed("transposed3d", 2, 3, (2, 2, 2), (2, 3, 2)),
    _transposed(
        "transposed3d_everything", 2, 4, (2, 3, 1), (2, 3, 3), (2, 1, 2), (1, 2, 0), (1, 2, 1), 2, output_padding=1
    ),
)
GEOMETRIES: tuple[DenseGeometry | ConvGeometry, ...] = DENSE + CONVS + TRANSPOSED
SEQUENCES: tuple[SequenceGeometry, ...] = (
    SequenceGeometry("sequence", 5, 4, (3,)),
    SequenceGeometry("positions_of_two_axes", 3, 4, (2, 3)),
)
BATCH = 3
