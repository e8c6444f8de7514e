"""Definitions of the kind `optimizer`, as torch optimizers."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from backends.torch import small
from torch import nn
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, optimizer, optimizers

COUNTING = """
optimizer counting {
  state seen : scalar = 0
  seen <- seen + 1
  p <- if step < 2 then p - lr * sqrt(lr) * g * (1 + progress) else p
}
"""


def trained(make, steps=20, dtype=torch.float32, net=None):
    net = small.mlp(dtype) if net is None else net
    x, labels = small.batch(net, dtype)
    rule = make(net.parameters())
    for _ in range(steps):
        rule.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        rule.step()
    return net.state_dict(), rule


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("sgd", {"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
        (
            "sgd",
            {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (
            "sgd",
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        ),
        ("adam", {"lr": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01)),
        (
            "adam",
            {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-4},
            lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-4),
        ),
    ],
)
def test_the_library_gives_the_numbers_of_torch(name, ours, theirs):
    one, two = trained(lambda p: optimizer(p, name, **ours))[0], trained(theirs)[0]
    assert all(small.relative(one[key], value) < 1e-6 for key, value in two.items())


def test_manhattan_moves_every_weight_by_the_learning_rate():
    before = small.mlp().state_dict()
    after, _ = trained(lambda p: optimizer(p, "manhattan_1", lr=0.01), steps=1)
    moved = (after["fc3.weight"] - before["fc3.weight"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.01), atol=1e-6)


@pytest.mark.parametrize("name", ["manhattan_1", "manhattan_2", "manhattan_3", "noisy_sgd"])
def test_every_optimizer_of_the_library_learns(name):
    net = small.mlp()
    x, labels = small.batch(net)
    first = F.cross_entropy(net(x), labels).item()
    trained(lambda p: optimizer(p, name, lr=0.2 if name == "noisy_sgd" else 0.002), steps=60, net=net)
    assert F.cross_entropy(net(x), labels).item() < 0.7 * first


def test_noise_is_scaled_by_the_learning_rate_and_drawn_anew():
    p = nn.Parameter(torch.zeros(20000))
    rule = optimizer([p], "noisy_sgd", lr=0.1, sigma=0.5)
    p.grad = torch.zeros_like(p)
    rule.step()
    first = p.detach().clone()
    rule.step()
    assert torch.isclose(first.std(), torch.tensor(0.05), rtol=0.05)
    assert abs(torch.corrcoef(torch.stack((first, p.detach() - first)))[0, 1]) < 0.05


@pytest.mark.parametrize("name", ["adam", "manhattan_1", "sgd"])
def test_a_run_continues_from_its_state(name):
    _, first = trained(lambda p: optimizer(p, name, lr=0.01), steps=3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    net = small.mlp()
    net.load_state_dict(trained(lambda p: optimizer(p, name, lr=0.01), steps=3)[0])
    resumed = optimizer(net.parameters(), name, lr=0.01)
    resumed.load_state_dict(torch.load(file))
    whole = trained(lambda p: optimizer(p, name, lr=0.01), steps=5)[0]
    rest = trained(lambda p: resumed, steps=2, net=net)[0]
    assert all(torch.equal(whole[key], rest[key]) for key in whole)


def test_copies_and_pickles_learn_on():
    p = nn.Parameter(torch.ones(3))
    rule = optimizer([p], "adam", lr=0.1)
    p.grad = torch.ones(3)
    rule.step()
    for twin in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        (other,) = twin.param_groups[0]["params"]
        other.grad = torch.ones(3)
        twin.step()
    rule.step()
    assert torch.equal(p, other)


def test_numbers_among_the_states_are_precise_and_counters_count():
    p = nn.Parameter(torch.ones(3))
    rule = optimizer([p], ruledsl.parse(COUNTING), lr=0.25)
    rule.observe(progress=1.0)
    for _ in range(3):
        p.grad = torch.ones(3)
        rule.step()
    assert rule.state[p]["seen"] == 3 and rule.state[p]["seen"].dtype == torch.float64
    assert torch.allclose(p, torch.full((3,), 1 - 2 * 0.25 * 0.5 * 2))


def test_a_schedule_changes_parameters_through_their_groups():
    p = nn.Parameter(torch.ones(1))
    rule = optimizer([p], "sgd", lr=1.0, momentum=0.5)
    assert rule.param_groups[0]["momentum"] == 0.5
    schedule = torch.optim.lr_scheduler.StepLR(rule, 1, 0.1)
    p.grad = torch.ones(1)
    rule.step()
    schedule.step()
    rule.param_groups[0]["momentum"] = 0.0
    rule.step()
    assert torch.allclose(p, torch.tensor([-0.1]))


def test_a_rule_that_decays_itself_is_not_decayed_twice():
    net = small.mlp()
    x, labels = small.batch(net)
    convert(net, "kolen_pollack", decay=0.1, seed=0)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    for choice in (("sgd", {"lr": 0.1, "weight_decay": 0.5}), ("manhattan_1", {"decay": 0.5})):
        groups = optimizers(net, task=choice)["task"].param_groups
        decay = "weight_decay" if choice[0] == "sgd" else "decay"
        decays = {names[id(p)]: group[decay] for group in groups for p in group["params"]}
        assert decays["fc2.bias"] == 0.5 and decays["fc2.weight"] == decays["fc2.B"] == 0
    adamw = optimizers(net, task=lambda p: torch.optim.AdamW(p, lr=0.1))
    F.cross_entropy(net(x), labels).backward()
    adamw.step()
    advance(net)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean `momentum`"):
        optimizer([nn.Parameter(torch.ones(1))], "sgd", lr=0.1, momentun=0.9)
    with pytest.raises(UserError, match="there are: beta1"):
        optimizer([nn.Parameter(torch.ones(1))], ruledsl.load("adam"), lr=0.1, xyz=0.9)
    with pytest.raises(UserError, match="backprop is no optimizer"):
        optimizer([nn.Parameter(torch.ones(1))], "backprop", lr=0.1)


def test_an_optimizer_that_a_rule_names_is_checked_like_one_of_the_library():
    net = convert(small.mlp(), "feedback_alignment")
    with pytest.raises(ruledsl.RuleError, match="momentum"):
        optimizers(net, task=("sgd", {"lr": 0.1, "momentum": 1.5}))
    assert optimizers(net, task=("adam", {"beta1": 0}))["task"].defaults["betas"] == (0.0, 0.999)
    assert not optimizers(net, task=("sgd", {"nesterov": True}))["task"].defaults["nesterov"]


def test_an_optimizer_may_swap_what_it_keeps():
    text = "optimizer swap { state m : p = 0  m <- p  p <- m }"
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    made = optimizer([parameter], ruledsl.parse(text), lr=0.1)
    made.step()
    assert (parameter == 0).all() and (made.state[parameter]["m"] == 1).all()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_gradient_may_lie_in_memory_in_any_way(name):
    found = []
    for shaped in (lambda g: g, lambda g: g.t().contiguous().t(), lambda g: g[:1].expand(4, 3)):
        net = convert(nn.Linear(3, 4), "feedback_alignment")
        with torch.no_grad():
            net.weight.fill_(1.0)
        both = optimizers(net, task=(name, {"lr": 0.1}))
        gradient = torch.arange(3.0).expand(4, 3).contiguous()
        for _ in range(3):
            both.apply([("task", net.weight, shaped(gradient))])
        found.append(net.weight.detach().clone())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
