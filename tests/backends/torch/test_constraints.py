"""What holds after every step."""

from __future__ import annotations

import pickle

import pytest
import torch
from backends.torch import small

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, observe

BOTH = """
rule both {
  extends feedback_alignment
  use frozen_signs(at = 0.5)
  use constant_norm
  locality {
    allow norm(W) -> W
    allow norm(W) -> constant_norm_n
    allow stat(frozen_signs_s) -> W
    allow stat(frozen_signs_s) -> frozen_signs_s
  }
}
"""


def train(net, x, labels, steps=4, lr=1.0):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for index in range(steps):
        observe(net, progress=index / steps)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        advance(net)


@pytest.mark.parametrize("inside", [True, False])
def test_constraints_hold_whether_the_rule_uses_them_or_the_call_adds_them(inside):
    net = small.convnet()
    x, labels = small.batch(net)
    if inside:
        convert(net, ruledsl.parse(BOTH), example=x, seed=0)
    else:
        added = [ruledsl.load("frozen_signs", at=0.5), "constant_norm"]
        convert(net, "feedback_alignment", constraints=added, example=x, seed=0)
    weights = {name: layer.weight.detach().clone() for name, layer in net.ruledsl.layers.items()}
    train(net, x, labels, 2)  # progress is 0 and 0.5
    signs = {name: layer.frozen_signs_s.clone() for name, layer in net.ruledsl.layers.items()}
    train(net, x, labels, 3, lr=0.0)
    observe(net, progress=0.6)
    for name, layer in net.ruledsl.layers.items():
        assert torch.isclose(layer.weight.norm(), weights[name].norm(), rtol=1e-5), name
        assert layer.constant_norm_n.shape == ()
        assert not torch.equal(layer.weight, weights[name])
        assert set(signs[name].unique().tolist()) <= {-1.0, 1.0}


def test_both_ways_of_composing_give_the_same_numbers():
    states = []
    for inside in (True, False):
        net = small.mlp()
        x, labels = small.batch(net)
        rule = ruledsl.parse(BOTH) if inside else "feedback_alignment"
        added = [] if inside else [ruledsl.load("frozen_signs", at=0.5), ruledsl.load("constant_norm")]
        convert(net, rule, constraints=added, seed=0)
        train(net, x, labels)
        states.append(net.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_frozen_signs_stay():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, "backprop", constraints=["frozen_signs"])
    train(net, x, labels, 1)
    observe(net, progress=0.5)
    before = net.fc2.weight.sign()
    optimizer = torch.optim.SGD(net.parameters(), lr=30.0)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        assert not torch.equal(net.fc2.weight.sign(), before)
        advance(net)
        assert torch.equal(net.fc2.weight.sign(), before)


def test_a_constrained_network_survives_pickling():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, "kolen_pollack", constraints=["constant_norm"], seed=0)
    twin = pickle.loads(pickle.dumps(net))
    train(net, x, labels)
    train(twin, x, labels)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())


def test_what_is_no_constraint_is_refused():
    for wrong in ("backprop", "sgd"):
        with pytest.raises(UserError, match=f"{wrong} is no constraint"):
            convert(small.mlp(), "backprop", constraints=[wrong])
    with pytest.raises(UserError, match="constant_norm_n"):
        convert(small.mlp(), "backprop", constraints=["constant_norm", "constant_norm"])
