"""Errors of every layer downstream, without a backward pass of their own."""

from __future__ import annotations

import pytest
import torch
from backends.torch import handwritten, small
from backends.torch.test_gradients import Masks
from torch import nn
from torch.nn import functional as F

from ruledsl.errors import UserError
from ruledsl_torch import advance, convert

RULE = "dense_feedback_alignment"


class Branching(nn.Module):
    """Two convolutions side by side, then two layers: [batch, 2, 8, 8] -> [batch, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.left, self.right = nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3)
        self.head = nn.Linear(48, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.tanh(self.left(x) + self.right(x)).flatten(1))


def branching():
    torch.manual_seed(0)
    return Branching()


def test_a_hidden_layer_receives_the_errors_of_all_layers_downstream():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, RULE, example=x, seed=0)
    found = small.gradients(net, x, labels)
    plain = small.mlp()
    u1 = plain.fc1(x)
    u2 = plain.fc2(torch.relu(u1))
    delta3 = (plain.fc3(torch.tanh(u2)).softmax(1) - F.one_hot(labels, 3)) / 5
    delta2 = (delta3 @ net.fc3.B) * (1 - torch.tanh(u2) ** 2)
    delta1 = (delta2 @ net.fc2.B + delta3 @ net.fc2.D_0) * (u1 > 0)
    for name, delta, below in (("fc3", delta3, torch.tanh(u2)), ("fc2", delta2, torch.relu(u1)), ("fc1", delta1, x)):
        assert torch.allclose(found[f"{name}.weight"], delta.t() @ below, atol=1e-6), name
        assert torch.allclose(found[f"{name}.bias"], delta.sum(0), atol=1e-6), name


def test_there_is_a_map_for_each_layer_downstream_and_none_for_a_layer_beside():
    net = convert(branching(), RULE, example=torch.randn(2, 2, 8, 8), seed=0)
    assert list(net.left.downstream) == list(net.right.downstream) == ["head"]
    assert list(net.stem.downstream) == ["left", "right", "head"] and net.head.downstream == {}
    assert not hasattr(net.stem, "D_0")  # it sends to nobody
    assert net.left.D_0.shape == (3, 4, 6, 6) and not hasattr(net.left, "D_1")
    assert 0.3 < net.left.D_0.std() / (2 / 3) ** 0.5 < 2
    assert "left.D_0" in net.state_dict()


def test_errors_reach_both_branches_and_what_lies_before_them():
    x, labels = torch.randn(5, 2, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    net = convert(branching(), RULE, example=x, seed=0)
    found = small.gradients(net, x, labels)
    plain = branching()
    u = plain.stem(x)
    below = torch.relu(u)
    left, right = plain.left(below), plain.right(below)
    hidden = torch.tanh(left + right)
    delta = (plain.head(hidden.flatten(1)).softmax(1) - F.one_hot(labels, 3)) / 5
    at_branch = (delta @ net.head.B).view_as(hidden) * (1 - hidden**2)
    sent = sum(
        F.conv_transpose2d(at_branch, layer.B) + torch.tensordot(delta, layer.D_0, 1) for layer in (net.left, net.right)
    )
    delta_stem = sent * (u > 0)
    assert torch.allclose(found["stem.bias"], delta_stem.sum((0, 2, 3)), atol=1e-5)
    assert all(gradient is not None for gradient in found.values())


def test_dense_feedback_sends_once_per_layer():
    x, labels = torch.randn(5, 2, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    net = convert(branching(), RULE, example=x, seed=0)
    with Masks() as masks:
        small.gradients(net, x, labels)
    assert sorted(masks.seen) == sorted([(False, True, False)] * 3 + [(True, False, False)] * 2)


@pytest.mark.parametrize("output", [None, handwritten.backprop])
@pytest.mark.parametrize("build", [small.mlp, small.convnet])
def test_dense_feedback_compiles_to_one_graph_with_the_same_numbers(build, output):
    torch._dynamo.reset()
    states = []
    for compiled in (False, True):
        net = build()
        x, labels = small.batch(net)
        convert(net, RULE, output=output, example=x, seed=0)
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        with torch._dynamo.config.patch(error_on_recompile=True):
            states.append(small.train(net, x, labels, run=run))
    for name, value in states[0].items():
        if not name.endswith("num_batches_tracked"):
            assert small.relative(states[1][name], value) <= 1e-6, name


def test_a_network_learns_by_dense_feedback():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, RULE, example=x, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[:4]), labels[:4])  # a batch of another size than the example's
        loss.backward()
        optimizer.step()
        advance(net)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_dense_feedback_needs_an_example_and_images_of_its_size():
    with pytest.raises(UserError, match=r"(?s)from every layer downstream.*example="):
        convert(small.mlp(), RULE)
    pooled = [nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = convert(nn.Sequential(*pooled, nn.Linear(2, 3)), RULE, example=torch.randn(2, 2, 8, 8))
    with pytest.raises(UserError, match="that of the example was"):
        net(torch.randn(2, 2, 9, 9))


def test_a_layer_that_runs_twice_has_no_one_error():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(torch.tanh(self.fc1(torch.tanh(self.fc1(x)))))

    with pytest.raises(UserError, match="fc1 runs 2 times"):
        convert(Twice(), RULE, example=torch.randn(2, 6))


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_changed_in_place_is_the_output_of_its_layer_all_the_same(inplace):
    """Of sequences, a dense layer returns a view, and what changes that in place goes past the view's own node."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.ReLU(inplace), nn.Linear(8, 8), nn.ReLU(inplace), nn.Flatten(), nn.Linear(32, 3)
    net = convert(nn.Sequential(*layers, nn.Hardtanh(inplace=inplace)), RULE, example=torch.randn(5, 4, 6), seed=0)
    assert [list(net[index].downstream) for index in (0, 2, 5)] == [["2", "5"], ["5"], []]
    sequence = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace), nn.Linear(8, 3), nn.Hardtanh(inplace=inplace))
    convert(sequence, "feedback_alignment", output="backprop", example=torch.randn(5, 4, 6))
    assert [sequence[index].rule for index in (0, 2)] == ["feedback_alignment", "backprop"]
