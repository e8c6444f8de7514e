"""Rules that read errors from far away, in networks as people write them: outputs, sequences, checkpoints, threads."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field, fields
from types import SimpleNamespace

import pytest
import torch
from backends.torch import small
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, observe, optimizers
from ruledsl_torch.network import inner, state_of

DFA = "direct_feedback_alignment"
DIRECT = [DFA, "direct_kolen_pollack", "direct_sign_symmetry"]
LABELS = torch.tensor([0, 1, 2, 1, 0])


@dataclass
class ModelOutput(OrderedDict):
    """As that of transformers: a dictionary of the fields that are not None, rebuilt from its keys."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                OrderedDict.__setitem__(self, each.name, value)

    def __setitem__(self, key, value):
        raise AssertionError("a network's own output is left alone")


@dataclass(frozen=True)
class Plain:
    logits: torch.Tensor
    name: str = "plain"


@dataclass(frozen=True)
class Derived:
    logits: torch.Tensor
    classes: int = field(init=False, default=3)


Pair = namedtuple("Pair", "hidden logits")

OUTPUTS = {
    "dict": (lambda h, u: {"hidden": h, "logits": u}, "logits"),
    "tuple": (lambda h, u: (h, u), -1),
    "list": (lambda h, u: [u, h], 0),
    "namedtuple": (lambda h, u: Pair(h, u), "logits"),
    "nested": (lambda h, u: {"head": [h, {"scores": u}], "count": 3}, "head.1.scores"),
    "ModelOutput": (lambda h, u: ModelOutput(logits=u, hidden_states=(h,)), "logits"),
    "dataclass": (lambda h, u: Plain(u), "logits"),
    "no constructor": (lambda h, u: Derived(u), "logits"),
    "object": (lambda h, u: SimpleNamespace(logits=u), "logits"),
    "function": (lambda h, u: {"a.b": (u, h)}, lambda output: output["a.b"][0]),
}


class Wrapped(nn.Module):
    """The network of `small.mlp` with another output."""

    def __init__(self, wrap=lambda h, u: u):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)
        self.wrap = wrap

    def forward(self, x):
        h = torch.tanh(self.fc2(torch.relu(self.fc1(x))))
        return self.wrap(h, self.fc3(h))


def x_of(*shape):
    return torch.randn(*(shape or (5, 6)), generator=torch.Generator().manual_seed(1))


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_close(found, expected):
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def expected(rule, example=True):
    """What the same network learns where its output are the logits."""
    net = convert(Wrapped(), rule, example=x_of() if example else None, seed=0)
    return gradients(net, F.cross_entropy(net(x_of()), LABELS))


def read(output, where):
    if callable(where):
        return where(output)
    for key in [where] if isinstance(where, int) else where.split("."):
        key = int(key) if str(key).lstrip("-").isdigit() else key
        output = output[key] if isinstance(output, dict) or isinstance(key, int) else getattr(output, key)
    return output


# --- outputs ---


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_logits_are_found_in_any_output_which_stays_what_it_is(kind, example):
    wrap, where = OUTPUTS[kind]
    plain = Wrapped(wrap)(x_of())
    net = convert(Wrapped(wrap), DFA, example=x_of() if example else None, logits=where, seed=0)
    for _ in range(2):
        output = net(x_of())
        assert type(output) is type(plain) and str(output)[:20] == str(plain)[:20]
        assert torch.equal(read(output, where), read(plain, where))
        assert_close(gradients(net, F.cross_entropy(read(output, where), LABELS)), expected(DFA, example))


@pytest.mark.parametrize("kind", ["dict", "tuple", "ModelOutput", "dataclass", "function"])
def test_networks_with_any_output_compile_to_one_graph(kind):
    torch._dynamo.reset()
    wrap, where = OUTPUTS[kind]
    net = convert(Wrapped(wrap), DFA, example=x_of(), logits=where, seed=0)
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            found = gradients(net, F.cross_entropy(read(run(x_of()), where), LABELS))
    assert_close(found, expected(DFA))


