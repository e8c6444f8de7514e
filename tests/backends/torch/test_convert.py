"""What `convert` changes in a network, what it leaves, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from backends.torch import handwritten, small
from torch import nn

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, observe

every_rule = pytest.mark.parametrize("program", handwritten.EVERY.values(), ids=handwritten.EVERY)


def converted(program, build=small.convnet, **options):
    net = build()
    return convert(net, program, example=small.batch(net)[0], seed=0, **options)


def test_the_object_its_parameters_and_its_keys_stay():
    net = small.mlp()
    before = dict(net.named_parameters())
    keys = list(net.state_dict())
    fc1 = net.fc1
    assert convert(net, handwritten.kolen_pollack) is net and net.fc1 is fc1
    after = dict(net.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert set(net.state_dict()) == {*keys, "fc1.B", "fc2.B", "fc3.B"}
    assert net.fc1.W is net.fc1.weight and net.fc1.b is net.fc1.bias
    assert isinstance(net, small.MLP) and isinstance(net.fc1, nn.Linear)
    net.load_state_dict(small.mlp().state_dict(), strict=False)


def test_what_has_a_pseudo_gradient_is_a_parameter_and_the_rest_is_a_buffer():
    assert isinstance(convert(small.mlp(), handwritten.kolen_pollack).fc1.B, nn.Parameter)
    net = convert(small.mlp(), handwritten.feedback_alignment)
    assert "B" in dict(net.fc1.named_buffers()) and not net.fc1.B.requires_grad
    net = convert(small.mlp(), handwritten.running_mean)
    assert set(net.state_dict()) - set(small.mlp().state_dict()) == {
        f"fc{i}.{name}" for i in (1, 2, 3) for name in ("m", "count")
    }


@every_rule
def test_the_output_is_that_of_the_plain_network(program):
    x, labels = small.batch(small.convnet())
    net, plain = converted(program), small.convnet()
    observe(net, target=labels)
    assert torch.equal(net(x), plain(x))
    with torch.no_grad():
        assert torch.equal(net.eval()(x), plain.eval()(x))


def test_a_network_may_be_one_layer():
    net = convert(nn.Linear(6, 3), handwritten.direct_feedback_alignment, seed=0)
    x = torch.randn(5, 6, requires_grad=True)
    net(x).sum().backward()
    assert torch.allclose(x.grad, torch.ones(5, 3) @ net.B)


def test_nested_and_shared_layers_are_converted_once():
    shared = nn.Linear(4, 4)
    net = convert(nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared, nn.Linear(4, 2))), handwritten.kolen_pollack)
    assert list(net.ruledsl.layers) == ["0", "2.1"]
    assert net[0] is net[2][0]


def test_converting_twice_is_an_error():
    with pytest.raises(UserError, match="fc1 already follows backprop"):
        convert(convert(small.mlp(), handwritten.backprop), handwritten.backprop)


def test_what_cannot_follow_a_rule_is_listed():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding_mode="circular", padding=1),
        nn.Conv2d(4, 4, 2, padding="same"),
        nn.Bilinear(4, 4, 2),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.LazyLinear(4),
        nn.Linear(4, 2),
    )
    with pytest.warns(UserWarning, match="Bilinear is no Linear, convolution or Embedding"):
        convert(net, handwritten.backprop)
    assert list(net.ruledsl.skipped) == ["0", "1", "2", "5"] and list(net.ruledsl.layers) == ["6"]
    assert "circular" in net.ruledsl.skipped["0"] and "first batch" in net.ruledsl.skipped["5"]


def test_a_network_without_weight_layers_is_an_error():
    with pytest.raises(UserError, match="no Linear, convolution or Embedding"):
        convert(nn.ReLU(), handwritten.backprop)


def test_the_last_layer_may_follow_another_rule():
    net = converted(handwritten.feedback_alignment, small.mlp, output=handwritten.backprop)
    assert not hasattr(net.fc3, "B") and hasattr(net.fc2, "B")


def test_the_last_layer_is_the_last_that_runs():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(torch.relu(self.body(x)))

    net = convert(Backwards(), handwritten.feedback_alignment, output=handwritten.backprop, example=torch.randn(2, 4))
    assert list(net.ruledsl.layers) == ["body", "head"] and not hasattr(net.head, "B")


def test_an_example_leaves_no_trace():
    net = small.convnet()
    net.conv2.weight.requires_grad_(False)
    net.norm.eval()
    before, state, modes = copy.deepcopy(net.state_dict()), torch.get_rng_state(), [m.training for m in net.modules()]
    convert(net, handwritten.backprop, example=small.batch(net)[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes
    assert not net.conv2.weight.requires_grad and net.fc.weight.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_equal_seeds_give_equal_maps():
    one, two, other = (convert(small.mlp(), handwritten.kolen_pollack, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.fc2.B, two.fc2.B) and not torch.equal(one.fc2.B, other.fc2.B)
    drawn = [convert(small.mlp(), handwritten.kolen_pollack, generator=torch.Generator().manual_seed(3)) for _ in "ab"]
    assert torch.equal(drawn[0].fc2.B, drawn[1].fc2.B) and not torch.equal(drawn[0].fc2.B, one.fc2.B)


def test_maps_from_the_output_have_the_shape_of_an_activity():
    net = converted(handwritten.direct_feedback_alignment)
    assert net.conv2.B.shape == (3, 4, 8, 8) and net.conv3.B.shape == (3, 4, 8, 8) and net.fc.B.shape == (3, 54)
    assert net.conv1.B is None  # it sends to nobody
    assert type(net).__name__ == "ConvNet"


def test_maps_from_the_output_of_a_convolution_need_an_example():
    with pytest.raises(UserError, match=r"(?s)`B` is a map between a convolution.*example="):
        convert(small.convnet(), handwritten.direct_feedback_alignment)


def test_a_failed_conversion_changes_nothing():
    net = small.convnet()
    with pytest.raises(UserError):
        convert(net, handwritten.direct_feedback_alignment)
    assert type(net.conv1) is nn.Conv2d and type(net) is small.ConvNet and not hasattr(net, "ruledsl")


def test_what_sends_no_error_is_no_learning_rule():
    with pytest.raises(UserError, match="no learning rule"):
        convert(small.mlp(), ruledsl.load("constant_norm"))


def test_parameters_are_set_and_checked():
    net = convert(small.mlp(), handwritten.kolen_pollack, decay=0.5)
    assert net.fc1.decay == 0.5 and convert(small.mlp(), handwritten.kolen_pollack).fc1.decay == 0.0001
    with pytest.raises(UserError, match="did you mean `decay`"):
        convert(small.mlp(), handwritten.kolen_pollack, dekay=0.5)


def test_phi_comes_from_activations_or_the_layer():
    names = {"fc1": torch.relu, "fc2": "tanh", "fc3": "identity"}
    x, labels = small.batch(small.mlp())
    net = convert(small.mlp(), handwritten.reads_phi, activations=names)
    assert all(gradient is not None for gradient in small.gradients(net, x, labels).values())
    own = small.mlp()
    own.fc1.phi = own.fc2.phi = own.fc3.phi = nn.Tanh()
    assert convert(own, handwritten.reads_phi).fc2.phi is not None
    with pytest.raises(UserError, match=r"(?s)reads phi, and fc3 declares no activation.*activations="):
        convert(small.mlp(), handwritten.reads_phi, activations={"fc1": "relu", "fc2": "tanh"})
    with pytest.raises(UserError, match="fc9"):
        convert(small.mlp(), handwritten.reads_phi, activations={"fc9": "relu"})


def test_the_derivative_of_phi_is_at_hand():
    v = torch.randn(4, 3)
    names = {"fc1": torch.tanh, "fc2": nn.ReLU(), "fc3": "identity"}
    net = convert(small.mlp(), handwritten.reads_phi, activations=names)
    assert torch.allclose(net.fc1.dphi(v), 1 - torch.tanh(v) ** 2)
    assert torch.equal(net.fc2.dphi(v), (v > 0).float())
    assert torch.equal(net.fc3.dphi(v), torch.ones_like(v))


def test_a_tensor_must_not_hide_a_part_of_the_layer():
    text = """
    rule bad {
      state synapses : scalar = 1
      feedback send = synapses * (W.T @ delta)
      locality { allow reverse(W) }
    }
    """
    net = small.mlp()
    net.fc2.synapses = nn.Identity()
    with pytest.raises(UserError, match="bad calls a tensor `synapses`, and Linear has a part of that name"):
        convert(net, handwritten.program(text))
    assert convert(small.mlp(), handwritten.program(text)).fc2.synapses == 1


def test_a_rule_object_is_compiled_for_torch():
    class Rule:
        def compile(self, backend):
            assert backend == "torch"
            return handwritten.backprop

    assert type(convert(small.mlp(), Rule()).fc1) is handwritten.backprop.module.Linear


@every_rule
def test_copies_are_independent_and_learn_alike(program):
    net = converted(program)
    x, labels = small.batch(net)
    twin = copy.deepcopy(net)
    assert twin.ruledsl is not net.ruledsl and twin.ruledsl.layers["fc"] is twin.fc
    one, two = small.train(net, x, labels), small.train(twin, x, labels)
    assert all(torch.equal(one[name], two[name]) for name in one)


@every_rule
def test_a_network_survives_pickling(program):
    net = converted(program)
    x, labels = small.batch(net)
    twin = pickle.loads(pickle.dumps(net))
    one, two = small.train(net, x, labels), small.train(twin, x, labels)
    assert all(torch.equal(one[name], two[name]) for name in one)


@every_rule
def test_a_run_continues_from_its_state(program):
    x, labels = small.batch(small.convnet())
    net = converted(program)
    small.train(net, x, labels, 2)
    file, record = io.BytesIO(), net.ruledsl.state()
    torch.save(net.state_dict(), file)
    file.seek(0)
    resumed = converted(program)
    resumed.load_state_dict(torch.load(file))
    resumed.ruledsl.load_state(record)
    one, two = small.train(net, x, labels, 2), small.train(resumed, x, labels, 2)
    assert all(torch.equal(one[name], two[name]) for name in one)


@every_rule
def test_a_network_moves_to_another_type(program):
    net = converted(program)
    x, labels = small.batch(net, torch.float64)
    net.to(torch.float64)
    state = small.train(net, x, labels)
    assert all(value.dtype == torch.float64 for value in state.values() if value.is_floating_point())
    assert net.ruledsl.step == 3


def test_a_compiled_network_must_be_converted_first():
    with pytest.raises(UserError, match="convert first"):
        convert(torch.compile(small.mlp()), handwritten.backprop)


def test_a_network_that_was_not_converted_cannot_advance():
    with pytest.raises(UserError, match="was not converted"):
        advance(small.mlp())


def test_a_checkpoint_knows_the_epoch_that_a_network_was_told():
    text = """
    rule r {
      weight B : post -> pre ~ normal(0, 1)
      feedback send = B @ delta
      phase q { drive x = normal(0, 1)  B <- 0.9 * B }
      schedule { first 1 epochs : q  each step : task }
    }
    """
    first, resumed = (convert(small.mlp(), ruledsl.parse(text), example=torch.ones(5, 6)) for _ in range(2))
    observe(first, epoch=0.5)
    resumed.ruledsl.load_state(first.ruledsl.state())
    assert resumed.ruledsl.phases == first.ruledsl.phases == ("q",)
