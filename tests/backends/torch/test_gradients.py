"""What arrives in `.grad`, and what is not computed on the way."""

from __future__ import annotations

import pytest
import torch
from backends.torch import handwritten, small
from geometries import GEOMETRIES
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ruledsl_torch import advance, convert, observe

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
both_precisions = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


class Masks(TorchDispatchMode):
    """The output masks of all calls of convolution_backward."""

    def __enter__(self):
        self.seen: list[tuple[bool, ...]] = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


@both_precisions
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_backprop_equals_autograd_in_every_geometry(geometry, dtype):
    plain, x = small.layer(geometry, dtype)
    ruled, _ = small.layer(geometry, dtype)
    convert(ruled, handwritten.backprop)
    found = []
    for module in (plain, ruled):
        z = x.clone().requires_grad_()
        torch.sin(module(z)).sum().backward()
        found.append((z.grad, module.weight.grad, module.bias.grad))
    for right, own in zip(*found, strict=True):
        assert small.relative(own, right) < TOLERANCE[dtype]


@both_precisions
@pytest.mark.parametrize("build", [small.mlp, small.convnet])
def test_backprop_equals_autograd_in_a_network(build, dtype):
    x, labels = small.batch(build(), dtype)
    plain = small.gradients(build(dtype), x, labels)
    ruled = small.gradients(convert(build(dtype), handwritten.backprop), x, labels)
    assert plain.keys() == ruled.keys()
    for name, gradient in plain.items():
        assert gradient is not None and ruled[name] is not None
        if name != "conv1.bias":  # before a normalisation its gradient is zero, and what there is is rounding
            assert small.relative(ruled[name], gradient) < 2 * TOLERANCE[dtype], name


def test_backprop_equals_autograd_where_a_layer_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc2(torch.tanh(self.fc1(torch.tanh(self.fc1(x)))))

    x, labels = small.batch(small.mlp())
    plain, ruled = (small.gradients(net, x, labels) for net in (Twice(), convert(Twice(), handwritten.backprop)))
    for name, gradient in plain.items():
        assert small.relative(ruled[name], gradient) < 1e-6
    direct = convert(Twice(), handwritten.direct_feedback_alignment)
    assert all(gradient is not None for gradient in small.gradients(direct, x, labels).values())


def test_feedback_alignment_sends_through_its_own_map():
    net = convert(small.mlp(), handwritten.feedback_alignment, seed=0)
    x, labels = small.batch(net)
    found = small.gradients(net, x, labels)
    plain = small.mlp()
    u1 = plain.fc1(x)
    u2 = plain.fc2(torch.relu(u1))
    delta3 = (plain.fc3(torch.tanh(u2)).softmax(1) - F.one_hot(labels, 3)) / 5
    delta2 = (delta3 @ net.fc3.B) * (1 - torch.tanh(u2) ** 2)
    delta1 = (delta2 @ net.fc2.B) * (u1 > 0)
    for name, delta, below in (
        ("fc3", delta3, torch.tanh(u2)),
        ("fc2", delta2, torch.relu(u1)),
        ("fc1", delta1, x),
    ):
        assert torch.allclose(found[f"{name}.weight"], delta.t() @ below, atol=1e-6)
        assert torch.allclose(found[f"{name}.bias"], delta.sum(0), atol=1e-6)


def test_kolen_pollack_gives_both_maps_the_same_change():
    net = convert(small.convnet(), handwritten.kolen_pollack, decay=0.0, seed=0)
    x, labels = small.batch(net)
    found = small.gradients(net, x, labels)
    for name in ("conv2", "conv3", "fc"):
        assert torch.equal(found[f"{name}.B"], found[f"{name}.weight"])


def test_the_first_layer_computes_nothing_for_a_layer_below():
    net = convert(small.convnet(), handwritten.kolen_pollack)
    x, labels = small.batch(net)
    with Masks() as masks:
        found = small.gradients(net, x, labels)
    # Three convolutions have a kernel gradient, and all but the first an adjoint.
    assert sorted(masks.seen) == sorted([(False, True, False)] * 3 + [(True, False, False)] * 2)
    assert found["conv1.B"] is None and found["conv2.B"] is not None