def test_an_output_of_several_tensors_says_what_there_is_to_name():
    wrap = OUTPUTS["dict"][0]
    net = Wrapped(wrap)
    with pytest.raises(UserError, match=r"(?s)dict with hidden, logits.*logits="):
        convert(net, DFA, example=x_of())
    assert type(net.fc1) is nn.Linear
    with pytest.raises(UserError, match=r"(?s)no logit: it is dict with hidden, logits"):
        convert(net, DFA, example=x_of(), logits="logit")
    with pytest.raises(UserError, match="computed from it"):
        convert(net, DFA, example=x_of(), logits=lambda output: output["logits"][:, :2])
    for nonsense in (2.5, True, nn.Linear(2, 2)):
        with pytest.raises(UserError, match="takes a key of the output"):
            convert(net, DFA, example=x_of(), logits=nonsense)
    late = convert(Wrapped(wrap), DFA)
    with pytest.raises(UserError, match=r"(?s)dict with hidden, logits.*logits="):
        late(x_of())


def test_a_network_may_return_more_in_training_than_in_evaluation():
    class Auxiliary(Wrapped):
        def forward(self, x):
            h = torch.relu(self.fc1(x))
            u = self.fc3(torch.tanh(self.fc2(h)))
            return Pair(h, u) if self.training else u

    net = convert(Auxiliary(), DFA, example=x_of(), logits="logits", seed=0)
    assert_close(gradients(net, F.cross_entropy(net(x_of()).logits, LABELS)), expected(DFA))
    net.eval()
    assert_close(gradients(net, F.cross_entropy(net(x_of()), LABELS)), expected(DFA))
    with pytest.raises(UserError, match="a function that fails on Tensor"):
        convert(Auxiliary().eval(), DFA, example=x_of(), logits=lambda output: output.logits)
    with pytest.raises(UserError, match="computed from it"):
        convert(Wrapped(), DFA, example=x_of(), logits=lambda output: output[:, :2])


def test_rules_that_read_no_error_from_far_away_take_any_output():
    net = convert(Wrapped(OUTPUTS["dict"][0]), "feedback_alignment", example=x_of(), seed=0)
    found = gradients(net, F.cross_entropy(net(x_of())["logits"], LABELS))
    assert_close(found, expected("feedback_alignment"))


LOOKING = """
rule looking {
  fixed B : out -> pre ~ kaiming()
  state m : post = 0
  feedback send = B @ e
  phase look { m <- total(mean(u, batch)) }
  schedule { each step : task, look }
  locality { allow broadcast(e) -> send  allow pool(batch) -> m }
}
"""


def after_two_steps(net, loss):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    while net.ruledsl.step < 2:
        optimizer.zero_grad()
        loss(net(x_of())).backward()
        optimizer.step()
        advance(net)
    return net.state_dict()


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("kind", ["dict", "ModelOutput", "nested", "object"])
def test_phases_without_errors_take_any_output(kind, module):
    wrap, where = OUTPUTS[kind]
    rule = ruledsl.parse(LOOKING)
    plain = convert(Wrapped(), rule, example=x_of(), seed=0)
    expected = after_two_steps(plain, lambda output: F.cross_entropy(output, LABELS))
    net = Wrapped(wrap)
    convert(net, rule, example=x_of(), logits=net.fc3 if module else where, seed=0)
    found = after_two_steps(net, lambda output: F.cross_entropy(read(output, where), LABELS))
    assert_close(found, expected)
    assert found["fc2.m"].any()


def test_phases_without_errors_compile_with_any_output():
    torch._dynamo.reset()
    net = convert(Wrapped(OUTPUTS["dict"][0]), ruledsl.parse(LOOKING), example=x_of(), logits="logits", seed=0)
    twin = copy.deepcopy(net)
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    while net.ruledsl.step < 2:
        optimizer.zero_grad()
        F.cross_entropy(run(x_of())["logits"], LABELS).backward()
        optimizer.step()
        advance(net)
    assert_close(net.state_dict(), after_two_steps(twin, lambda output: F.cross_entropy(output["logits"], LABELS)))


