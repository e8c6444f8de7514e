"""Layers whose weight is computed from other parameters: the rule reads the weight, and its pseudo-gradient goes on."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from backends.loops import loops
from backends.torch import handwritten, small
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm

from ruledsl.errors import RuleWarning, UserError
from ruledsl_torch import advance, convert
from ruledsl_torch.layers import parametrised, replaced
from ruledsl_torch.routing import optimizers

every_rule = pytest.mark.parametrize("rule", loops.LIBRARY)
a_few = pytest.mark.parametrize("rule", loops.A_FEW)
LAYERS = {small.mlp: ("fc1", "fc2", "fc3"), small.convnet: ("conv1", "conv3")}
BUILDS = {small.MLP: small.mlp, small.ConvNet: small.convnet}
COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "hooked weight_norm": hooked_weight_norm,
    "hooked spectral_norm": hooked_spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}
every_way = pytest.mark.parametrize("way", COMPUTED)
ONCE = ("backprop_alignment", "backprop_noise", "direct_kolen_pollack", "direct_sign_symmetry", "kolen_pollack")
"""Rules by which more counts for W than backward passes bring: what its parameters get of that, nobody says."""
NEW = ("weight_norm", "spectral_norm", "orthogonal")


@pytest.fixture(autouse=True)
def _deprecated():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def compute(net, way, build):
    torch.manual_seed(3)
    for name in LAYERS[build]:
        COMPUTED[way](getattr(net, name))
    return net


def networks(rule, way, build, later):
    """One that follows a rule; the same one that learns by backpropagation; a batch, and its labels."""
    net, x, labels = loops.plain(build)
    if later:
        net = compute(loops.follow(net, rule, x, labels), way, build)
    else:
        net = loops.follow(compute(net, way, build), rule, x, labels)
    plain, _, _ = loops.plain(build)
    return net.train(), compute(plain, way, build).train(), x, labels


def expected(net, plain, rule, x, labels):
    """The rule's pseudo-gradients of the weights that `plain` computes, taken to its parameters by autograd."""
    own, _, _ = loops.plain(BUILDS[type(plain)])
    own = loops.follow(own, rule, x, labels).train()
    kept = net.state_dict()
    own.load_state_dict({name: kept[name] for name in own.state_dict() if name in kept and "norm" not in name}, False)
    plain(x)  # the step that spectral_norm takes, and what older hooks compute
    plain.eval()
    layers = [name for name in own.ruledsl.layers if parametrised(plain.get_submodule(name), "weight")]
    given = {f"{name}.weight": plain.get_submodule(name).weight for name in layers}
    F.cross_entropy(torch.func.functional_call(own, given, (x,)), labels).backward()
    return {name: p.grad for each in (plain, own) for name, p in each.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rule", [rule for rule in loops.LIBRARY if rule not in ONCE])
@every_way
@pytest.mark.parametrize("later", [False, True], ids=["before", "after"])
def test_the_pseudo_gradient_of_a_computed_weight_goes_on_to_what_it_is_computed_from(rule, way, later):
    net, plain, x, labels = networks(rule, way, small.mlp, later)
    found = loops.gradients(net, x, labels)
    loops.assert_same(found, expected(net, plain, rule, x, labels))


@pytest.mark.parametrize("rule", ONCE)
@every_way
def test_what_counts_once_a_step_is_refused_for_a_computed_weight(rule, way):
    with pytest.raises(UserError, match="moves the weight of a layer"):
        networks(rule, way, small.mlp, later=False)
    net, _, x, labels = networks(rule, way, small.mlp, later=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loops.gradients(net, x, labels)
    before = {name: value.clone() for name, value in net.named_parameters()}
    with pytest.raises(UserError, match="moves the weight of a layer"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())


@pytest.mark.parametrize("rule", [rule for rule in loops.A_FEW if rule not in ONCE])
@pytest.mark.parametrize("way", [way for way in COMPUTED if way != "orthogonal"])
def test_convolutions_too(rule, way):
    net, plain, x, labels = networks(rule, way, small.convnet, later=False)
    found = loops.gradients(net, x, labels)
    loops.assert_same(found, expected(net, plain, rule, x, labels))


@pytest.mark.parametrize(
    "rule", [rule for rule in loops.A_FEW if rule not in (*ONCE, "weight_mirror")]
)  # whose mirror phase asks
@every_way
def test_the_output_is_that_of_the_plain_network_step_by_step(rule, way):
    """Nothing of a rule asks for a weight where a shape or a device is meant: each time spectral_norm takes a step."""
    net, plain, x, _ = networks(rule, way, small.mlp, later=False)
    for _ in range(3):
        assert torch.equal(net(x), plain(x))
        advance(net)


@pytest.mark.parametrize("way", NEW)
def test_copies_compilation_and_the_way_back(way):
    torch._dynamo.reset()
    net, _, x, labels = networks("direct_feedback_alignment", way, small.mlp, later=False)
    net.eval()
    first = loops.gradients(net, x, labels)
    twin = copy.deepcopy(net)
    loops.assert_same(loops.gradients(twin, x, labels), first)
    assert twin.fc1.parametrizations.weight[0] is not net.fc1.parametrizations.weight[0]
    twin.zero_grad()
    F.cross_entropy(torch.compile(twin, fullgraph=True, backend="aot_eager")(x), labels).backward()
    loops.assert_same({name: p.grad for name, p in twin.named_parameters() if p.grad is not None}, first)
    other, _, _, _ = networks("direct_feedback_alignment", way, small.mlp, later=False)
    other.load_state_dict(net.state_dict())
    loops.assert_same(loops.gradients(other.eval(), x, labels), first)
    with pytest.raises(RuntimeError, match="state_dict"):  # as for every parametrized module
        pickle.dumps(net)
    for name in LAYERS[small.mlp]:
        parametrize.remove_parametrizations(getattr(net, name), "weight")
    last = loops.gradients(net, x, labels)
    assert {"fc1.weight", "fc2.weight"} <= last.keys() and torch.equal(last["fc3.bias"], first["fc3.bias"])
    assert not any(parametrised(layer, "weight") for layer in net.ruledsl.layers.values())


def test_a_network_that_is_one_layer():
    net = convert(parametrizations.weight_norm(nn.Linear(6, 3)), "direct_feedback_alignment", seed=0)
    F.cross_entropy(net(torch.randn(5, 6)), torch.arange(5) % 3).backward()
    assert all(p.grad is not None for p in net.parameters())
    parametrize.remove_parametrizations(net, "weight")
    F.cross_entropy(net(torch.randn(5, 6)), torch.arange(5) % 3).backward()
    assert net.weight.grad is not None


def test_it_trains():
    net, _, x, labels = networks("symmetric_alignment", "weight_norm", small.mlp, later=False)
    optimizer, losses = optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.5)), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        advance(net)
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# --- what is refused ---


