"""The convolutional networks of the papers without shortcuts, and three for quick trials.

Moskovitz, Litwin-Kumar & Abbott 2018, Tables 2 and 3, with the dropout of section 7.1. The paper gives no padding;
`same` in TensorFlow's convention is what makes the sizes agree with those that it states (8 x 8 and 4 x 4 before the
last average). Liao, Leibo & Poggio 2015, Table 1, whose caption gives the padding.
"""

from __future__ import annotations

from ruledsl.architectures.components import (
    ActivationKind,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Layer,
    Norm,
    Pad,
    Pool,
)

Layers = tuple[Layer, ...]
MAX_2 = Pool("max", 2, 2)


def mlp(
    classes: int,
    *,
    hidden: tuple[int, ...] = (256,),
    activation: ActivationKind = "relu",
    bias: bool = True,
    norm: Norm | None = None,
) -> Layers:
    """Dense layers `fc1`, `fc2` ... of the sizes in `hidden`, then one to the classes."""
    layers: list[Layer] = [Dense(f"fc{i}", units, activation, bias, norm) for i, units in enumerate(hidden, start=1)]
    return (Flatten(), *layers, Dense(f"fc{len(hidden) + 1}", classes, bias=bias))


def digits_lenet(classes: int, *, activation: ActivationKind = "relu", norm: Norm | None = None) -> Layers:
    """A LeNet for 8 x 8 images."""
    return (
        Conv("conv1", 16, 3, activation, padding=1, norm=norm),
        MAX_2,
        Conv("conv2", 32, 3, activation, padding=1, norm=norm),
        MAX_2,
        Flatten(),
        Dense("fc1", 64, activation, norm=norm),
        Dense("fc2", classes),
    )


def cnn(
    classes: int, *, widths: tuple[int, ...] = (64, 128, 256), depth: int = 2, activation: ActivationKind = "relu"
) -> Layers:
    """Stages of `depth` 3 x 3 convolutions, each followed by a maximum that halves the image; no normalisation."""
    layers: list[Layer] = []
    for stage, width in enumerate(widths, start=1):
        layers += (Conv(f"conv{stage}_{index}", width, 3, activation, padding=1) for index in range(1, depth + 1))
        layers.append(MAX_2)
    return (*layers, GlobalAveragePool(), Dense("fc1", classes))


def moskovitz_mnist(classes: int, *, dropout: float = 0.5) -> Layers:
    """Moskovitz et al. 2018, Table 2, MNIST; dropout after the dense layer (section 7.1)."""
    return (
        Conv("conv1", 32, 5, "relu", padding="same"),
        Pool("max", 2, 2, ceil=True),
        Conv("conv2", 64, 5, "relu", padding="same"),
        Pool("max", 2, 2, ceil=True),
        Flatten(),
        Dense("fc1", 1024, "relu"),
        Dropout(dropout),
        Dense("fc2", classes),
    )


def moskovitz_cifar10_1(classes: int) -> Layers:
    """Moskovitz et al. 2018, Table 2, CIFAR-10 Model 1 (24 x 24 crops)."""
    return (
        Conv("conv1", 64, 5, "relu", padding="same"),
        Pool("max", 2, 2, ceil=True),
        Conv("conv2", 64, 5, "relu", padding="same"),
        Pool("max", 2, 2, ceil=True),
        Flatten(),
        Dense("fc1", 384, "relu"),
        Dense("fc2", 192, "relu"),
        Dense("fc3", classes),
    )


def moskovitz_cifar10_2(classes: int, *, input_dropout: float = 0.2, dropout: float = 0.5) -> Layers:
    """Moskovitz et al. 2018, Table 2, CIFAR-10 Model 2: all convolutions, dropout as in section 7.1.

    The last convolution has a ReLU, as the table says, before the average that gives the logits.
    """
    return (
        Dropout(input_dropout),
        Conv("conv1", 96, 3, "relu", padding="same"),
        Conv("conv2", 96, 3, "relu", padding="same"),
        Conv("conv3", 96, 3, "relu", stride=2, padding="same"),
        Dropout(dropout),
        Conv("conv4", 192, 3, "relu", padding="same"),
        Conv("conv5", 192, 3, "relu", padding="same"),
        Conv("conv6", 192, 3, "relu", stride=2, padding="same"),
        Dropout(dropout),
        Conv("conv7", 192, 3, "relu", padding="same"),
        Conv("conv8", 192, 1, "relu", padding="same"),
        Conv("conv9", classes, 1, "relu", padding="same"),
        GlobalAveragePool(),
    )


