"""Several optimizers for one network, each with what the rule means for it."""

from __future__ import annotations

import pytest
import torch
from backends.torch import small
from torch import nn
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, optimizers
from ruledsl_torch.layers import Gradient


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


def test_an_optimizer_that_a_rule_names_is_checked_like_one_of_the_library():
    net = convert(small.mlp(), "feedback_alignment")
    with pytest.raises(ruledsl.RuleError, match="momentum"):
        optimizers(net, task=("sgd", {"lr": 0.1, "momentum": 1.5}))
    assert optimizers(net, task=("adam", {"beta1": 0}))["task"].defaults["betas"] == (0.0, 0.999)
    assert not optimizers(net, task=("sgd", {"nesterov": True}))["task"].defaults["nesterov"]


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
            both.apply([Gradient(net.weight, shaped(gradient), "task")])
        found.append(net.weight.detach().clone())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("by", "written"), [("task", "sgd(lr = 0.5, momentum = 0.9)"), ("task", "sgd(lr = 0.5, nesterov = true)")]
)
def test_a_rule_without_phases_brings_its_optimizer_along(by, written):
    text = f"rule r {{ fixed B : post -> pre ~ normal(0, 1)  feedback send = B @ delta  optimizer {by} = {written} }}"
    net = convert(small.mlp(), ruledsl.parse(text))
    made = optimizers(net)[by]
    assert isinstance(made, torch.optim.SGD) and made.defaults["lr"] == 0.5 and not made.defaults["nesterov"]


class Tied(nn.Module):
    """Two layers with one weight: [batch, 6] -> [batch, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        return self.c(hidden + self.b(hidden))


def test_what_layers_with_one_weight_bring_for_a_second_optimizer_adds_up():
    text = """
    rule r {
      feedback send = W.T @ delta
      grad W = outer(delta, x)
      grad W = outer(delta, x) by second
      optimizer second = sgd(lr = 0.1)
      locality { allow reverse(W) }
    }
    """
    torch.manual_seed(0)
    net, x = Tied(), torch.randn(5, 6)
    net(x).square().mean().backward()
    expected = net.a.weight - 0.3 * net.a.weight.grad
    net.zero_grad()
    convert(net, ruledsl.parse(text))
    both = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.2))
    net(x).square().mean().backward()
    both.step()
    assert torch.allclose(net.a.weight, expected, atol=1e-7)


def test_one_weight_of_two_layers_has_no_two_next_values():
    net = convert(Tied(), ruledsl.parse("rule r { feedback send = 0.1 * x  W <- W - 0.1 * outer(delta, x) }"))
    net(torch.ones(5, 6)).square().mean().backward()
    with pytest.raises(UserError, match="two layers share a tensor"):
        advance(net)
