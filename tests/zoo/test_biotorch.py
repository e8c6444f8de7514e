"""Feedback alignment, uniform sign-concordant feedback and direct feedback alignment, as biotorch computes them.

Both start from the same weights and the same feedback weights, and every gradient has to agree.
"""

from __future__ import annotations

import copy

import pytest
import torch
from backends.torch import small
from biotorch.module.biomodule import BioModule
from torch import Tensor, nn
from torch.nn import functional as F

import ruledsl
from ruledsl_torch import convert

CLASSES = 3
USF_SCALED = """
rule usf_scaled {
  feedback send = sqrt(2 / (fan_in + fan_out)) * (sign(W.T) @ delta)
  locality { allow sign(W) -> send }
}
"""


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8, bias=False),
        nn.Tanh(),
        nn.Linear(8, CLASSES),
    )


NETWORKS = {"mlp": (mlp, (5, 6)), "cnn": (cnn, (5, 2, 8, 8))}


def theirs_and_ours(build, mode, rule, x):
    """The network under biotorch, and the same one under a rule."""
    torch.manual_seed(0)
    plain = build()
    other = BioModule(copy.deepcopy(plain), mode, output_dim=CLASSES).double().module
    ours = convert(plain.double(), rule, example=x, seed=0)
    assert all(
        torch.equal(ours.get_parameter(name), p) for name, p in other.named_parameters() if "backward" not in name
    )
    return other, ours


def gradients(net: nn.Module, x: Tensor, labels: Tensor, direct: bool = False) -> dict[str, Tensor]:
    logits = net(x)
    loss = F.cross_entropy(logits, labels)
    if direct:  # as BioModule.forward does it
        error = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        for layer in net.modules():
            layer.loss_gradient = error
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def compare(other: nn.Module, ours: nn.Module, x: Tensor, direct: bool = False) -> None:
    labels = torch.arange(len(x)) % CLASSES
    right, found = gradients(other, x, labels, direct), gradients(ours, x, labels)
    assert right.keys() == found.keys()
    for name, value in right.items():
        assert value.any(), name
        assert small.relative(found[name], value) <= 1e-10, name


def example(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_feedback_alignment(name):
    build, shape = NETWORKS[name]
    x = example(shape)
    other, ours = theirs_and_ours(build, "fa", "feedback_alignment", x)
    with torch.no_grad():
        for path, layer in ours.ruledsl.layers.items():
            if layer.B is not None:  # the first one sends to nobody
                layer.B.copy_(other.get_submodule(path).weight_backward)
    compare(other, ours, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_uniform_sign_concordant_feedback(name):
    """Liao et al. send by the bare sign."""
    build, shape = NETWORKS[name]
    x = example(shape)
    other, ours = theirs_and_ours(build, "usf", "usf", x)
    for path in ours.ruledsl.layers:
        other.get_submodule(path).scaling_factor = 1.0
    compare(other, ours, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_uniform_sign_concordant_feedback_with_the_scale_of_biotorch(name):
    build, shape = NETWORKS[name]
    x = example(shape)
    compare(*theirs_and_ours(build, "usf", ruledsl.parse(USF_SCALED), x), x)


@pytest.mark.parametrize("name", NETWORKS)
def test_direct_feedback_alignment(name):
    build, shape = NETWORKS[name]
    x = example(shape)
    other, ours = theirs_and_ours(build, "dfa", "direct_feedback_alignment", x)
    with torch.no_grad():
        for path, layer in ours.ruledsl.layers.items():
            if layer.B is not None:
                layer.B.copy_(from_the_output(other.get_submodule(path), layer))
    compare(other, ours, x, direct=True)


def from_the_output(other: nn.Module, layer: nn.Module) -> Tensor:
    """The map from the output to a layer's input: [classes, *pre].

    That of a convolution in biotorch is a kernel, which spreads an error over all positions.
    """
    if isinstance(other, nn.Linear):
        return other.weight_backward
    everywhere = torch.eye(CLASSES).double()[:, :, None, None].expand(-1, -1, *layer.output_shape[2:])
    size, options = (CLASSES, *layer.input_shape[1:]), (layer.stride, layer.padding, layer.dilation)
    return torch.nn.grad.conv2d_input(size, other.weight_backward, everywhere, *options)