def test_an_input_that_wants_a_gradient_gets_what_the_first_layer_sends():
    net = convert(small.mlp(), handwritten.feedback_alignment)
    x, labels = small.batch(net)
    small.gradients(net, x.requires_grad_(), labels)
    assert x.grad is not None


@pytest.mark.parametrize("program", [handwritten.direct_feedback_alignment, handwritten.drtp], ids=lambda p: p.rule)
def test_direct_feedback_computes_no_gradient_of_any_input(program):
    net = small.convnet()
    x, labels = small.batch(net)
    convert(net, program, example=x)
    observe(net, target=labels)
    with Masks() as masks:
        found = small.gradients(net, x, labels)
    assert masks.seen == [(False, True, False)] * 3
    assert all(gradient is not None for gradient in found.values())


def test_e_is_the_gradient_of_the_loss_at_the_logits():
    program = handwritten.program(
        """
        rule reads_e {
          state seen : out = 0
          weight bias_of_output : out ~ zeros()
          feedback send = 0
          seen <- total(e)
          grad bias_of_output = total(e)
          locality { allow broadcast(e) -> seen  allow broadcast(e) -> bias_of_output }
        }
        """
    )
    net = convert(small.mlp(), program)
    x, labels = small.batch(net)
    found = small.gradients(net, x, labels)
    e = ((small.mlp()(x).softmax(1) - F.one_hot(labels, 3)) / 5).sum(0)
    advance(net)
    for name in ("fc1", "fc2", "fc3"):
        assert torch.allclose(found[f"{name}.bias_of_output"], e, atol=1e-7)
        assert torch.allclose(net.get_submodule(name).seen, e, atol=1e-7)


def test_direct_feedback_of_a_hidden_layer_is_its_map_times_e():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, handwritten.direct_feedback_alignment, example=x, seed=0)
    found = small.gradients(net, x, labels)
    plain = small.mlp()
    u1 = plain.fc1(x)
    u2 = plain.fc2(torch.relu(u1))
    e = (plain.fc3(torch.tanh(u2)).softmax(1) - F.one_hot(labels, 3)) / 5
    delta2 = (e @ net.fc3.B) * (1 - torch.tanh(u2) ** 2)
    assert torch.allclose(found["fc2.weight"], delta2.t() @ torch.relu(u1), atol=1e-6)


def test_only_what_the_rule_reads_is_kept_for_the_backward_pass():
    kept: list[torch.Tensor] = []
    net = convert(nn.Linear(6, 3), handwritten.feedback_alignment)
    x = torch.randn(5, 6)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        net(x)
    assert [tuple(t.shape) for t in kept] == [(5, 6)]  # x: there is no layer below, so neither W nor B nor u
    kept.clear()
    net.requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        net(x.requires_grad_())
    assert len(kept) == 1 and kept[0].data_ptr() == net.B.data_ptr()


def test_a_frozen_weight_gets_no_gradient():
    net = convert(small.mlp(), handwritten.kolen_pollack)
    net.fc2.weight.requires_grad_(False)
    x, labels = small.batch(net)
    found = small.gradients(net, x, labels)
    assert found["fc2.weight"] is None and found["fc1.weight"] is not None and found["fc2.B"] is not None


def test_a_second_derivative_is_refused():
    net = convert(nn.Linear(6, 3), handwritten.backprop)
    x = torch.randn(5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_linear_layer_over_sequences_learns_at_every_position():
    plain, ruled = nn.Linear(4, 3), nn.Linear(4, 3)
    ruled.load_state_dict(plain.state_dict())
    convert(ruled, handwritten.kolen_pollack, decay=0.0)
    x = torch.randn(2, 5, 4)
    for module in (plain, ruled):
        module(x).pow(2).sum().backward()
    assert torch.allclose(plain.weight.grad, ruled.weight.grad, atol=1e-5)


@pytest.mark.parametrize("rule", ["direct_kolen_pollack", "direct_sign_symmetry"])
def test_a_direct_map_that_learns_comes_to_the_weights_below_the_output(rule):
    """The last layer's W and the map from the output to its input get the same updates, and forget how they began."""
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, rule, example=x, seed=0, decay=0.05)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
    last = list(net.ruledsl.layers.values())[-1]
    learned = last.C if rule == "direct_sign_symmetry" else last.B
    W = last.W if learned.shape == last.W.shape else last.W.T
    assert small.relative(learned.reshape(W.shape), W) < 0.01