# --- what follows the logits ---


def with_loss(h, u):
    return {"loss": F.cross_entropy(u, LABELS), "logits": u, "hidden": h}


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
@pytest.mark.parametrize("example", [True, False])
def test_a_loss_inside_the_network_does_not_see_the_zeros_and_is_refused(example, kind):
    net = Wrapped(lambda h, u: kind(**with_loss(h, u)))
    with pytest.raises(UserError, match=r"(?s)loss in the network's output.*loss\(net\(x\)\.logits, labels\)"):
        convert(net, DFA, example=x_of() if example else None, logits="logits")
        net(x_of())


@pytest.mark.parametrize("rule", DIRECT)
def test_a_module_that_makes_the_logits_serves_a_loss_inside_and_outside(rule):
    net = Wrapped(with_loss)
    convert(net, rule, example=x_of(), logits=net.fc3, seed=0)
    assert_close(gradients(net, net(x_of())["loss"]), expected(rule))
    assert_close(gradients(net, F.cross_entropy(net(x_of())["logits"], LABELS)), expected(rule))
    twin = copy.deepcopy(net)
    assert_close(gradients(twin, twin(x_of())["loss"]), expected(rule))
    assert twin.fc3._forward_hooks and all(h.__self__ is twin.ruledsl for h in twin.fc3._forward_hooks.values())


SQUASHED = {
    "log_softmax": (lambda h, u: F.log_softmax(u, dim=1), F.nll_loss),
    "softmax": (lambda h, u: u.softmax(1).log(), F.nll_loss),
    "view": (lambda h, u: F.log_softmax(u, dim=1).view(-1, 3), F.nll_loss),
}


@pytest.mark.parametrize("kind", SQUASHED)
def test_probabilities_are_no_logits(kind):
    wrap, loss = SQUASHED[kind]
    with pytest.raises(UserError, match=r"(?s)ends in \w*Softmax.*logits=net\.head"):
        convert(Wrapped(wrap), DFA, example=x_of())
    late = convert(Wrapped(wrap), DFA)
    with pytest.raises(UserError, match=r"ends in \w*Softmax"):
        late(x_of())
    torch._dynamo.reset()
    compiled = torch.compile(convert(Wrapped(wrap), DFA), backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.InternalTorchDynamoError, match=r"(?s)ends in \w*softmax.*logits=net\.head"):
        compiled(x_of())
    net = Wrapped(wrap)
    convert(net, DFA, logits=net.fc3, example=x_of(), seed=0)
    assert_close(gradients(net, loss(net(x_of()), LABELS)), expected(DFA))
    convert(Wrapped(wrap), "drtp", example=x_of())  # which reads no error
    convert(Wrapped(wrap), "feedback_alignment", example=x_of())


def test_an_activation_is_where_the_errors_are_wanted_if_it_is_named():
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3), nn.Sigmoid())
    with pytest.raises(UserError, match="ends in Sigmoid"):
        convert(net, DFA, example=x_of())
    convert(net, DFA, example=x_of(), logits=net[3], seed=0)
    y = F.one_hot(LABELS, 3).float()
    output = net(x_of())
    found = gradients(net, F.mse_loss(output, y))
    below = (2 / y.numel() * (output - y)) @ net[2].B
    u = F.linear(x_of(), net[0].weight, net[0].bias)
    assert torch.allclose(found["0.bias"], (below * (1 - u.tanh() ** 2)).sum(0), atol=1e-6)


def test_a_named_module_compiles_to_one_graph():
    torch._dynamo.reset()
    net = Wrapped(SQUASHED["log_softmax"][0])
    convert(net, DFA, logits=net.fc3, seed=0)
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            found = gradients(net, F.nll_loss(run(x_of()), LABELS))
    assert_close(found, expected(DFA, example=False))


