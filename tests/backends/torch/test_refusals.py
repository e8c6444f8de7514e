"""What `convert` refuses, in words, with the network as it was."""

from __future__ import annotations

import copy
import warnings
from types import MethodType

import pytest
import torch
from backends.torch import small
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ruledsl.errors import RuleWarning, UserError
from ruledsl_torch import advance, convert, observe, optimizers


def converted(rule):
    """A network of three layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        return convert(small.mlp(), rule)


CALLS = {
    "a function": (lambda: convert(lambda x: x, "usf"), "convert changes an nn.Module, and <lambda> is none"),
    "a class": (lambda: convert(small.MLP, "usf"), r"(?s)MLP is a class.*convert\(MLP\(...\)"),
    "no rule": (lambda: convert(small.mlp()), "was given no rule"),
    "a layer for a rule": (lambda: convert(small.mlp(), "usf", output=nn.Linear(2, 2)), "not the layer Linear"),
    "a layer among rules": (lambda: convert(small.mlp(), rules={"*": nn.Linear(2, 2)}), "not the layer Linear"),
    "a number": (lambda: convert(small.mlp(), 3), "3 is no rule"),
    "a class for a rule": (lambda: convert(small.mlp(), nn.Linear), "is no rule"),
    "a mapping": (lambda: convert(small.mlp(), {"*": "usf"}), r"convert\(net, rules="),
    "a misspelt option": (lambda: convert(small.mlp(), "usf", ouptut="backprop"), "(?s)no argument `ouptut`.*`output`"),
    "a misspelt parameter": (lambda: convert(small.mlp(), "kolen_pollack", dekay=1.0), "did you mean `decay`"),
    "a parameter of no rule": (lambda: convert(small.mlp(), rules={"*": "usf"}, decay=1.0), "decay belongs to no rule"),
    "activations": (lambda: convert(small.mlp(), "usf", activations=torch.relu), "where activations by the names"),
    "an activation": (lambda: convert(small.mlp(), "usf", activations={"fc1": 3}), "fc1 is 3, which is no function"),
    "a constraint": (lambda: convert(small.mlp(), "usf", constraints=5), "5 is no constraint"),
    "a rule for a constraint": (lambda: convert(small.mlp(), "usf", constraints="usf"), "usf is no constraint"),
    "an optimizer": (lambda: convert(small.mlp(), "adam"), "adam is no learning rule"),
    "a seed": (lambda: convert(small.mlp(), "usf", seed="a"), "seed is 'a', which is no whole number"),
    "a number for a generator": (lambda: convert(small.mlp(), "usf", generator=7), "generator is 7, which is no"),
    "a tensor for a parameter": (
        lambda: convert(small.mlp(), "kolen_pollack", decay=torch.tensor(0.1)),
        r"(?s)decay is a tensor.*decay=decay\.item\(\)",
    ),
    "what replicates": (
        lambda: convert(nn.DataParallel(small.mlp()), "usf"),
        r"(?s)DataParallel stands around.*DataParallel\(convert\(net, rule\)\)",
    ),
    "twice": (lambda: convert(converted("usf"), "usf"), "(?s)already follows usf.*unconvert"),
    "made for a factory": (
        lambda: optimizers(converted("usf"), task=torch.optim.SGD(small.mlp().parameters())),
        r"(?s)task= is SGD, where a function of.*lambda p",
    ),
    "a list of labels": (lambda: observe(converted("drtp"), target=[0, 1]), r"(?s)target is list.*as_tensor\(labels\)"),
    "a class too many": (lambda: observe(converted("drtp"), target=torch.tensor([0, 3])), "not among the 3"),
    "numbers for classes": (
        lambda: observe(converted("drtp"), target=torch.tensor([0.7, 0.2])),
        r"(?s)indices of classes are whole numbers.*target\.long\(\)",
    ),
    "a word for a number": (lambda: observe(converted("usf"), lr="fast"), "lr is 'fast', which is no number"),
    "what stands around": (lambda: advance(nn.ModuleDict({"a": converted("usf")})), r"(?s)what is in it was.*net\.a"),
    "what stands around, by number": (
        lambda: advance(nn.Sequential(converted("usf"), converted("usf"))),
        r"net\.get_submodule\('0'\) and with net\.get_submodule\('1'\)",
    ),
    "its layers alone": (lambda: advance(nn.Sequential(*converted("usf").children())), "those of a network that was"),
}


@pytest.mark.parametrize(("call", "said"), CALLS.values(), ids=CALLS)
def test_a_wrong_call_is_one_message(call, said):
    with pytest.raises(UserError, match=said):
        call()


def test_one_constraint_stands_for_itself():
    net = convert(small.mlp(), "usf", constraints="frozen_signs")
    assert [each.rule for each in net.fc1.constraints] == ["frozen_signs"]


def own_forward(net):
    net.fc2.forward = MethodType(lambda self, x: 2 * F.linear(x, self.weight, self.bias), net.fc2)


def complex_weights(net):
    net.fc2 = nn.Linear(8, 5, dtype=torch.complex64)


def without_values(net):
    net.fc2.to("meta")


NETWORKS = {
    "own forward": (own_forward, r"(?s)fc2 has a forward of its own.*del net\.fc2\.forward"),
    "complex": (complex_weights, r"(?s)fc2 has complex weights.*rules=\{'fc2': None\}"),
    "meta": (without_values, r"(?s)fc2 is on the device meta.*to_empty"),
}


@pytest.mark.parametrize(("change", "said"), NETWORKS.values(), ids=NETWORKS)
def test_a_layer_that_would_not_learn_as_its_rule_says_is_refused(change, said):
    net = small.mlp()
    change(net)
    before = {name: (type(m), set(m.__dict__), dict(m._parameters)) for name, m in net.named_modules()}
    with pytest.raises(UserError, match=said):
        convert(net, "kolen_pollack")
    assert {name: (type(m), set(m.__dict__), dict(m._parameters)) for name, m in net.named_modules()} == before


@pytest.mark.parametrize("change", [own_forward, complex_weights])
def test_the_line_that_mends_it_does(change):
    net = small.mlp()
    change(net)
    convert(net, "kolen_pollack", rules={"fc2": None})
    assert type(net.fc2) is nn.Linear and list(net.ruledsl.layers) == ["fc1", "fc3"]


def test_weights_of_inference_mode_are_refused_and_its_block_alone_does_no_harm():
    with torch.inference_mode():
        made = small.mlp()
    with pytest.raises(UserError, match="made in inference mode"):
        convert(made, "kolen_pollack")
    net, (x, labels) = small.mlp(), small.batch(small.mlp())
    with torch.inference_mode():
        convert(net, "kolen_pollack")
    assert small.gradients(net, x, labels)["fc2.B"] is not None
    with torch.no_grad():
        convert(small.mlp(), "kolen_pollack", output="backprop", example=x)


def test_a_lazy_layer_is_not_made_by_the_example():
    net = nn.Sequential(nn.Linear(6, 4), nn.LazyLinear(3))
    with pytest.raises(UserError, match="1, a LazyLinear, has no weights before its first batch"):
        convert(net, "usf", example=torch.zeros(2, 6))
    assert type(net[1]) is nn.LazyLinear


def test_what_could_not_be_converted_learns_from_what_a_rule_sends_and_the_warning_says_so():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(24, 3))
    plain, x, labels = copy.deepcopy(net), torch.randn(5, 2, 6), torch.tensor([0, 1, 2, 1, 0])
    with pytest.warns(
        RuleWarning, match=r"(?s)0: padding_mode='circular'.*below a converted layer.*no exact gradient"
    ) as said:
        convert(net, "feedback_alignment", seed=0)
    assert said[0].filename == __file__
    right, found = (small.gradients(each, x, labels)["0.weight"].flatten() for each in (plain, net))
    assert F.cosine_similarity(found, right, dim=0) < 0.9
    delta = (torch.softmax(net(x), 1) - F.one_hot(labels, 3)) / 5
    sent = (delta @ net[2].B).view(5, 4, 6)
    expected = torch.autograd.grad(net[0](x), net[0].weight, sent)[0].flatten()
    assert torch.allclose(found, expected, atol=1e-6)


class Elsewhere(small.MLP):
    """A network that reads the weight of a layer beside calling it, or instead of that."""

    def __init__(self, how):
        super().__init__()
        self.fc2 = nn.Linear(8, 8)
        self.fc3 = nn.Linear(8, 3)
        self.how = how

    def forward(self, x):
        h = torch.relu(self.fc1(x))
        if self.how == "function":
            return self.fc3(F.linear(h, self.fc2.weight, self.fc2.bias))
        if self.how == "tied":
            return self.fc3(torch.tanh(F.linear(self.fc2(h), self.fc2.weight.T)))
        if self.how == "regularised":
            return self.fc3(self.fc2(h)), self.fc2.weight.square().sum()
        if self.how == "checkpoint":
            return self.fc3(checkpoint(self.fc2, h, use_reentrant=False))
        return self.fc3(torch.relu_(self.fc2(torch.relu_(self.fc2(h.expand(2, *h.shape))))).mean(0))


@pytest.mark.parametrize("how", ["function", "tied", "regularised"])
def test_weights_that_are_read_elsewhere_than_in_their_layer_are_told(how):
    with pytest.warns(RuleWarning, match=r"(?s)reads the weights of fc2 elsewhere.*net\.fc2\(x\)"):
        convert(Elsewhere(how), "feedback_alignment", example=torch.randn(4, 6))


@pytest.mark.parametrize("how", ["checkpoint", "twice"])
@pytest.mark.parametrize("wanted", [True, False])
def test_layers_that_are_called_in_whatever_way_are_not(how, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(Elsewhere(how), "feedback_alignment", example=torch.randn(4, 6, requires_grad=wanted))
