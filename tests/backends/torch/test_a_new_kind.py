"""A kind of layer is one class of maps and one row of `KINDS`; no rule and no other place knows of it.

The layer here is a dense one as GPT-2 has it: its weight is the transpose of that of nn.Linear.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from backends.torch import passes
from geometries import DENSE
from torch import Tensor, nn
from torch.nn import functional as F

import ruledsl
from ruledsl.verification.cases import random_values, reference_layer
from ruledsl.verification.executor import deviation
from ruledsl_torch import advance, convert
from ruledsl_torch.linear import KINDS


class Projection(nn.Module):
    """u = x @ W + b with W: [units_in, units_out]"""

    def __init__(self, units_in: int, units_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(units_in, units_out) / units_in**0.5)
        self.bias = nn.Parameter(torch.zeros(units_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Projected(NamedTuple):
    """The map of a Projection."""

    units_in: int
    units_out: int

    @property
    def kernel_shape(self):
        return (self.units_in, self.units_out)

    @property
    def fan_in(self):
        return self.units_in

    @property
    def fan_out(self):
        return self.units_out

    def apply(self, M, v, b=None):
        return v @ M if b is None else v @ M + b

    def adjoint(self, M, v):
        return v @ M.t()

    def outer(self, v_post, v_pre, mean=None):
        summed = v_pre.t() @ v_post
        return summed if mean is None else summed / len(v_post)

    def spread(self, p):
        return p

    def sum_to_units(self, v):
        return v.sum(0)

    def mean_positions(self, v):
        return v

    def sum_positions(self, v):
        return v

    def positions(self, v):
        return 1

    @property
    def units_axis(self):
        return 1


def projected(module: Projection, x: Tensor | None = None) -> Projected:
    return Projected(*module.weight.shape)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, Projection, (projected, 1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Projection(6, 8), nn.Tanh(), Projection(8, 5), nn.Tanh(), nn.Linear(5, 3))


def learn(net: nn.Module, steps: int) -> float:
    x, labels = torch.randn(9, 6, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
        advance(net)
    return F.cross_entropy(net(x), labels).item()


def test_it_learns_under_kolen_pollack_and_its_feedback_weights_align():
    net = convert(network(), ruledsl.load("kolen_pollack", decay=0.03), seed=0)
    assert list(net.ruledsl.layers) == ["0", "2", "4"] and not net.ruledsl.skipped
    layer = net[2]
    assert layer.B.shape == layer.weight.shape == (8, 5) and layer.bias is not None
    with torch.no_grad():
        layer.B.normal_(generator=torch.Generator().manual_seed(2))
    before = aligned(layer)
    assert learn(net, 300) < 0.5
    assert before < 0.5 and aligned(layer) > 0.95


def aligned(layer: nn.Module) -> float:
    return F.cosine_similarity(layer.B.flatten(), layer.weight.flatten(), dim=0).item()


@pytest.mark.parametrize("name", passes.library())
def test_under_every_rule_it_is_the_dense_layer_that_it_is(name):
    rule = ruledsl.load(name)
    values = random_values(rule.lowered, reference_layer(DENSE[0]), np.random.default_rng(0))
    linear = Projected(DENSE[0].units_in, DENSE[0].units_out)
    for phase, expected in passes.expected_by_phase(rule, DENSE[0], values).items():
        found = passes.with_transposed_kernels(rule.compile("torch"), phase, values, linear)
        assert found.keys() == expected.keys()
        for output, value in found.items():
            assert deviation(value, expected[output]) <= 1e-10
