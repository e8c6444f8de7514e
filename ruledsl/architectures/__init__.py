"""Networks as data: `get("liao_mnist", input_shape=(1, 28, 28), classes=10)`. Each backend builds them its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ruledsl.architectures import lenets, resnets, transformers
from ruledsl.architectures.architecture import Architecture, Place
from ruledsl.architectures.components import ActivationKind, Layer, Norm, Shape
from ruledsl.errors import UserError, choose
from ruledsl.options import checked_options

__all__ = ["TABLE", "ActivationKind", "Architecture", "Entry", "Layer", "Norm", "Place", "Shape", "get", "usual"]


@dataclass(frozen=True)
class Entry:
    """A network of the table.

    make         from a number of classes and options, its layers
    input_shape  of what it is usually trained on, and `classes` of that
    source       where it is from
    """

    make: Callable[..., tuple[Layer, ...]]
    input_shape: Shape
    classes: int
    source: str


DIGITS, MNIST, CIFAR, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)
OURS = "for quick trials"
MOSKOVITZ = "Moskovitz et al. 2018, Table"
LIAO_TABLE = "Liao et al. 2015, Table 1"
HE = ("He et al. 2016a", "He et al. 2016b")

SMALL: Mapping[str, Entry] = {
    "mlp": Entry(lenets.mlp, MNIST, 10, OURS),
    "digits_lenet": Entry(lenets.digits_lenet, DIGITS, 10, OURS),
}
LIAO: Mapping[str, Entry] = {
    "liao_mnist": Entry(lenets.liao_mnist, MNIST, 10, LIAO_TABLE),
    "liao_cifar": Entry(lenets.liao_cifar, CIFAR, 10, LIAO_TABLE),
    "liao_svhn": Entry(lenets.liao_svhn, CIFAR, 10, LIAO_TABLE),
    "liao_timit": Entry(lenets.liao_timit, (1845,), 80, LIAO_TABLE),
    "liao_other": Entry(lenets.liao_other, (3, 119, 119), 102, LIAO_TABLE),
}


def _normalised(entries: Mapping[str, Entry], ending: str, norm: Norm, what: str) -> dict[str, Entry]:
    """The networks with batch normalisation, of which `what` is said."""
    return {
        f"{name}_{ending}": Entry(
            partial(entry.make, norm=norm), entry.input_shape, entry.classes, f"{entry.source}, {what}"
        )
        for name, entry in entries.items()
    }


def _resnets(ending: str, version: resnets.Version) -> dict[str, Entry]:
    """Those for ImageNet, and for CIFAR, whose names end in `_v2` or in nothing."""
    source = HE[version - 1]
    return {
        **{
            f"resnet{depth}{ending}": Entry(resnets.imagenet(depth, version), IMAGENET, 1000, source)
            for depth in resnets.DEPTHS
        },
        f"resnet18_cifar{ending}": Entry(
            resnets.small_imagenet(18, version), CIFAR, 10, f"{source}, with a stem for small images"
        ),
        **{
            f"resnet{depth}_cifar{ending}": Entry(resnets.cifar(depth, version), CIFAR, 10, source)
            for depth in (20, 56, 110)
        },
    }


TABLE: Mapping[str, Entry] = {
    **SMALL,
    **_normalised(SMALL, "bn", Norm("before"), "BatchNorm"),
    "cnn": Entry(lenets.cnn, CIFAR, 10, OURS),
    "moskovitz_mnist": Entry(lenets.moskovitz_mnist, MNIST, 10, f"{MOSKOVITZ} 2"),
    "moskovitz_cifar10_1": Entry(lenets.moskovitz_cifar10_1, (3, 24, 24), 10, f"{MOSKOVITZ} 2"),
    "moskovitz_cifar10_2": Entry(lenets.moskovitz_cifar10_2, CIFAR, 10, f"{MOSKOVITZ} 2"),
    "moskovitz_imagenet_1": Entry(lenets.moskovitz_imagenet_1, (3, 299, 299), 1000, f"{MOSKOVITZ} 3"),
    "moskovitz_imagenet_2": Entry(lenets.moskovitz_imagenet_2, (3, 299, 299), 1000, f"{MOSKOVITZ} 3"),
    **LIAO,
    **_normalised(LIAO, "bn", Norm("before"), "BatchNorm"),
    **_normalised(LIAO, "bn_fixed", Norm("before", affine=False), "BatchNorm without parameters"),
    **_resnets("", 1),
    **_resnets("_v2", 2),
    "wide_resnet28_10": Entry(resnets.wide_resnet28_10, CIFAR, 10, "Zagoruyko & Komodakis 2016"),
    "vit_tiny": Entry(transformers.vit_tiny, IMAGENET, 1000, "Touvron et al. 2021, Table 1"),
    "vit_small": Entry(transformers.vit_small, IMAGENET, 1000, "Touvron et al. 2021, Table 1"),
    "vit_base": Entry(transformers.vit_base, IMAGENET, 1000, "Dosovitskiy et al. 2021, Table 1"),
    "vit_cifar": Entry(transformers.vit_cifar, CIFAR, 10, "Dosovitskiy et al. 2021, of a size for small images"),
}


def get(name: str, input_shape: Sequence[int], classes: int, **options: Any) -> Architecture:
    """The network `name` for inputs of `input_shape`, (channels, height, width) or (units,), and so many classes.

    `options` are the keyword arguments of its function in `TABLE`, for example `hidden=[300, 100]` of `mlp`.
    Raises UserError for a name or option that does not exist and for an input that the network cannot take.
    """
    make = choose("network", name, TABLE).make
    given = checked_options(f"the network {name}", make, options)
    try:
        return Architecture(name, tuple(input_shape), classes, make(classes, **given))
    except ZeroDivisionError:
        zeros = ", ".join(option for option, value in options.items() if value == 0)
        raise UserError(f"the network {name} cannot be built where {zeros or 'an option'} is 0") from None
    except UserError as error:
        shape = " x ".join(map(str, input_shape))
        raise UserError(f"the network {name} does not fit inputs of {shape}: {error.message}", error.help) from None


def usual(
    name: str, input_shape: Sequence[int] | None = None, classes: int | None = None, **options: Any
) -> Architecture:
    """As `get`, for the input and the classes that it is usually trained on, where no others are given."""
    entry = choose("network", name, TABLE)
    return get(name, input_shape or entry.input_shape, classes or entry.classes, **options)
