"""Transformers of images (Dosovitskiy et al. 2021, section 3.1; the sizes of Touvron et al. 2021, Table 1).

The image is cut into patches by a convolution whose stride is its kernel; a learnt number is added for every unit and
position. Every block normalises first, and all its maps are weight layers: `block1_1.attention.q_proj`,
`block1_2.fc1`. The class is read from a learnt position before the patches (`token`), or from the mean over all
patches (`mean`).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from ruledsl.architectures.components import (
    Attention,
    ClassToken,
    Conv,
    Dense,
    Dropout,
    FirstPosition,
    Layer,
    LayerNorm,
    MeanPosition,
    PositionEmbedding,
    Positions,
    Residual,
)

Layers = tuple[Layer, ...]
Reading = Literal["token", "mean"]


def vit(
    classes: int,
    *,
    patch: int = 16,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    expansion: int = 4,
    reading: Reading = "token",
    dropout: float = 0.0,
) -> Layers:
    """`depth` blocks of `width` units on patches of `patch` x `patch`; an MLP has `expansion` times as many units.

    dropout  behind the position embedding, the attention and both layers of an MLP
    """
    drop: Layers = (Dropout(dropout),) if dropout else ()
    layers: list[Layer] = [Conv("patches", width, patch, stride=patch), Positions()]
    layers += [ClassToken("class_token")] if reading == "token" else []
    layers += [PositionEmbedding("position_embedding"), *drop]
    for index in range(1, depth + 1):
        mlp = (Dense("fc1", expansion * width, "gelu"), *drop, Dense("fc2", width), *drop)
        layers += [
            Residual(f"block{index}_1", (LayerNorm("norm"), Attention("attention", heads), *drop)),
            Residual(f"block{index}_2", (LayerNorm("norm"), *mlp)),
        ]
    read = FirstPosition() if reading == "token" else MeanPosition()
    return (*layers, LayerNorm("norm"), read, Dense("fc1", classes))


vit_tiny = vit
vit_small = partial(vit, width=384, heads=6)
vit_base = partial(vit, width=768, heads=12)
vit_cifar = partial(vit, patch=4, depth=6, reading="mean")