def test_layers_after_the_logits_are_told_nothing():
    net = small.mlp()
    with pytest.raises(UserError, match="fc3 runs after fc2"):
        convert(net, DFA, logits=net.fc2, example=x_of())
    same = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 3))
    convert(same, DFA, logits=same[0])
    with pytest.raises(UserError, match="ran after 0"):
        same(x_of())


class Critic(small.MLP):
    """Two heads on one trunk, of which one makes logits."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(5, 4)
        self.value = nn.Linear(4, 1)

    def forward(self, x):
        h = torch.tanh(self.fc2(torch.relu(self.fc1(x))))
        return {"logits": self.fc3(h), "value": self.value(torch.tanh(self.hidden(h)))}


def test_layers_beside_the_logits_are_not_told_the_error_of_these():
    net = Critic()
    with pytest.raises(UserError, match=r"(?s)hidden, value lead past the logits.*\"hidden\": \"backprop\", \"value\""):
        convert(net, DFA, example=x_of().float(), logits="logits")
    assert type(net.hidden) is nn.Linear
    rules = {"hidden": "backprop", "value": "backprop"}  # the line that mends it
    convert(net, DFA, example=x_of().float(), logits="logits", rules=rules, seed=0)
    net(x_of().float())["value"].sum().backward()
    assert net.hidden.weight.grad.any() and net.fc1.weight.grad is not None


def test_a_network_that_returns_its_loss_alone_names_the_module():
    net = Wrapped(lambda h, u: F.cross_entropy(u, LABELS))
    with pytest.raises(UserError, match=r"(?s)logits are \[\].*logits=\.\.\."):
        convert(net, DFA, example=x_of())
    with pytest.raises(UserError, match=r"(?s)output is \[\].*logits=net\.head"):
        convert(Wrapped(net.wrap), DFA)(x_of())
    convert(net, DFA, example=x_of(), logits=net.fc3, seed=0)
    assert_close(gradients(net, net(x_of())), expected(DFA))


def test_an_activity_of_other_examples_than_those_of_the_logits_is_refused():
    class Doubled(Wrapped):
        def forward(self, x):
            return super().forward(torch.cat([x, x])).chunk(2)[0]

    with pytest.raises(UserError, match=r"logits are \[5, 3\], and the activity of fc2 is \[10"):
        convert(Doubled(), DFA, seed=0)(x_of())


# --- sequences ---


class Tagger(nn.Module):
    """[batch, time] indices -> [batch, time, 3]"""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(11, 6), nn.Embedding(7, 6)
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.embed(x) + self.place(torch.arange(x.shape[1]))
        return self.fc3(torch.tanh(self.fc2(torch.relu(self.fc1(h)))))


TOKENS = torch.randint(11, (4, 7), generator=torch.Generator().manual_seed(2))
TAGS = torch.randint(3, (4, 7), generator=torch.Generator().manual_seed(3))


def tag_loss(logits):
    return F.cross_entropy(logits.flatten(0, -2), TAGS.flatten())


@pytest.mark.parametrize("rule", [*DIRECT, "drtp"])
def test_every_position_has_an_error_of_its_own(rule):
    net = convert(Tagger(), rule, example=TOKENS, seed=0)
    assert (net.fc2.M if rule == "direct_sign_symmetry" else net.fc2.B).shape == (3, 8)
    observe(net, target=TAGS)
    found = gradients(net, tag_loss(net(TOKENS)))
    by_hand = nn.Sequential(*(copy.deepcopy(each) for each in (net.fc1, nn.ReLU(), net.fc2, nn.Tanh(), net.fc3)))
    flat = convert(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)),
        rule,
        example=torch.zeros(2, 6, requires_grad=True),
    )
    for index in (0, 2, 4):
        flat[index].load_state_dict(by_hand[index].state_dict())
    h = (net.embed.weight[TOKENS] + net.place.weight).flatten(0, 1).detach().requires_grad_()
    observe(flat, target=TAGS.flatten())
    alone = gradients(flat, F.cross_entropy(flat(h), TAGS.flatten()))
    for name, index in {"fc1": 0, "fc2": 2, "fc3": 4}.items():
        for part in ("weight", "bias", "B", "C"):
            if f"{index}.{part}" in alone:
                assert torch.allclose(found[f"{name}.{part}"], alone[f"{index}.{part}"], atol=1e-6), (name, part)
    if rule in (DFA, "drtp"):  # the others decay
        assert torch.allclose(found["place.weight"], h.grad.view(4, 7, 6).sum(0), atol=1e-6)


def test_the_error_of_a_position_is_its_own_and_no_other():
    net = convert(Tagger(), DFA, example=TOKENS, seed=0)
    seen = []
    net.fc1.register_forward_hook(lambda m, i, o: seen.append(o.retain_grad() or o))
    logits = net(TOKENS)
    F.cross_entropy(logits[1, 3][None], TAGS[1, 3][None]).backward()
    touched = seen[0].grad.abs().sum(-1) > 0
    assert touched.sum() == 1 and touched[1, 3]
    e = logits[1, 3].softmax(0) - F.one_hot(TAGS[1, 3], 3)
    fc1 = F.linear(net.embed.weight[TOKENS[1, 3]] + net.place.weight[3], net.fc1.weight, net.fc1.bias)
    assert torch.allclose(seen[0].grad[1, 3], (e @ net.fc2.B) * (fc1 > 0), atol=1e-6)


def test_targets_of_sequences_are_indices_or_one_hot():
    found = []
    for target in (TAGS, F.one_hot(TAGS, 3), F.one_hot(TAGS, 3).float()):
        net = convert(Tagger(), "drtp", example=TOKENS, seed=0)
        observe(net, target=target)
        found.append(gradients(net, tag_loss(net(TOKENS))))
    assert_close(found[1], found[0])
    assert_close(found[2], found[0])
    with pytest.raises(UserError, match=r"where \[batch, \*positions\] or \[batch, \*positions, 3\] was expected"):
        observe(net, target=TAGS[0])
    observe(net, target=TAGS[:2])
    with pytest.raises(UserError, match="a target for 14 examples for this batch of 28"):
        net(TOKENS)
    observe(net, target=torch.where(TAGS == 0, -100, TAGS))
    assert (net.ruledsl.target.sum(-1) == (TAGS != 0)).all()


def test_another_rule_for_the_last_layer_of_a_sequence():
    net = convert(Tagger(), DFA, output="backprop", example=TOKENS, seed=0)
    logits = net(TOKENS)
    e = torch.autograd.grad(tag_loss(logits), logits, retain_graph=True)[0].flatten(0, 1)
    found = gradients(net, tag_loss(logits))
    h = (net.embed.weight[TOKENS] + net.place.weight).flatten(0, 1)
    u1 = F.linear(h, net.fc1.weight, net.fc1.bias)
    u2 = F.linear(u1.relu(), net.fc2.weight, net.fc2.bias)
    delta2 = (e @ net.fc3.weight) * (1 - u2.tanh() ** 2)
    assert torch.allclose(found["fc2.weight"], delta2.t() @ u1.relu(), atol=1e-6)
    assert torch.allclose(found["fc1.bias"], ((e @ net.fc2.B) * (u1 > 0)).sum(0), atol=1e-6)


def test_sequences_of_another_length_and_compiled_ones():
    torch._dynamo.reset()
    net = convert(Tagger(), DFA, example=TOKENS, seed=0)
    expected = gradients(net, tag_loss(net(TOKENS)))
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert_close(gradients(net, tag_loss(run(TOKENS))), expected)
    loss = F.cross_entropy(net(TOKENS[:, :4]).flatten(0, 1), TAGS[:, :4].flatten())
    assert gradients(net, loss)["fc1.weight"].any()


class Odd(nn.Module):
    """[batch, 8, 6] -> [batch, 4, 3], or what `end` makes of it."""

    def __init__(self, end=lambda u: u, first=None):
        super().__init__()
        self.end, self.fc1, self.fc2 = end, first or nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.end(self.fc2(torch.relu(self.fc1(x))))


def test_positions_that_are_not_those_of_the_logits_are_refused():
    x = x_of(2, 8, 6)
    pooled = Odd(lambda u: u[:, ::2])
    with pytest.raises(UserError, match=r"the logits are \[2, 4, 3\].*, and the activity of fc1 is \[2, 8, 6\]"):
        convert(pooled, DFA, example=x)
    with pytest.raises(UserError, match="exchanges axes at its end"):
        convert(Odd(lambda u: u.transpose(1, 2)), DFA, example=x)
    with pytest.raises(UserError, match="the activity of fc1 is"):
        convert(Odd(first=nn.Conv1d(8, 8, 3, padding=1)), DFA, example=x)
    with pytest.raises(UserError, match="example="):
        convert(Odd(), DFA)(x)
    transposed = Odd(lambda u: u.transpose(1, 2))
    convert(transposed, DFA, example=x, logits=transposed.fc2)
    F.cross_entropy(transposed(x), torch.zeros(2, 8, dtype=torch.long)).backward()
    assert transposed.fc1.weight.grad.any()


def test_images_of_another_size_do_not_fit_maps_of_every_neuron():
    net = convert(Odd(lambda u: u.mean(1)), DFA, example=x_of(2, 8, 6), seed=0)
    for length in (1, 9):  # a gradient [batch, 8, 6] would be summed to [batch, 1, 6], and nobody would notice
        with pytest.raises(UserError, match=rf"\[2, {length}, 6\], and that of the example was \[2, 8, 6\]"):
            net(x_of(2, length, 6))


def test_logits_without_positions_reach_every_neuron_of_a_sequence_as_before():
    net = convert(Odd(lambda u: u.mean(1)), DFA, example=x_of(2, 8, 6), seed=0)
    assert net.fc2.B.shape == (3, 8, 6)
    assert gradients(net, F.cross_entropy(net(x_of(2, 8, 6)), LABELS[:2]))["fc1.weight"].any()


# --- checkpoints ---


class Checkpointed(nn.Module):
    """`small.mlp` with part of it checkpointed."""

    def __init__(self, reentrant, inside):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)
        self.reentrant, self.inside = reentrant, inside

    def forward(self, x):
        h = torch.relu(self.fc1(x))
        run = (lambda f, *a: checkpoint(f, *a, use_reentrant=self.reentrant)) if self.inside else lambda f, *a: f(*a)
        return self.fc3(run(lambda h: torch.tanh(self.fc2(h)), h))


FAR = [*DIRECT, "dense_feedback_alignment"]


@pytest.mark.parametrize("rule", FAR)
def test_a_checkpoint_inside_changes_no_number(rule):
    net = convert(Checkpointed(False, True), rule, example=x_of(), seed=0)
    for _ in range(2):
        assert_close(gradients(net, F.cross_entropy(net(x_of()), LABELS)), expected(rule))


@pytest.mark.parametrize("rule", DIRECT)
def test_a_reentrant_checkpoint_inside_is_refused_in_the_backward_pass(rule):
    net = convert(Checkpointed(True, True), rule, example=x_of(), seed=0)
    with pytest.raises(UserError, match="use_reentrant=False"):
        F.cross_entropy(net(x_of()), LABELS).backward()


def test_where_it_hides_what_lies_downstream_it_is_refused_before_anything_has_changed():
    net = Checkpointed(True, True)
    with pytest.raises(
        UserError, match=r"reads delta\[k\], and fc2 runs where autograd does not look.*use_reentrant=F"
    ):
        convert(net, "dense_feedback_alignment", example=x_of(), seed=0)
    assert type(net.fc1) is nn.Linear and not hasattr(net, "ruledsl")


def test_the_module_that_makes_the_logits_may_be_checkpointed():
    class Head(Wrapped):
        reentrant = False

        def forward(self, x):
            h = torch.relu(self.fc1(x))
            u = checkpoint(lambda h: self.fc3(torch.tanh(self.fc2(h))), h, use_reentrant=self.reentrant)
            return F.log_softmax(u, 1)

    net = Head()
    convert(net, DFA, example=x_of(), logits=net.fc3, seed=0)
    assert_close(gradients(net, F.nll_loss(net(x_of()), LABELS)), expected(DFA))
    net.reentrant = True
    with pytest.raises(UserError, match="use_reentrant=False"):
        F.nll_loss(net(x_of()), LABELS).backward()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("rule", FAR)
def test_a_checkpoint_around_the_network_changes_no_number(rule, reentrant):
    net = convert(Checkpointed(False, False), rule, example=x_of(), seed=0)
    x = x_of().requires_grad_(reentrant)  # with reentry nothing is differentiated but what comes in
    net = convert(Checkpointed(False, False), rule, example=x, seed=0)
    plain = gradients(net, F.cross_entropy(net(x), LABELS))
    assert_close(gradients(net, F.cross_entropy(checkpoint(net, x, use_reentrant=reentrant), LABELS)), plain)


# --- parts, threads, copies ---


@pytest.mark.parametrize("rule", FAR)
def test_a_part_of_a_converted_network_alone_says_what_to_do(rule):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    convert(net, rule, example=x_of())
    with pytest.raises(UserError, match=r"(?s)call the whole network.*no_grad"):
        net[:4](x_of())
    with torch.no_grad():
        assert net[:4](x_of()).shape == (5, 5)
    net(x_of()).sum().backward()


def test_a_converted_part_of_a_larger_network_reads_the_error_at_its_own_output():
    backbone, head = Wrapped(), nn.Linear(3, 2)
    convert(backbone, DFA, example=x_of(), seed=0)
    whole = nn.Sequential(backbone, nn.Tanh(), head)
    out = backbone(x_of()).detach().requires_grad_()
    loss = F.cross_entropy(head(torch.tanh(out)), LABELS % 2)
    (e,) = torch.autograd.grad(loss, out)
    found = gradients(whole, F.cross_entropy(whole(x_of()), LABELS % 2))
    plain = gradients(backbone, (backbone(x_of()) * e).sum())
    assert_close({n.removeprefix("0."): g for n, g in found.items() if n.startswith("0.")}, plain)


@pytest.mark.parametrize("rule", [DFA, "dense_feedback_alignment"])
def test_threads_do_not_see_the_zeros_of_each_other(rule):
    net = convert(Wrapped(), rule, example=x_of(), seed=0)
    batches = [torch.randn(5, 6) for _ in range(8)]

    def grads(x):
        loss = F.cross_entropy(net(x), LABELS)
        return torch.autograd.grad(loss, [net.fc1.weight, net.fc2.weight])

    one_by_one = [grads(x) for x in batches]
    meet = threading.Barrier(4)

    def together(*_):
        meet.wait(timeout=20)

    net.fc1.register_forward_hook(together)
    found = {}

    def work(index):
        for n in (index, index + 4):
            found[n] = grads(batches[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, expected_grads in enumerate(one_by_one):
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found[n], expected_grads, strict=True))


def test_a_forward_pass_in_a_forward_pass_has_its_own_errors():
    class Twice(Wrapped):
        def forward(self, x, again=True):
            if again:
                self.aside = self(x * 2, again=False)
            return super().forward(x)

    net = convert(Twice(), DFA, seed=0)
    reference = convert(Wrapped(), DFA, seed=0)
    outer = gradients(reference, F.cross_entropy(reference(x_of()), LABELS))
    aside = gradients(reference, F.cross_entropy(reference(2 * x_of()), LABELS))
    assert_close(gradients(net, F.cross_entropy(net(x_of()), LABELS)), outer)
    net(x_of())
    assert_close(gradients(net, F.cross_entropy(net.aside, LABELS)), aside)


def test_an_error_in_a_forward_pass_leaves_nothing_behind():
    net = convert(Wrapped(), DFA, example=x_of(), seed=0)
    with pytest.raises(RuntimeError):
        net(x_of(5, 7))
    assert net.ruledsl.running.output is None
    assert_close(gradients(net, F.cross_entropy(net(x_of()), LABELS)), expected(DFA))


def test_a_network_that_names_its_logits_is_pickled():
    net = convert(Carried(), DFA, example=x_of(), logits=lambda output: output["logits"], seed=0)
    twin = pickle.loads(pickle.dumps(net))
    assert_close(gradients(twin, F.cross_entropy(twin(x_of())["logits"], LABELS)), expected(DFA))


CHILD = """
import sys, torch
net, x = torch.load(sys.argv[1], weights_only=False)
net(x).sum().backward()
torch.save({name: p.grad for name, p in net.named_parameters()}, sys.argv[2])
"""


def test_another_process_makes_the_classes_of_sequences_and_of_several_rules(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    convert(net, DFA, output="backprop", example=TOKENS, seed=0)
    torch.save((net, TOKENS), tmp_path / "net")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", CHILD, tmp_path / "net", tmp_path / "found"], env=environment, check=True)
    assert_close(torch.load(tmp_path / "found"), gradients(net, net(TOKENS).sum()))


class Carried(Wrapped):
    def __init__(self):
        super().__init__(named)


def named(h, u):
    return {"hidden": h, "logits": u}


def test_wrapped_and_compiled_networks_are_told_as_the_network_itself():
    net = convert(Wrapped(), "drtp", example=x_of(), seed=0)
    compiled = torch.compile(net)
    parallel = nn.DataParallel(net)
    for wrapped in (net, compiled, parallel, torch.compile(parallel), nn.DataParallel(compiled)):
        assert inner(wrapped) is net and state_of(wrapped) is net.ruledsl
        observe(wrapped, target=LABELS)
        optimizers(wrapped, task=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        advance(wrapped)
    assert net.ruledsl.step == 5


# --- torch.func ---


@pytest.mark.parametrize("rule", FAR)
def test_an_ensemble_is_its_members(rule):
    members = [convert(Wrapped(), rule, example=x_of(), seed=seed) for seed in range(2)]
    parameters, buffers = stack_module_state(members)
    base, x = copy.deepcopy(members[0]), x_of()

    def loss(own, fixed):
        return F.cross_entropy(functional_call(base, {**own, **fixed}, (x,)), LABELS)

    found = vmap(grad(loss))({name: p.detach() for name, p in parameters.items()}, buffers)
    for index, member in enumerate(members):
        alone = gradients(member, F.cross_entropy(member(x), LABELS))
        assert_close({name: value[index] for name, value in found.items()}, alone)


@pytest.mark.parametrize("rule", FAR)
def test_jacrev_is_one_backward_pass_for_each_output(rule):
    net = convert(Wrapped(), rule, example=x_of().requires_grad_(), seed=0)
    found = jacrev(lambda z: net(z).sum(0))(x_of())
    z = x_of().requires_grad_()
    (expected,) = torch.autograd.grad(net(z).sum(0)[1], z)
    assert torch.allclose(found[1], expected, atol=1e-6) and expected.any()


def test_functional_call_and_grad_with_a_named_module():
    net = Wrapped(with_loss)
    convert(net, DFA, example=x_of(), logits=net.fc3, seed=0)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    found = grad(lambda own: functional_call(net, {**own, **dict(net.named_buffers())}, (x_of(),))["loss"])(parameters)
    assert_close(found, expected(DFA))


@pytest.mark.parametrize("rule", DIRECT)
@pytest.mark.parametrize("batched", [True, False])
def test_gradients_of_each_example_under_vmap(rule, batched):
    net = convert(Wrapped(), rule, example=x_of(), seed=0)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def loss(parameters, x, label):
        return F.cross_entropy(functional_call(net, {**parameters, **buffers}, (x,)), label)

    x, labels = (x_of()[:, None], LABELS[:, None]) if batched else (x_of(), LABELS)
    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)
    for index in range(5):
        alone = gradients(net, F.cross_entropy(net(x_of()[index : index + 1]), LABELS[index : index + 1]))
        assert_close({name: each[name][index] for name in alone}, alone)
