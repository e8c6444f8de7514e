"""What happens between two steps."""

from __future__ import annotations

import pytest
import torch
from backends.torch import handwritten, small
from torch import nn
from torch.nn import functional as F

from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, observe


def backward(net, x, labels):
    F.cross_entropy(net(x), labels).backward()


def test_the_loop_of_the_documentation_learns():
    x, t = small.batch(small.mlp())
    net = convert(small.mlp(), handwritten.kolen_pollack, output=handwritten.backprop, example=x, seed=0)
    loss = nn.CrossEntropyLoss()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    first = loss(net(x), t).item()
    for _ in range(60):
        opt.zero_grad()
        loss(net(x), t).backward()
        opt.step()
        advance(net)
    assert loss(net(x), t).item() < first / 2


@pytest.mark.parametrize("program", [handwritten.backprop, handwritten.kolen_pollack], ids=lambda p: p.rule)
def test_advance_changes_nothing_where_a_rule_has_only_pseudo_gradients(program):
    net = convert(small.mlp(), program)
    backward(net, *small.batch(net))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    advance(net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_assigned_states_are_stored_by_advance_and_not_before():
    net = convert(small.mlp(), handwritten.running_mean, rate=0.25)
    x, labels = small.batch(net)
    backward(net, x, labels)
    assert net.fc1.m.abs().sum() == 0 and net.fc1.count == 0
    advance(net)
    assert torch.allclose(net.fc1.m, 0.25 * small.mlp().fc1(x).mean(0), atol=1e-6)
    assert net.fc1.count == 1
    assert not net.fc1.m.requires_grad


def test_what_receives_next_values_is_no_parameter_and_not_saved():
    net = convert(small.mlp(), handwritten.running_mean)
    assert {name.split(".")[-1] for name, _ in net.named_parameters()} == {"weight", "bias"}
    received = {name for name, _ in net.fc1.named_buffers()} - {"m", "count"}
    assert received == {"m_next", "backward_passes"}
    assert not received & {name.split(".")[-1] for name in net.state_dict()}


def test_two_backward_passes_without_advance_are_an_error_that_stores_nothing():
    net = convert(small.mlp(), handwritten.running_mean)
    x, labels = small.batch(net)
    backward(net, x, labels)
    backward(net, x, labels)
    with pytest.raises(RuntimeError, match="2 times through layer 'fc1' since the last advance"):
        advance(net)
    assert net.fc1.m.abs().sum() == 0 and net.fc1.count == 0


def test_a_forward_pass_without_backward_assigns_nothing_that_reads_activity():
    net = convert(small.mlp(), handwritten.running_mean)
    net(small.batch(net)[0])
    advance(net)
    assert net.fc1.m.abs().sum() == 0


def test_a_rule_that_assigns_w_leaves_nothing_for_the_optimizer():
    net = convert(small.mlp(), handwritten.hebbian, rate=0.5)
    x, labels = small.batch(net)
    backward(net, x, labels)
    assert net.fc1.weight.grad is None and isinstance(net.fc1.weight, nn.Parameter)
    plain = small.mlp()
    u = plain.fc1(x)
    advance(net)
    assert torch.allclose(net.fc1.weight, plain.fc1.weight + 0.5 * u.t() @ x / 5, atol=1e-6)


def test_an_assignment_that_reads_w_sees_it_as_it_was_before_the_optimizer_moved_it():
    text = "rule remember { state old : pre -> post = 0  feedback send = W.T @ delta  old <- W  ALLOW }"
    rule = text.replace("ALLOW", "locality { allow reverse(W) -> send }")
    net = convert(small.mlp(), handwritten.program(rule))
    x, labels = small.batch(net)
    small.train(net, x, labels, steps=1)
    assert torch.equal(net.fc2.old, small.mlp().fc2.weight)
    assert not torch.equal(net.fc2.old, net.fc2.weight)


def test_after_step_reads_the_new_weights():
    net = convert(small.convnet(), handwritten.constant_norm)
    x, labels = small.batch(net)
    size = net.conv2.weight.norm()
    assert torch.equal(net.conv2.size, size.detach())
    small.train(net, x, labels)
    assert torch.isclose(net.conv2.weight.norm(), size)
    assert not torch.equal(net.conv2.weight, small.convnet().conv2.weight)


def test_fresh_maps_are_drawn_at_conversion_and_at_every_step():
    net = convert(small.mlp(), handwritten.brsf, seed=0)
    drawn = [net.fc2.M.clone()]
    assert 0 < drawn[0].mean() < 1
    for _ in range(2):
        advance(net)
        drawn.append(net.fc2.M.clone())
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    again = convert(small.mlp(), handwritten.brsf, seed=0)
    advance(again)
    assert torch.equal(again.fc2.M, drawn[1])


def test_step_counts_calls_of_advance():
    net = convert(small.mlp(), handwritten.clocked)
    x, labels = small.batch(net)
    first = small.gradients(net, x, labels)["fc1.weight"]
    advance(net)
    second = small.gradients(net, x, labels)["fc1.weight"]
    assert torch.allclose(second, first / 4, atol=1e-7)  # two layers above, each of which sends half


def test_the_target_must_be_observed():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, handwritten.drtp, seed=0)
    with pytest.raises(UserError, match=r"(?s)reads target.*observe"):
        net(x)
    with torch.no_grad():
        net(x)
    observe(net, target=labels)
    backward(net, x, labels)
    with pytest.raises(UserError, match="a target for 5 examples for this batch of 2"):
        net(x[:2])
    with pytest.raises(UserError, match="shape"):
        observe(net, target=torch.zeros(5, 7))