@every_way
@pytest.mark.parametrize(
    "options",
    [{"constraints": ["constant_norm"]}, {"output": handwritten.hebbian}],
    ids=["a constraint", "a rule"],
)
def test_what_moves_a_weight_itself_is_refused_before_anything_has_changed(way, options):
    net, x, _ = loops.plain()
    COMPUTED[way](net.fc3)
    kinds, keys = [type(module) for module in net.modules()], list(net.state_dict())
    with pytest.raises(UserError, match="moves the weight of a layer"):
        convert(net, "feedback_alignment", example=x, **options)
    assert [type(module) for module in net.modules()] == kinds and list(net.state_dict()) == keys
    assert not hasattr(net, "ruledsl")


@every_way
def test_and_when_the_layer_was_parametrized_later_at_the_next_step(way):
    net = convert(small.mlp(), "feedback_alignment", constraints=["constant_norm"])
    COMPUTED[way](net.fc2)
    with pytest.raises(UserError, match="constant_norm moves the weight of a layer"):
        advance(net)


def test_a_phase_without_errors_reads_what_the_optimizer_left_of_a_pruned_weight():
    net, x, labels = loops.plain()
    prune.l1_unstructured(net.fc2, "weight", 0.3)
    loops.follow(net, "weight_mirror", x, labels)
    net(x)
    with torch.no_grad():
        net.fc2.weight_orig.add_(1)
    advance(net)
    assert torch.equal(net.fc2.weight, net.fc2.weight_orig * net.fc2.weight_mask)


