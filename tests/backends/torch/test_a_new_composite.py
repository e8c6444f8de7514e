"""A module of several layers in one is one row of `COMPOSITES`: a class, what opens a module, and the inverse.

The module here is a gated unit with one fused kernel, as language models have it.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import convert
from ruledsl_torch.composites import COMPOSITES, Composite
from ruledsl_torch.projection import Projection, Rows


class Gated(nn.Module):
    """tanh(A @ x) * sigmoid(G @ x), where A and G are the two halves of a kernel."""

    def __init__(self, units_in: int, units_out: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2 * units_out, units_in))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = F.linear(x, self.kernel).chunk(2, -1)
        return torch.tanh(value) * torch.sigmoid(gate)


class OpenGated(Gated):
    """The same of two layers."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))


def open_gated(module: Gated) -> None:
    double, width = module.kernel.shape
    half = double // 2
    module.__class__ = OpenGated
    module.value = Projection(module, width, half, Rows("kernel", 0, half), None)
    module.gate = Projection(module, width, half, Rows("kernel", half, double), None)


def close_gated(module: Gated) -> None:
    del module.value, module.gate
    module.__class__ = Gated


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPOSITES, Gated, Composite(OpenGated, open_gated, close_gated))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), Gated(8, 5), nn.Linear(5, 3)).double()


def test_it_follows_the_rule_and_keeps_its_parameter():
    plain = network()
    net = copy.deepcopy(plain)
    kernel = net[1].kernel
    convert(net, "feedback_alignment", seed=0)
    assert list(net.ruledsl.layers) == ["0", "1.value", "1.gate", "2"] and not net.ruledsl.skipped
    assert net[1].kernel is kernel and net[1].gate.B.shape == (5, 8)
    with torch.no_grad():
        for layer in net.ruledsl.layers.values():
            layer.B.copy_(layer.weight)
    x = torch.randn(4, 6).double()
    for each in (plain, net):
        each(x).sin().sum().backward()
    for name, parameter in plain.named_parameters():
        assert torch.allclose(net.get_parameter(name).grad, parameter.grad), name


def test_it_is_closed_where_the_rule_does_not_fit():
    net = network()
    with pytest.raises(UserError):
        convert(net, ruledsl.load("weight_mirror"))
    assert type(net[1]) is Gated and not list(net[1].children())
