"""What the tests of other people's loops share: every rule of the library on small networks, and their gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from backends.torch import passes, small
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl_torch import convert, observe
from ruledsl_torch.routing import optimizers

LIBRARY = passes.library()
A_FEW = ("backprop", "feedback_alignment", "kolen_pollack", "direct_feedback_alignment", "weight_mirror")
ACTIVATIONS = {
    small.MLP: {"fc1": "relu", "fc2": "tanh", "fc3": "identity"},
    small.ConvNet: {"conv1": "relu", "conv2": "relu", "conv3": "tanh", "fc": "identity"},
}


def plain(build=small.mlp) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of double precision, a batch, and its labels. Nothing in it mixes examples."""
    net = build(torch.float64).eval()
    return net, *small.batch(net, torch.float64)


def follow(net: nn.Module, rule: str, x: Tensor, labels: Tensor, seed: int = 0, **options) -> nn.Module:
    """Convert it, and tell it all that a rule of the library may want to know."""
    net = convert(net, rule, example=x, seed=seed, activations=ACTIVATIONS[type(net)], **options)
    observe(net, target=labels, epoch=5, progress=0.5, lr=0.1)
    optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    return net


def converted(rule: str, build=small.mlp, seed: int = 0, **options) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that follows a rule, a batch, and its labels."""
    net, x, labels = plain(build)
    return follow(net, rule, x, labels, seed, **options), x, labels


def gradients(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Those of the cross entropy that `backward` leaves, by parameter; `advance` learns nothing of this pass."""
    observe(net, target=labels)
    net.zero_grad()
    F.cross_entropy(net(x), labels).backward()
    for layer in net.ruledsl.layers.values():
        if getattr(layer, "backward_passes", None) is not None:
            layer.backward_passes.zero_()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    """No gradient is the same as one of zeros."""
    for name in {*found, *expected}:
        a, b = found.get(name), expected.get(name)
        if a is None or b is None:
            assert not (a if b is None else b).any(), name
        else:
            assert (a - b).double().norm() <= tolerance * b.double().norm() + 1e-14, name