# --- frozen, shared, wrapped, replaced ---


def test_frozen_feedback_is_the_users_word_and_a_warning_says_so_once():
    net = small.mlp()
    net.fc1.weight.requires_grad_(False)
    with pytest.warns(RuleWarning, match=r"net\.fc1\.B\.requires_grad_\(False\)"):
        convert(net, "kolen_pollack")
    net.fc2.weight.requires_grad_(False)
    with pytest.warns(RuleWarning, match=r"net\.fc2\.weight is frozen and B") as said:
        advance(net)
        advance(net)
    assert len(said) == 1


@pytest.mark.parametrize("rule", ["feedback_alignment", "symmetric_alignment", "direct_kolen_pollack"])
def test_nothing_is_said_where_the_feedback_follows_something_else(rule):
    net = small.mlp()
    net.fc1.weight.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        convert(net, rule, example=small.batch(net)[0])


@a_few
@pytest.mark.parametrize("later", [False, True], ids=["before", "after"])
def test_a_frozen_layer_hands_its_error_on_and_stays(rule, later):
    net, x, labels = loops.plain()
    expected, _, _ = loops.converted(rule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        if later:
            net = loops.follow(net, rule, x, labels)
        net.fc2.weight.requires_grad_(False)
        net = net if later else loops.follow(net, rule, x, labels)
    all_of_it = loops.gradients(expected, x, labels)
    all_of_it.pop("fc2.weight")
    loops.assert_same(loops.gradients(net, x, labels), all_of_it)


@a_few
@pytest.mark.parametrize("later", [False, True], ids=["before", "after"])
def test_tied_weights_get_the_sum(rule, later):
    def build(tied):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        if not tied:
            net[2].load_state_dict({"weight": net[0].weight, "bias": net[2].bias})
        elif not later:
            net[2].weight = net[0].weight
        net = convert(net, rule, example=torch.zeros(5, 6, dtype=torch.float64), seed=0)
        if tied and later:
            net[2].weight = net[0].weight
        return net

    x, labels = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3
    apart = loops.gradients(build(tied=False), x, labels)
    apart["0.weight"] = apart["0.weight"] + apart.pop("2.weight")
    loops.assert_same(loops.gradients(build(tied=True), x, labels), apart)


class Adapted(nn.Module):
    """A layer with a low-rank map beside it, as LoRA has it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(6, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class LowRank(nn.Module):
    """The same as a parametrization of the weight, with a layer of its own in it."""

    def __init__(self):
        super().__init__()
        self.up, self.mix = nn.Parameter(torch.randn(8, 2)), nn.Linear(2, 6, bias=False)

    def forward(self, W):
        return W + self.up @ self.mix.weight.t()


@pytest.mark.parametrize("way", ["beside", "within"])
def test_low_rank_adapters_learn_as_backpropagation_says_where_the_rule_says_so(way):
    found = []
    for rule in (None, "backprop"):
        net, x, labels = loops.plain()
        torch.manual_seed(2)
        if way == "beside":
            net.fc1 = Adapted(net.fc1).double()
            net.fc1.base.requires_grad_(False)
        else:
            parametrize.register_parametrization(net.fc1, "weight", LowRank().double())
            net.fc1.parametrizations.weight.original.requires_grad_(False)
        if rule:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                net = convert(net, rule)
            assert all(name.split(".")[-1] != "mix" for name in net.ruledsl.layers)
        F.cross_entropy(net(x), labels).backward()
        found.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    loops.assert_same(*found)


def test_whose_forward_was_replaced_is_known():
    net = convert(small.mlp(), "feedback_alignment")
    net.fc1.forward = lambda x: x
    assert replaced(net.fc1) and not replaced(net.fc2)


def test_complex_weights_are_refused_before_and_after():
    with pytest.raises(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(nn.Linear(3, 3, dtype=torch.complex64), "feedback_alignment")
    with pytest.raises(UserError, match="real weights"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch finds complex modules new
        convert(nn.Linear(3, 3), "feedback_alignment").to(torch.complex64)
