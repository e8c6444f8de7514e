"""`unconvert`: the plain network back, in place, with its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from backends.torch import passes, small
from torch import nn

from ruledsl.errors import UserError
from ruledsl_torch import advance, conversion, convert, observe, unconvert


def anatomy(net):
    """Everything that a module has, by name."""
    return {
        name: (
            *(type(module), set(module.__dict__), list(module._parameters), list(module._buffers)),
            *(list(module._forward_pre_hooks), list(module._forward_hooks)),
        )
        for name, module in net.named_modules()
    }


def learn(net, x, labels):
    observe(net, target=labels)
    nn.functional.cross_entropy(net(x), labels).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    if not [t for layer in net.ruledsl.layers.values() for t in layer.teaches or () if t.optimizer != "task"]:
        advance(net)


def there_and_back(**options):
    net, (x, labels) = small.convnet(), small.batch(small.convnet())
    before, parameters, keys = anatomy(net), dict(net.named_parameters()), list(net.state_dict())
    names = {"conv1": torch.relu, "conv2": "relu", "conv3": "tanh", "fc": "identity"}
    convert(net, example=x, seed=0, activations=names, **options)
    learn(net, x, labels)
    weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    assert unconvert(net) is net
    assert anatomy(net) == before and list(net.state_dict()) == keys
    after = dict(net.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    twin = small.convnet()
    twin.load_state_dict(net.state_dict())
    right, found = (small.gradients(each, x, labels) for each in (twin, net))
    assert all(torch.equal(found[name], right[name]) for name in right)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["kolen_pollack", "weight_mirror", "direct_feedback_alignment"])
def test_a_conversion_that_is_cut_short_leaves_the_network_as_it_was(name, error, monkeypatch):
    net, (x, labels) = small.mlp(), small.batch(small.mlp())
    before, plain = anatomy(net), small.gradients(net, x, labels)

    monkeypatch.setattr(conversion, "connect", interrupted(conversion.connect, error))
    with pytest.raises(error):
        convert(net, name, example=x, logits=net.fc3, seed=0)
    monkeypatch.undo()
    assert anatomy(net) == before
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert all(torch.equal(value, plain[key]) for key, value in small.gradients(net, x, labels).items())
    optimizer.step()
    assert convert(net, name, example=x, seed=0).ruledsl.layers


def interrupted(connect, error):
    """Conversion up to the point where everything is in place, and then an error."""

    def run(*arguments, **options):
        connect(*arguments, **options)
        raise error

    return run


@pytest.mark.parametrize("name", passes.library())
def test_a_network_of_every_rule_is_plain_again(name):
    there_and_back(rule=name)


def test_a_network_of_several_rules_is_plain_again():
    rules = {"conv1": "weight_mirror", "conv2": "dense_feedback_alignment", "fc": "drtp", "*": None}
    there_and_back(rules=rules, constraints=["constant_norm", "frozen_signs"])


def test_a_network_may_be_converted_again_and_a_copy_goes_its_own_way():
    net = convert(small.mlp(), "kolen_pollack")
    twin = copy.deepcopy(net)
    unconvert(net)
    assert hasattr(twin.fc1, "B") and not hasattr(net.fc1, "B")
    assert list(convert(net, "direct_feedback_alignment").ruledsl.layers) == ["fc1", "fc2", "fc3"]
    assert type(unconvert(copy.deepcopy(net))) is small.MLP


def test_a_network_of_one_layer_and_a_table_of_embeddings_lose_what_they_got():
    assert type(unconvert(convert(nn.Linear(6, 3), "direct_feedback_alignment"))) is nn.Linear
    table = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3))
    before = anatomy(table)
    assert anatomy(unconvert(convert(table, "feedback_alignment"))) == before


def test_only_what_was_converted_comes_back():
    with pytest.raises(UserError, match="was not converted"):
        unconvert(small.mlp())
    net = convert(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)), "direct_feedback_alignment")
    with pytest.raises(UserError, match="stands around"):
        unconvert(torch.compile(net))
    assert net[0].rule == "direct_feedback_alignment"


@pytest.mark.parametrize("rule", ["kolen_pollack", "direct_feedback_alignment"])
def test_attention_is_that_of_torch_again(rule):
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    net, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3)).eval(), torch.randn(2, 5, 8)
    kinds, parameters, expected = (
        [(type(m), sorted(m.__dict__)) for m in net.modules()],
        dict(net.named_parameters()),
        net(x),
    )
    convert(net, rule, example=x)
    net(x).sum().backward()
    unconvert(net)
    assert [(type(m), sorted(m.__dict__)) for m in net.modules()] == kinds
    after = dict(net.named_parameters())
    assert list(after) == list(parameters) and all(after[name] is value for name, value in parameters.items())
    assert torch.allclose(net(x), expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["kolen_pollack", "direct_kolen_pollack", "symmetric_alignment"])
def test_an_optimizer_that_was_there_before_steps_on_by_backpropagation(rule):
    net, (x, labels) = small.mlp(), small.batch(small.mlp())
    convert(net, rule, example=x, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    nn.functional.cross_entropy(net(x), labels).backward()
    optimizer.step()
    unconvert(net)
    twin = small.mlp()
    twin.load_state_dict(net.state_dict())
    optimizer.zero_grad()
    for each, stepping in ((net, optimizer), (twin, torch.optim.SGD(twin.parameters(), lr=0.1))):
        nn.functional.cross_entropy(each(x), labels).backward()
        stepping.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))
    convert(net, rule, example=x, seed=0)
    nn.functional.cross_entropy(net(x), labels).backward()
    optimizer.step()
