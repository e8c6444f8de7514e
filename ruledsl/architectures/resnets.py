"""Residual networks (He et al. 2016), in the original order ("v1"): for ImageNet, and for images of 32 x 32.

`norm` puts the batch normalisation before the ReLU, as usual, or after it, as in most experiments of Akrout et al.
2019 (appendix D.3). After the ReLU, the last part of a block is normalised once, behind its sum and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable

from ruledsl.architectures.components import Conv, Dense, GlobalAveragePool, Layer, Norm, NormPlace, Pool, Residual

WIDTHS = (64, 128, 256, 512)
Block = Callable[[str, int, int, int, NormPlace], Residual]


def resnet18_cifar(classes: int, *, norm: NormPlace = "before") -> tuple[Layer, ...]:
    """ResNet-18 for small images: a 3 x 3 convolution without pooling, then four stages of two blocks."""
    stem = Conv("conv1", WIDTHS[0], 3, "relu", padding=1, bias=False, norm=Norm(norm))
    return (stem, *_stages((2, 2, 2, 2), _basic_block, 1, norm), GlobalAveragePool(), Dense("fc1", classes))


def resnet18(classes: int, *, norm: NormPlace = "before") -> tuple[Layer, ...]:
    """ResNet-18 for ImageNet."""
    return (*_stem(norm), *_stages((2, 2, 2, 2), _basic_block, 1, norm), GlobalAveragePool(), Dense("fc1", classes))


def resnet50(classes: int, *, norm: NormPlace = "before") -> tuple[Layer, ...]:
    """ResNet-50 for ImageNet; a block's stride is that of its 3 x 3 convolution, as in most implementations."""
    return (*_stem(norm), *_stages((3, 4, 6, 3), _bottleneck, 4, norm), GlobalAveragePool(), Dense("fc1", classes))


def _stem(norm: NormPlace) -> tuple[Layer, ...]:
    """A 7 x 7 convolution and a maximum, each of which halves the image."""
    conv = Conv("conv1", WIDTHS[0], 7, "relu", stride=2, padding=3, bias=False, norm=Norm(norm))
    return (conv, Pool("max", 3, 2, padding=1))


def _stages(depths: tuple[int, ...], block: Block, expansion: int, norm: NormPlace) -> list[Layer]:
    layers: list[Layer] = []
    channels = WIDTHS[0]
    for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
        for index in range(1, depth + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            layers.append(block(f"block{stage}_{index}", channels, width * expansion, stride, norm))
            channels = width * expansion
    return layers


def _basic_block(name: str, channels: int, width: int, stride: int, norm: NormPlace) -> Residual:
    """Two 3 x 3 convolutions beside the shortcut."""
    return _block(
        name,
        channels,
        width,
        stride,
        norm,
        Conv("conv1", width, 3, "relu", stride=stride, padding=1, bias=False, norm=Norm(norm)),
        Conv("conv2", width, 3, None, padding=1, bias=False, norm=_before(norm)),
    )


def _bottleneck(name: str, channels: int, width: int, stride: int, norm: NormPlace) -> Residual:
    """A 3 x 3 convolution between two of 1 x 1, with a quarter of the channels, beside the shortcut."""
    return _block(
        name,
        channels,
        width,
        stride,
        norm,
        Conv("conv1", width // 4, 1, "relu", bias=False, norm=Norm(norm)),
        Conv("conv2", width // 4, 3, "relu", stride=stride, padding=1, bias=False, norm=Norm(norm)),
        Conv("conv3", width, 1, None, bias=False, norm=_before(norm)),
    )


def _block(name: str, channels: int, width: int, stride: int, norm: NormPlace, *body: Layer) -> Residual:
    """The shortcut is the identity, or a 1 x 1 convolution where the shape changes."""
    changes = stride != 1 or channels != width
    shortcut = (Conv("shortcut", width, 1, None, stride=stride, bias=False, norm=_before(norm)),) if changes else ()
    return Residual(name, body, shortcut, "relu", Norm("after") if norm == "after" else None)


def _before(norm: NormPlace) -> Norm | None:
    """Normalisation behind a convolution that has no ReLU."""
    return Norm("before") if norm == "before" else None