def test_class_indices_and_one_hot_targets_mean_the_same():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, handwritten.drtp, seed=0)
    observe(net, target=labels)
    one = small.gradients(net, x, labels)
    observe(net, target=F.one_hot(labels, 3).float())
    two = small.gradients(net, x, labels)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_lr_must_be_observed_by_a_rule_that_reads_it():
    rule = f"rule r {{ state s : scalar = 0 {handwritten.BACKWARD} s <- s + lr locality {{ allow reverse(W) }} }}"
    net = convert(small.mlp(), handwritten.program(rule))
    with pytest.raises(UserError, match=r"observe\(net, lr=\.\.\.\)"):
        advance(net)
    observe(net, lr=0.5, progress=0.1)
    advance(net)
    assert net.fc1.s == 0.5
    with pytest.raises(UserError, match="can't observe `momentum`"):
        observe(net, momentum=0.9)


def test_a_layer_that_reads_e_must_run_inside_the_converted_network():
    net = convert(small.mlp(), handwritten.direct_feedback_alignment)
    with pytest.raises(UserError, match="outside the forward pass"):
        net.fc2(torch.randn(2, 8, requires_grad=True))


def test_logits_of_another_shape_are_an_error():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Unflatten(1, (3, 1)))
    with pytest.raises(UserError, match="where logits"):
        convert(net, handwritten.direct_feedback_alignment)(torch.randn(2, 6))


def test_mirroring_brings_the_feedback_weights_to_the_transpose():
    net = small.convnet()
    x, labels = small.batch(net)
    convert(net, handwritten.weight_mirror, example=x.repeat(8, 1, 1, 1), seed=0, eta=0.05, decay=0.05)
    for _ in range(200):
        advance(net)
    for layer in (net.conv2, net.conv3, net.fc):
        assert F.cosine_similarity(layer.B.flatten(), layer.weight.flatten(), dim=0) > 0.9
    backward(net, x, labels)


def test_a_driven_phase_needs_an_example():
    with pytest.raises(UserError, match="drives every layer"):
        convert(small.mlp(), handwritten.weight_mirror)


def test_a_layer_without_bias_reads_zero_and_stores_none():
    rule = f"""
    rule own_bias {{
      state s : post = 0
      {handwritten.BACKWARD}
      b <- b - total(delta)
      s <- s + 1 + b
      locality {{ allow reverse(W) -> send }}
    }}
    """
    net = convert(small.convnet(), handwritten.program(rule))
    x, labels = small.batch(net)
    backward(net, x, labels)
    advance(net)
    assert net.conv2.bias is None and torch.equal(net.conv2.s, torch.ones(4))
    assert net.fc.bias.grad is None and not torch.equal(net.fc.bias, small.convnet().fc.bias)
    assert torch.allclose(net.fc.s, 1 + small.convnet().fc.bias)
