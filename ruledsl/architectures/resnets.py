"""Residual networks (He et al. 2016), the original order ("v1"), in their form for 32 x 32 images.

`norm` puts the batch normalisation before the ReLU, as usual, or after it, as in most experiments of Akrout et al.
2019 (appendix D.3). After the ReLU, the second half of a block is normalised once, behind its sum and ReLU.
"""

from __future__ import annotations

from ruledsl.architectures.layers import Conv, Dense, GlobalAveragePool, Layer, Norm, NormPlace, Residual

WIDTHS = (64, 128, 256, 512)


def resnet18_cifar(classes: int, *, norm: NormPlace = "before") -> tuple[Layer, ...]:
    """ResNet-18: a 3 x 3 convolution without pooling, then four stages of two blocks."""
    layers: list[Layer] = [Conv("conv1", WIDTHS[0], 3, "relu", padding=1, bias=False, norm=Norm(norm))]
    channels = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        for block in (1, 2):
            stride = 2 if stage > 1 and block == 1 else 1
            layers.append(_basic_block(f"block{stage}_{block}", channels, width, stride, norm))
            channels = width
    return (*layers, GlobalAveragePool(), Dense("fc1", classes))


def _basic_block(name: str, channels: int, width: int, stride: int, norm: NormPlace) -> Residual:
    """Two 3 x 3 convolutions beside the identity, or beside a 1 x 1 convolution where the shape changes."""
    before = Norm("before") if norm == "before" else None
    body = (
        Conv("conv1", width, 3, "relu", stride=stride, padding=1, bias=False, norm=Norm(norm)),
        Conv("conv2", width, 3, None, padding=1, bias=False, norm=before),
    )
    changes = stride != 1 or channels != width
    shortcut = (Conv("shortcut", width, 1, None, stride=stride, bias=False, norm=before),) if changes else ()
    return Residual(name, body, shortcut, "relu", None if before else Norm("after"))
