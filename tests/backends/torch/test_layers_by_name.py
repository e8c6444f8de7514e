"""Which layer follows which rule: by its name, by its place at the network's output, or as all others do."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from backends.torch import small
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import ruledsl
from ruledsl.errors import RuleWarning, UserError
from ruledsl_torch import advance, convert, observe, optimizers

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


class Parts(nn.Module):
    """Layers of given names: Linear(6, 6) each, run as `forward` says."""

    def __init__(self, **layers):
        super().__init__()
        torch.manual_seed(0)
        for name in layers:
            self.add_module(name, nn.Linear(6, 6))


def rules_of(net):
    return {name: layer.rule for name, layer in net.ruledsl.layers.items()}


def at_output(net, **options):
    """The layers to which `output` went."""
    convert(net, "feedback_alignment", output="backprop", **options)
    return {name for name, rule in rules_of(net).items() if rule == "backprop"}


# --- names ---


def test_the_first_pattern_that_fits_counts_and_the_rule_is_for_what_none_fits():
    rules = {"conv1": "usf", "conv*": ("kolen_pollack", {"decay": 0.5})}
    net = convert(small.convnet(), "feedback_alignment", rules=rules)
    assert rules_of(net) == {
        "conv1": "usf",
        "conv2": "kolen_pollack",
        "conv3": "kolen_pollack",
        "fc": "feedback_alignment",
    }
    assert net.conv3.decay == 0.5


def test_patterns_may_name_everything():
    rules = {"fc3": "backprop", "*": ruledsl.load("kolen_pollack", decay=0.25)}
    net = convert(small.mlp(), rules=rules)
    assert list(rules_of(net).values()) == ["kolen_pollack", "kolen_pollack", "backprop"]
    assert net.fc1.decay == 0.25


def test_equal_rules_with_other_parameters_stand_side_by_side():
    rules = {"fc1": ("kolen_pollack", {"decay": 0.5}), "*": ("kolen_pollack", {"decay": 0.1})}
    net = convert(small.mlp(), rules=rules)
    assert (net.fc1.decay, net.fc2.decay) == (0.5, 0.1)
    observe(net, decay=0.3)
    assert float(net.fc1.decay) == float(net.fc3.decay) == pytest.approx(0.3)


def test_parameters_of_the_call_go_to_the_rule():
    net = convert(small.mlp(), "kolen_pollack", rules={"fc1": "kolen_pollack"}, decay=0.25)
    assert (net.fc1.decay, net.fc2.decay) == (0.0001, 0.25)


def test_none_leaves_a_layer_alone_and_it_learns_by_autograd_from_what_reaches_it():
    net, x, labels = small.mlp(), *small.batch(small.mlp())
    convert(net, "feedback_alignment", rules={"fc1": None, "fc3": None}, seed=0)
    assert type(net.fc1) is nn.Linear and type(net.fc3) is nn.Linear
    assert net.ruledsl.skipped == dict.fromkeys(("fc1", "fc3"), "left alone, as rules= says")
    found = small.gradients(net, x, labels)
    u1 = F.linear(x, net.fc1.weight, net.fc1.bias)
    u2 = net.fc2(torch.relu(u1))
    delta3 = (torch.softmax(net.fc3(torch.tanh(u2)), 1) - F.one_hot(labels, 3)) / len(x)
    delta2 = delta3 @ net.fc3.weight * (1 - torch.tanh(u2) ** 2)  # fc3 is plain: the exact error
    delta1 = delta2 @ net.fc2.B * (u1 > 0)  # and below fc2 what it sends
    assert torch.allclose(found["fc3.weight"], delta3.t() @ torch.tanh(u2), atol=1e-6)
    assert torch.allclose(found["fc1.weight"], delta1.t() @ x, atol=1e-6)


def test_leaving_layers_alone_is_no_reason_to_warn(recwarn):
    net = nn.Sequential(nn.Bilinear(3, 3, 3), nn.Linear(3, 3))
    convert(net, "feedback_alignment", rules={"0": None})
    assert not [each for each in recwarn if issubclass(each.category, RuleWarning)]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"fc9": "usf", "*": "usf"}, r"(?s)'fc9' of rules names no layer of fc1, fc2, fc3.*did you mean"),
        ({"fc1": "usf"}, r"(?s)no pattern of rules names fc2, fc3.*\"\*\""),
        ({"*": "usf", "fc1": "backprop"}, r"'fc1' of rules decides nothing: '\*' stands before it"),
        ({"*": None}, "leave every layer alone"),
        ({}, "no rule"),
        (["fc1"], "rules is list"),
        ({"fc1": ("usf", 3), "*": "usf"}, "is no rule"),
        ({"*": ("kolen_pollack", {"dekay": 1.0})}, "did you mean `decay`"),
    ],
)
def test_rules_that_say_nothing_are_refused(rules, said):
    net = small.mlp()
    with pytest.raises(UserError, match=said):
        convert(net, rules=rules)
    assert type(net.fc1) is nn.Linear and not hasattr(net, "ruledsl")


def test_a_pattern_for_a_container_says_how_to_name_its_layers():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"its layers are '0\.\*'"):
        convert(net, rules={"0": "usf", "*": "backprop"})


def test_a_pattern_for_what_cannot_follow_a_rule_says_why():
    net = nn.Sequential(nn.Bilinear(3, 3, 3), nn.Linear(3, 3))
    with pytest.raises(UserError, match="0, which cannot follow a rule: Bilinear is no Linear"):
        convert(net, rules={"0": "usf", "1": "usf"})


@pytest.mark.parametrize(
    "rules",
    [
        {"conv1": "weight_mirror", "conv2": "kolen_pollack", "*": "usf"},
        {"conv1": "direct_feedback_alignment", "conv2": "activation_alignment", "fc": "usf", "*": "backprop"},
        {"conv1": "dense_feedback_alignment", "conv2": "kolen_pollack", "fc": "drtp", "*": None},
    ],
    ids=["driven", "phases", "dense"],
)
def test_networks_of_many_rules_learn(rules):
    net, (x, labels) = small.convnet(), small.batch(small.convnet())
    convert(net, rules=rules, example=x, seed=0)
    optimizer = optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.05))
    before = copy.deepcopy(net.state_dict())
    for _ in range(4):
        observe(net, target=labels)
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
        advance(net)
    still = {name for name, p in net.named_parameters() if torch.equal(p, before[name])}
    assert still <= {"conv1.bias"}  # which batch normalisation takes away again
    assert all(value.isfinite().all() for value in net.state_dict().values())


# --- the output ---


class TrainingHead(Parts):
    """Its head `aux` runs only in training."""

    def forward(self, x):
        h = torch.relu(self.body(x))
        return (self.head(h), self.aux(h)) if self.training else self.head(h)


def test_a_layer_that_never_runs_gets_nothing_of_the_output():
    class Unused(Parts):
        def forward(self, x):
            return self.head(torch.relu(self.body(x)))

    net = Unused(body=1, head=1, unused=1)
    with pytest.warns(RuleWarning, match=r"(?s)unused did not run.*rules="):
        assert at_output(net, example=X) == {"head"}
    plain = Unused(body=1, head=1, unused=1)
    labels = torch.arange(5)
    right, found = (small.gradients(each, X, labels)["head.weight"] for each in (plain, net))
    assert small.relative(found, right) <= 1e-6


def test_the_networks_own_mode_says_what_the_output_is():
    assert at_output(TrainingHead(body=1, aux=1, head=1), example=X) == {"aux", "head"}
    net = TrainingHead(body=1, aux=1, head=1).eval()
    with pytest.warns(RuleWarning, match=r"aux did not run"):
        assert at_output(net, example=X) == {"head"}
    assert net.aux.input_shape == (5, 6)  # as the other mode shows


@dataclass
class Answer:
    """An output as libraries make it."""

    first: torch.Tensor
    more: dict


@pytest.mark.parametrize(
    "made",
    [lambda a, b: (a, [b]), lambda a, b: {"one": a, "two": {"b": b}}, lambda a, b: Answer(a, {"b": b})],
    ids=["tuple", "dict", "dataclass"],
)
def test_all_heads_get_the_output_in_whatever_form_they_return(made):
    class Heads(Parts):
        def forward(self, x):
            h = torch.relu(self.body(x))
            return made(F.relu(self.one(h), inplace=True), self.norm(self.two(h)).log_softmax(1))

    net = Heads(two=1, one=1, body=1)
    net.norm = nn.BatchNorm1d(6)
    assert at_output(net, example=X) == {"one", "two"}


def test_a_way_around_the_last_layer_is_a_way_to_the_output():
    class Around(Parts):
        def forward(self, x):
            return self.last(torch.relu(self.body(x))) + self.around(x)

    assert at_output(Around(around=1, body=1, last=1), example=X) == {"around", "last"}


def test_a_layer_that_runs_twice_is_at_the_output_when_its_last_visit_is():
    class Twice(Parts):
        def forward(self, x):
            return self.loop(torch.relu(self.body(torch.relu(self.loop(x)))))

    net = Twice(body=1, loop=1)
    assert at_output(net, example=X) == {"loop"}
    assert net.ruledsl.roles == {"loop": "output", "body": "hidden"}  # its second visit sends to body


def test_what_comes_out_of_an_unconverted_module_comes_out_of_no_layer():
    class Recurrent(Parts):
        def forward(self, x):
            return self.lstm(self.body(x)[None])[0]

    net = Recurrent(body=1)
    net.lstm = nn.LSTM(6, 3)
    with pytest.raises(UserError, match=r"output comes from lstm \(LSTM is no Linear"):
        at_output(net, example=X)


def test_an_output_that_is_not_clear_is_refused_with_the_candidates():
    class Features(Parts):
        def forward(self, x):
            h = self.body(x)
            return self.head(torch.relu(h)), h

    with pytest.raises(UserError, match=r"(?s)body also feeds head: output= could mean body, head.*rules=\{'head'"):
        at_output(Features(body=1, head=1), example=X)

    class Hidden(Parts):
        def forward(self, x):
            return torch.relu(
                checkpoint(lambda v: self.head(torch.relu(self.body(v))), self.stem(x), use_reentrant=True)
            )

    with pytest.raises(UserError, match=r"where autograd does not look.*could mean stem"):
        at_output(Hidden(stem=1, body=1, head=1), example=X)


def test_without_an_example_only_a_chain_shows_its_end():
    def block(*more):
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), *more)

    assert at_output(nn.Sequential(block(), block(nn.Linear(6, 3)), nn.Softmax(1))) == {"1.2"}
    shared = nn.Linear(6, 6)
    assert at_output(nn.Sequential(shared, nn.ReLU(), nn.Linear(6, 6), shared)) == {"0"}
    assert at_output(nn.Linear(6, 3)) == {""}
    with pytest.raises(UserError, match=r"(?s)only an example=x.*could mean fc1, fc2, fc3.*rules=\{'fc3'"):
        at_output(small.mlp())


def test_output_stands_before_the_patterns_and_not_against_them():
    net = convert(small.mlp(), rules={"fc1": "usf", "*": "kolen_pollack"}, output="backprop", example=X)
    assert list(rules_of(net).values()) == ["usf", "kolen_pollack", "backprop"]
    with pytest.raises(UserError, match="rules names fc3, and so does output"):
        convert(small.mlp(), "usf", rules={"fc3": "kolen_pollack"}, output="backprop", example=X)


# --- the example ---


def test_an_example_in_training_leaves_no_trace():
    class Noisy(Parts):
        def __init__(self):
            super().__init__(fc=1)
            self.norm = nn.BatchNorm1d(6)
            self.register_buffer("mean", torch.zeros(6))
            self.register_buffer("last", None)

        def forward(self, x):
            if self.training:
                self.mean.mul_(0.9).add_(x.mean(0))
                self.last = x
            return self.norm(F.dropout(self.fc(x), training=self.training))

    net = Noisy()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    convert(net, "backprop", example=X[:1])  # one example: batch normalisation would refuse it
    assert torch.equal(torch.get_rng_state(), random) and net.last is None and net.norm.training
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_examples_may_be_several_inputs_by_place_or_by_keyword():
    class Sum(Parts):
        def forward(self, x, *, y=None, z=None):
            return self.head(torch.relu(self.one(x))) if y is None else self.head(self.one(x) + self.two(y["y"]))

    class Pair(Parts):
        def forward(self, x, y):
            return self.head(self.one(x) + self.two(y))

    for net, example in (
        (Pair(one=1, two=1, head=1), (X, X)),
        (Sum(one=1, two=1, head=1), {"x": X, "y": {"y": X}}),
    ):
        assert at_output(net, example=example) == {"head"}
        assert list(net.ruledsl.layers) == ["one", "two", "head"]


def test_an_input_by_keyword_has_no_place_in_a_rule():
    class Keyword(Parts):
        def forward(self, x):
            return self.head(input=x)

    with pytest.raises(UserError, match="head is called with its input by keyword"):
        convert(Keyword(head=1), "usf", example=X)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (
            torch.zeros(5, 7),
            r"fc1, Linear\(in_features=6, .*got \[5, 7\] of torch.float32, and raised RuntimeError: .*cannot be "
            r"multiplied",
        ),
        (torch.zeros(5, 6).long(), r"fc1, Linear\(.*got \[5, 6\] of torch.int64"),
        ((X, X), r"the network got .*positional arguments"),
        ({"y": X}, r"the network got .*unexpected keyword argument 'y'"),
        ("x", r"fc1, .*got no tensor"),
    ],
)
def test_an_example_that_does_not_fit_names_the_layer_and_what_it_got(example, said):
    net = small.mlp()
    with pytest.raises(UserError, match=r"(?s)the example does not fit: " + said):
        convert(net, "backprop", example=example)
    assert type(net.fc1) is nn.Linear and net.training and not any(module._forward_hooks for module in net.modules())
