"""Networks as data: `get("liao_mnist", input_shape=(1, 28, 28), classes=10)`. Each backend builds them its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ruledsl.architectures import lenets, resnets
from ruledsl.architectures.architecture import Architecture, Place
from ruledsl.architectures.components import ActivationKind, Layer, Norm, Shape
from ruledsl.errors import UserError, choose
from ruledsl.options import checked_options

__all__ = ["TABLE", "ActivationKind", "Architecture", "Layer", "Norm", "Place", "Shape", "get"]

Maker = Callable[..., tuple[Layer, ...]]
LIAO: Mapping[str, Maker] = {
    "liao_mnist": lenets.liao_mnist,
    "liao_cifar": lenets.liao_cifar,
    "liao_svhn": lenets.liao_svhn,
    "liao_timit": lenets.liao_timit,
    "liao_other": lenets.liao_other,
}
TABLE: Mapping[str, Maker] = {
    "mlp": lenets.mlp,
    "digits_lenet": lenets.digits_lenet,
    "moskovitz_mnist": lenets.moskovitz_mnist,
    "moskovitz_cifar10_1": lenets.moskovitz_cifar10_1,
    "moskovitz_cifar10_2": lenets.moskovitz_cifar10_2,
    **LIAO,
    **{f"{name}_bn": partial(maker, norm=Norm("before")) for name, maker in LIAO.items()},
    "resnet18_cifar": resnets.resnet18_cifar,
    "resnet18": resnets.resnet18,
    "resnet50": resnets.resnet50,
}


def get(name: str, input_shape: Sequence[int], classes: int, **options: Any) -> Architecture:
    """The network `name` for inputs of `input_shape`, (channels, height, width) or (units,), and so many classes.

    `options` are the keyword arguments of its function in `TABLE`, for example `hidden=[300, 100]` of `mlp`.
    Raises UserError for a name or option that does not exist and for an input that the network cannot take.
    """
    maker = choose("network", name, TABLE)
    layers = maker(classes, **checked_options(f"the network {name}", maker, options))
    try:
        return Architecture(name, tuple(input_shape), classes, layers)
    except UserError as error:
        shape = " x ".join(map(str, input_shape))
        raise UserError(f"the network {name} does not fit inputs of {shape}: {error.message}", error.help) from None
