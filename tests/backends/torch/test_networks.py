"""The torch modules are the networks that the data layer describes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ruledsl import architectures
from ruledsl_torch.networks import Network, activations, build


@pytest.mark.parametrize("name", architectures.TABLE)
def test_every_network_has_the_shapes_and_parameters_of_the_data_layer(name: str) -> None:
    architecture = architectures.usual(name)
    with torch.device("meta"):  # shapes without numbers
        net = Network(architecture)
        images = torch.empty(2, *architecture.input_shape)
    shapes: dict[str, tuple[int, ...]] = {}
    for place in architecture.weight_layers():
        module = net.get_submodule(place.path)
        module.register_forward_hook(lambda m, i, o, path=place.path: shapes.update({path: tuple(o.shape[1:])}))
    assert net(images).shape == (2, architecture.classes)
    assert shapes == {place.path: place.output_shape for place in architecture.weight_layers()}
    assert sum(p.numel() for p in net.parameters()) == architecture.parameter_count()
    kernels = {path: tuple(net.get_submodule(path).weight.shape) for path in architecture.kernels()}
    assert kernels == {path: kernel.shape for path, kernel in architecture.kernels().items()}


@pytest.mark.parametrize("name", architectures.TABLE)
def test_every_network_has_the_same_layers_in_jax(name: str) -> None:
    networks, layouts = pytest.importorskip("ruledsl_jax.networks"), pytest.importorskip("ruledsl_jax.layouts")
    architecture = architectures.usual(name)
    maps, kernels = networks.linear_maps(architecture), architecture.kernels()
    assert list(maps) == list(kernels)
    for place in architecture.weight_layers():
        blank = np.broadcast_to(np.float32(0), kernels[place.path].shape)
        assert maps[place.path].kernel_shape == layouts.kernel_to_jax(blank).shape


@pytest.mark.parametrize("norm", ["before", "after"])
def test_batch_normalisation_stands_where_the_option_says(norm: str) -> None:
    net = build(architectures.get("resnet18_cifar", (3, 32, 32), 10, norm=norm))
    order: list[str] = []
    for name in ("conv1", "conv1_norm"):
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: order.append(name))
    seen: list[torch.Tensor] = []
    net.get_submodule("conv1_norm").register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net(torch.randn(2, 3, 32, 32))
    assert order == ["conv1", "conv1_norm"]
    assert bool((seen[0] >= 0).all()) == (norm == "after")


def test_same_padding_is_that_of_tensorflow_where_it_is_uneven() -> None:
    net = build(architectures.get("moskovitz_cifar10_2", (3, 32, 32), 10))
    conv = net.get_submodule("conv3")
    assert isinstance(conv, nn.Conv2d)
    seen: list[torch.Tensor] = []
    net.get_submodule("conv2").register_forward_hook(
        lambda m, i, o: seen.append(functional.pad(o.relu(), (0, 1, 0, 1)))
    )
    conv.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    net.eval()(torch.randn(1, 3, 32, 32))
    assert torch.equal(seen[0], seen[1])


def test_activations_are_given_by_module_name() -> None:
    architecture = architectures.get("mlp", (1, 8, 8), 10, hidden=[5], activation="tanh")
    assert activations(architecture) == {"fc1": torch.tanh}
