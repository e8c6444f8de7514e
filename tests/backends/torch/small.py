"""Small networks, one batch, and the user's loop, shared by the tests of the torch runtime."""

from __future__ import annotations

from collections.abc import Callable

import torch
from geometries import BATCH, Geometry
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl.verification.cases import reference_layer
from ruledsl_torch import advance, observe
from ruledsl_torch.executor import layer_of

CLASSES = 3


class MLP(nn.Module):
    """[batch, 6] -> [batch, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.fc2 = nn.Linear(8, 5)
        self.fc3 = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(torch.tanh(self.fc2(torch.relu(self.fc1(x)))))


def mlp(dtype: torch.dtype = torch.float32) -> MLP:
    torch.manual_seed(0)
    return MLP().to(dtype)


class ConvNet(nn.Module):
    """A residual block, normalisation and pooling: [batch, 2, 8, 8] -> [batch, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.fc = nn.Linear(54, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = x + torch.relu(self.conv2(x))
        return self.fc(torch.tanh(self.conv3(x)).flatten(1))


def convnet(dtype: torch.dtype = torch.float32) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet().to(dtype)


def batch(net: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x and labels for one of the networks above."""
    shape = (5, 6) if isinstance(net, MLP) else (5, 2, 8, 8)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.tensor([0, 1, 2, 1, 0])


def layer(geometry: Geometry, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A weight layer of a geometry, and an input for it."""
    torch.manual_seed(2)
    module = layer_of(geometry, dtype=dtype)
    return module, torch.randn(BATCH, *reference_layer(geometry).pre_shape, dtype=dtype)


def gradients(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor | None]:
    """Of the cross entropy, by parameter."""
    net.zero_grad()
    F.cross_entropy(net(x), labels).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def train(
    net: nn.Module, x: Tensor, labels: Tensor, steps: int = 3, run: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """The user's loop; returns the state_dict after it."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        observe(net, target=labels)
        optimizer.zero_grad()
        F.cross_entropy((net if run is None else run)(x), labels).backward()
        optimizer.step()
        advance(net)
    return {name: value.clone() for name, value in net.state_dict().items()}


def relative(a: Tensor, b: Tensor) -> float:
    """The distance of a from b, relative to b."""
    return float(((a - b).norm() / b.norm().clamp_min(1e-30)).detach())
