"""What people do to the tensors of a network leaves the rule as it is: layouts, devices, element types, vectors."""

from __future__ import annotations

import pytest
import torch
from backends.loops import loops
from backends.torch import small
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, skip_init, vector_to_parameters

from ruledsl_torch import advance, convert

every_rule = pytest.mark.parametrize("rule", loops.LIBRARY)


def layouts(net, x, labels):
    """By convolution, whether its output, the error there, and its pseudo-gradient have channels last."""
    found = {}

    def note(name, value):
        found[name] = value.is_contiguous(memory_format=torch.channels_last)

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, __, output, name=name: (
                    note(name, output),
                    output.requires_grad and output.register_hook(lambda error: note(f"{name} error", error)),
                    None,
                )[-1]
            )
    F.cross_entropy(net(x), labels).backward()
    for name, p in net.named_parameters():
        if p.dim() == 4 and p.grad is not None:
            note(f"{name} gradient", p.grad)
    return found


@every_rule
def test_channels_last_stays_where_the_plain_network_keeps_it(rule):
    x, labels = small.batch(small.convnet())
    x = x.contiguous(memory_format=torch.channels_last)
    plain = layouts(small.convnet().eval().to(memory_format=torch.channels_last), x, labels)
    net = loops.follow(small.convnet().eval(), rule, x, labels).to(memory_format=torch.channels_last)
    found = layouts(net, x, labels)
    assert plain["conv1"] and all(found[name] == kept for name, kept in plain.items() if name in found)


@pytest.mark.parametrize("rule", loops.A_FEW)
def test_parameters_may_be_swapped_when_they_are_cast(rule):
    net, x, labels = loops.converted(rule)
    expected = loops.gradients(net, x, labels)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        found = loops.gradients(net.float(), x.float(), labels)
        back = loops.gradients(net.double(), x, labels)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert all(value.dtype == torch.float32 for value in found.values())
    loops.assert_same(back, expected, tolerance=1e-4)


@every_rule
def test_in_half_precision_a_step_stays_in_half_precision(rule):
    net, x, labels = loops.converted(rule)
    found = loops.gradients(net.half(), x.half(), labels)
    assert {value.dtype for value in found.values()} == {torch.float16}
    advance(net)
    assert {value.dtype for value in net.state_dict().values() if value.is_floating_point()} == {torch.float16}


@every_rule
def test_a_step_of_fake_tensors_computes_nothing(rule):
    with FakeTensorMode():
        net = small.MLP()
        x, labels = torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
        net = loops.follow(net, rule, x, labels)
        F.cross_entropy(net(x), labels).backward()
        assert net.fc3.weight.grad.shape == (3, 5)


def test_a_vector_of_all_parameters_has_those_of_the_rule():
    net, _, _ = loops.converted("kolen_pollack")
    vector_to_parameters(torch.full_like(parameters_to_vector(net.parameters()), 0.5), net.parameters())
    assert (net.fc1.B == 0.5).all() and (net.fc1.weight == 0.5).all() and net.fc1.W is net.fc1.weight


def test_layers_made_without_first_values_follow_a_rule():
    net = convert(nn.Sequential(skip_init(nn.Linear, 6, 8), nn.ReLU(), nn.Linear(8, 3)), "feedback_alignment")
    assert list(net.ruledsl.layers) == ["0", "2"]
