"""Residual networks for ImageNet and for images of 32 x 32.

v1 is the original order (He et al. 2016a, "Deep residual learning", Table 1 and section 4.2), v2 that with activations
before the convolutions (He et al. 2016b, "Identity mappings in deep residual networks", and Zagoruyko & Komodakis 2016
for the wide one).

`norm` puts the batch normalisation before the ReLU, as usual, or after it, as in most experiments of Akrout et al.
2019 (appendix D.3). After the ReLU, the last part of a block is normalised once, behind its sum and ReLU.

In v2 the first block begins with what the stem has activated, and the last one is followed by an activation (He et al.
2016b, appendix). Where the shape changes, body and shortcut share the activation before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ruledsl.architectures.components import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    GlobalAveragePool,
    Layer,
    Norm,
    NormPlace,
    Pool,
    Residual,
    Subsample,
)

Version = Literal[1, 2]
Shortcut = Literal["conv", "pad"]
Layers = tuple[Layer, ...]
WIDTHS = (64, 128, 256, 512)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECKS = (50, 101, 152)
EXPANSION = 4


@dataclass(frozen=True)
class Style:
    """What the blocks of a network have in common.

    bottleneck  three convolutions, of 1 x 1, 3 x 3 and 1 x 1, in the place of two of 3 x 3; the stride is that of the
                3 x 3 one, as in most implementations
    shortcut    where the shape changes: a 1 x 1 convolution, or the identity with zeros for the channels that are new
    dropout     before the last convolution of a block
    """

    version: Version
    norm: NormPlace
    bottleneck: bool = False
    shortcut: Shortcut = "conv"
    dropout: float = 0.0


def imagenet(depth: int, version: Version) -> Callable[..., Layers]:
    """The maker of a network for ImageNet: a 7 x 7 convolution and a maximum, each of which halves the image."""

    def make(classes: int, *, norm: NormPlace = "before") -> Layers:
        stem = Conv("conv1", WIDTHS[0], 7, "relu", stride=2, padding=3, bias=False, norm=Norm(norm))
        bottleneck = depth in BOTTLENECKS
        widths = [width * EXPANSION if bottleneck else width for width in WIDTHS]
        blocks = _stages(WIDTHS[0], widths, DEPTHS[depth], Style(version, norm, bottleneck))
        return (stem, Pool("max", 3, 2, padding=1), *blocks, GlobalAveragePool(), Dense("fc1", classes))

    return make


def small_imagenet(depth: int, version: Version) -> Callable[..., Layers]:
    """The same for small images: a 3 x 3 convolution without a stride and no maximum."""

    def make(classes: int, *, norm: NormPlace = "before") -> Layers:
        stem = Conv("conv1", WIDTHS[0], 3, "relu", padding=1, bias=False, norm=Norm(norm))
        blocks = _stages(WIDTHS[0], WIDTHS, DEPTHS[depth], Style(version, norm))
        return (stem, *blocks, GlobalAveragePool(), Dense("fc1", classes))

    return make


def cifar(depth: int, version: Version) -> Callable[..., Layers]:
    """The maker of a network of 6 n + 2 layers for CIFAR-10, with 16, 32 and 64 channels (He et al. 2016a, 4.2).

    Shortcuts there have no parameters (`pad`).
    """

    def make(classes: int, *, norm: NormPlace = "before", shortcut: Shortcut = "pad") -> Layers:
        stem = Conv("conv1", 16, 3, "relu", padding=1, bias=False, norm=Norm(norm))
        blocks = _stages(16, (16, 32, 64), ((depth - 2) // 6,) * 3, Style(version, norm, shortcut=shortcut))
        return (stem, *blocks, GlobalAveragePool(), Dense("fc1", classes))

    return make


def wide_resnet28_10(classes: int, *, norm: NormPlace = "before", dropout: float = 0.0) -> Layers:
    """The wide residual network of 28 layers and ten times the channels; the paper's dropout is 0 or 0.3."""
    stem = Conv("conv1", 16, 3, "relu", padding=1, bias=False, norm=Norm(norm))
    blocks = _stages(16, (160, 320, 640), (4, 4, 4), Style(2, norm, dropout=dropout))
    return (stem, *blocks, GlobalAveragePool(), Dense("fc1", classes))


def _stages(channels: int, widths: Sequence[int], depths: Sequence[int], style: Style) -> Layers:
    """Stages of blocks on an image of so many channels; every stage but the first halves it."""
    layers: list[Layer] = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for index in range(1, depth + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            make = _block if style.version == 1 else _preactivated_block
            layers += make(f"block{stage}_{index}", channels, width, stride, style)
            channels = width
    return tuple(layers) if style.version == 1 else (*layers, *_activation("norm", style.norm))


def _block(name: str, channels: int, width: int, stride: int, style: Style) -> Layers:
    """v1: the sum of body and shortcut, then the activation."""
    last = Norm("before") if style.norm == "before" else None
    body, shortcut = _body(width, stride, style, last), _shortcut(channels, width, stride, style, last)
    return (Residual(name, body, shortcut, "relu", Norm("after") if style.norm == "after" else None),)


def _preactivated_block(name: str, channels: int, width: int, stride: int, style: Style) -> Layers:
    """v2: the activation, then the sum of body and shortcut."""
    body, shortcut = _body(width, stride, style, None), _shortcut(channels, width, stride, style, None)
    if name == "block1_1":
        return (Residual(name, body, shortcut),)
    if shortcut:
        return (*_activation(f"{name}_norm", style.norm), Residual(name, body, shortcut))
    return (Residual(name, (*_activation("norm", style.norm), *body)),)


def _body(width: int, stride: int, style: Style, last: Norm | None) -> Layers:
    """The convolutions beside the shortcut, the last one normalised as given."""
    own, dropout = Norm(style.norm), (Dropout(style.dropout),) if style.dropout else ()
    if not style.bottleneck:
        first = Conv("conv1", width, 3, "relu", stride=stride, padding=1, bias=False, norm=own)
        return (first, *dropout, Conv("conv2", width, 3, None, padding=1, bias=False, norm=last))
    narrow = width // EXPANSION
    return (
        Conv("conv1", narrow, 1, "relu", bias=False, norm=own),
        Conv("conv2", narrow, 3, "relu", stride=stride, padding=1, bias=False, norm=own),
        *dropout,
        Conv("conv3", width, 1, None, bias=False, norm=last),
    )


def _shortcut(channels: int, width: int, stride: int, style: Style, last: Norm | None) -> Layers:
    """Nothing, which is the identity, where the shape does not change."""
    if stride == 1 and channels == width:
        return ()
    if style.shortcut == "pad":
        return (Subsample(width, stride),)
    return (Conv("shortcut", width, 1, None, stride=stride, bias=False, norm=last),)


def _activation(name: str, place: NormPlace) -> Layers:
    """Batch normalisation and ReLU, in the order that `place` says."""
    layers = (BatchNorm(name), Activation("relu"))
    return layers if place == "before" else layers[::-1]
