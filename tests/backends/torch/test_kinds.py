"""Layers beside Linear and Conv2d: one to three dimensions, transposed, and tables of embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from backends.torch import handwritten, passes, small
from geometries import BATCH, DENSE
from torch import nn
from torch.nn import functional as F

import ruledsl
from ruledsl.verification.cases import random_values, reference_layer
from ruledsl.verification.executor import deviation
from ruledsl_torch import advance, convert
from ruledsl_torch.linear import KINDS

SIZES = {1: (9,), 2: (7, 8), 3: (5, 6, 7)}
FORMS = {
    "plain": {},
    "stride": {"stride": 2},
    "stride_and_padding": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2, "padding": 1},
    "no_bias": {"bias": False},
    "everything": {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False},
}
TRANSPOSED = {
    "output_padding": {"stride": 3, "output_padding": 1},
    "output_padding_and_all": {"stride": 3, "padding": 1, "output_padding": 2, "dilation": 2, "groups": 2},
}
CONVOLUTIONS = [kind for kind in KINDS if issubclass(kind, nn.modules.conv._ConvNd)]
CASES = [
    pytest.param(kind, form, id=f"{kind.__name__}-{name}")
    for kind in CONVOLUTIONS
    for name, form in {**FORMS, **(TRANSPOSED if "Transpose" in kind.__name__ else {})}.items()
]
EMBEDDINGS = [{}, {"padding_idx": 0}, {"padding_idx": -1}]


def dimensions(kind) -> int:
    return int(kind.__name__[-2])


def pair(kind, form):
    """A layer of torch, the same one under backprop, and an input."""
    torch.manual_seed(0)
    plain = kind(4, 6, 3, dtype=torch.float64, **form)
    ruled = kind(4, 6, 3, dtype=torch.float64, **form)
    ruled.load_state_dict(plain.state_dict())
    return plain, convert(ruled, handwritten.backprop), torch.randn(3, 4, *SIZES[dimensions(kind)]).double()


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_backprop_is_autograd(kind, form):
    plain, ruled, x = pair(kind, form)
    found = []
    for module in (plain, ruled):
        z = x.clone().requires_grad_()
        torch.sin(module(z)).sum().backward()
        found.append((z.grad, *(p.grad for p in module.parameters())))
    assert torch.equal(plain(x), ruled(x))
    for right, own in zip(*found, strict=True):
        assert small.relative(own, right) <= 1e-10


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_an_example_without_batch_is_a_batch_of_one(kind):
    plain, ruled, x = pair(kind, {})
    for module in (plain, ruled):
        torch.sin(module(x[0])).sum().backward()
    assert small.relative(ruled.weight.grad, plain.weight.grad) <= 1e-10


@pytest.mark.parametrize("form", EMBEDDINGS)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (2, 3, 4), ()])
def test_a_table_of_embeddings_learns_as_by_autograd(form, shape):
    torch.manual_seed(0)
    plain, ruled = (nn.Embedding(7, 4, dtype=torch.float64, **form) for _ in range(2))
    ruled.load_state_dict(plain.state_dict())
    convert(ruled, handwritten.backprop)
    x = torch.randint(7, shape)
    x.view(-1)[0] = 6
    for module in (plain, ruled):
        torch.sin(module(x)).sum().backward()
    assert torch.equal(plain(x), ruled(x))
    assert torch.allclose(ruled.weight.grad, plain.weight.grad, rtol=1e-10)


@pytest.mark.parametrize("rule", ["kolen_pollack", "feedback_alignment"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_network_of_any_kind_learns(kind, rule):
    torch.manual_seed(0)
    size = SIZES[dimensions(kind)]
    layers = [kind(2, 4, 3), nn.Tanh(), kind(4, 4, 3, stride=2, groups=2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)]
    net, x, labels = nn.Sequential(*layers), torch.randn(9, 2, *size), torch.arange(9) % 3
    net(x)
    convert(net, rule, example=x, seed=0)
    assert net[2].B.shape == net[2].weight.shape
    assert loss_after(net, x, labels, 120) < 0.5


@pytest.mark.parametrize("rule", ["kolen_pollack", "feedback_alignment"])
def test_a_network_on_a_table_of_embeddings_learns(rule):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randint(9, (12, 2))
    before = net[0].weight.detach().clone()
    convert(net, rule, example=x, seed=0)
    assert loss_after(net, x, torch.arange(12) % 3, 200) < 0.3
    assert not torch.equal(net[0].weight, before)


def loss_after(net, x, labels, steps) -> float:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
        advance(net)
    return F.cross_entropy(net(x), labels).item()


def takes_indices(name: str) -> bool:
    """Whether all that a rule computes can be computed of indices: what serves sending alone, a table doesn't have."""
    program = ruledsl.load(name).compile("torch")
    broadcast = any({*tensor.space} == {"out", "pre"} for tensor in program.tensors)
    return program.maps_x_alone and not program.binding.driven and not broadcast


@pytest.mark.parametrize("name", [name for name in passes.library() if takes_indices(name)])
def test_a_table_of_embeddings_is_a_dense_layer_on_one_hot_rows(name):
    rule, rng = ruledsl.load(name), np.random.default_rng(0)
    values, indices = random_values(rule.lowered, reference_layer(DENSE[0]), rng), rng.integers(7, size=BATCH)
    x = np.eye(DENSE[0].units_in)[indices]
    one_hot = {**values, "x": x, "u": x @ values["W"].T + values["b"]}
    linear = KINDS[nn.Embedding][0](nn.Embedding(DENSE[0].units_in, DENSE[0].units_out))
    for phase, expected in passes.expected_by_phase(rule, DENSE[0], one_hot).items():
        found = passes.with_transposed_kernels(rule.compile("torch"), phase, one_hot, linear, torch.tensor(indices))
        assert found.keys() == expected.keys()
        for output, value in found.items():
            assert deviation(value, expected[output]) <= 1e-10


@pytest.mark.parametrize("rule", ["oja", "weight_mirror", "information_alignment"])
def test_a_rule_that_reads_x_as_an_activity_leaves_tables_alone(rule):
    net = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(16, 3))
    with pytest.warns(UserWarning, match=f"0: its input is indices, and {rule} reads x as an activity"):
        convert(net, rule, example=torch.randint(9, (12, 2)))
    assert type(net[0]) is nn.Embedding and list(net.ruledsl.layers) == ["2"]
    assert list(net.ruledsl.skipped) == ["0"]


def test_what_a_table_does_beside_looking_up_is_no_part_of_a_rule():
    net = nn.Sequential(nn.Embedding(9, 8, max_norm=1.0), nn.Flatten(), nn.Linear(16, 3))
    with pytest.warns(UserWarning, match="max_norm, scale_grad_by_freq and sparse"):
        convert(net, "backprop")
    assert list(net.ruledsl.skipped) == ["0"]