def moskovitz_imagenet_1(classes: int) -> Layers:
    """Moskovitz et al. 2018, Table 3, ImageNet Model 1; no dropout is stated for it."""
    return (
        Conv("conv1", 192, 9, "relu", stride=2, padding="same"),
        Pool("max", 2, 2, ceil=True),
        Conv("conv2", 192, 5, "relu", stride=2, padding="same"),
        Pool("max", 2, 2, ceil=True),
        Flatten(),
        Dense("fc1", 512, "relu"),
        Dense("fc2", 512, "relu"),
        Dense("fc3", classes),
    )


def moskovitz_imagenet_2(classes: int) -> Layers:
    """Moskovitz et al. 2018, Table 3, ImageNet Model 2: all convolutions; no dropout is stated for it.

    The last convolution has a ReLU, as the table says, before the average that gives the logits.
    """
    return (
        Conv("conv1", 192, 9, "relu", stride=4, padding="same"),
        Conv("conv2", 192, 3, "relu", stride=2, padding="same"),
        Conv("conv3", 192, 3, "relu", stride=3, padding="same"),
        Conv("conv4", 256, 5, "relu", stride=2, padding="same"),
        Conv("conv5", 256, 3, "relu", padding="same"),
        Conv("conv6", 256, 3, "relu", stride=2, padding="same"),
        Conv("conv7", 512, 3, "relu", padding="same"),
        Conv("conv8", 512, 1, "relu", padding="same"),
        Conv("conv9", classes, 1, "relu", padding="same"),
        GlobalAveragePool(),
    )


def liao_mnist(classes: int, *, norm: Norm | None = None) -> Layers:
    """Liao et al. 2015, Table 1, MNIST."""
    return (
        Conv("conv1", 20, 5, "relu", norm=norm),
        MAX_2,
        Conv("conv2", 50, 5, "relu", norm=norm),
        MAX_2,
        Flatten(),
        Dense("fc1", 500, "relu", norm=norm),
        Dense("fc2", classes),
    )


def liao_cifar(classes: int, *, norm: Norm | None = None) -> Layers:
    """Liao et al. 2015, Table 1, CIFAR-10 and CIFAR-100."""
    corner = Pad(0, 1, 0, 1)
    return (
        Conv("conv1", 32, 5, "relu", padding=2, norm=norm),
        corner,
        Pool("max", 3, 2),
        Conv("conv2", 64, 5, "relu", padding=2, norm=norm),
        corner,
        Pool("average", 3, 2),
        Conv("conv3", 64, 5, "relu", padding=2, norm=norm),
        corner,
        Pool("average", 3, 2),
        Flatten(),
        Dense("fc1", 128, "relu", norm=norm),
        Dense("fc2", classes),
    )


def liao_svhn(classes: int, *, norm: Norm | None = None) -> Layers:
    """Liao et al. 2015, Table 1, SVHN."""
    return (
        Conv("conv1", 20, 5, "relu", norm=norm),
        MAX_2,
        Conv("conv2", 512, 7, "relu", norm=norm),
        MAX_2,
        Flatten(),
        Dense("fc1", 40, "relu", norm=norm),
        Dense("fc2", classes),
    )


def liao_timit(classes: int, *, norm: Norm | None = None) -> Layers:
    """Liao et al. 2015, Table 1, TIMIT-80: 1845 inputs, no convolution."""
    return (
        Flatten(),
        Dense("fc1", 512, "relu", norm=norm),
        Dense("fc2", 256, "relu", norm=norm),
        Dense("fc3", classes),
    )


def liao_other(classes: int, *, norm: Norm | None = None) -> Layers:
    """Liao et al. 2015, Table 1, all other datasets (119 x 119 images); the dense sizes follow the classes."""
    return (
        Conv("conv1", 48, 9, "relu", stride=2, norm=norm),
        MAX_2,
        Conv("conv2", 128, 5, "relu", norm=norm),
        MAX_2,
        Flatten(),
        Dense("fc1", max(256, 3 * classes), "relu", norm=norm),
        Dense("fc2", 2 * classes, "relu", norm=norm),
        Dense("fc3", classes),
    )
