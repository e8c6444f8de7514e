"""What somebody's loop leaves out is said once, with the line that mends it; a loop that does all is silent."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import warnings
import weakref
from functools import partial

import pytest
import torch
from backends.loops import loops, probes
from backends.torch import small
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import RuleWarning, UserError
from ruledsl_torch import advance, convert, hooks, observe, optimizers, unconvert

TEACHES_B = ("kolen_pollack", "direct_kolen_pollack", "symmetric_alignment")
NEEDS_ADVANCE = ("brsf", "brsf_p", "backprop_noise", "weight_mirror", "activation_alignment")
UNLIKE = ("drtp", "oja", "oja_subspace")


def network(rule, **options):
    """Without what `convert` says."""
    return probes.silently(partial(probes.network, rule, **options))


def said_in(do):
    """The messages of a loop."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuleWarning)
        do()
    return [str(each.message) for each in caught if issubclass(each.category, RuleWarning)]


def steps(net, optimizer, number, backward=probes.backward, advancing=True, step=lambda one: one.step()):
    x, labels = probes.batch(net)
    for _ in range(number):
        observe(net, target=labels)
        optimizer.zero_grad()
        backward(net, x, labels)
        step(optimizer)
        if advancing:
            advance(net)


def sgd_of(net):
    return torch.optim.SGD(net.parameters(), lr=0.01)


def twice(net, x, labels):
    probes.backward(net, x, labels)
    probes.backward(net, x, labels)


# --- a tensor that nothing moves ---


@pytest.mark.parametrize("rule", TEACHES_B)
def test_an_optimizer_that_lacks_b_is_told_once(rule):
    torch.manual_seed(0)
    net = small.MLP().double()
    optimizer = sgd_of(net)
    net = probes.follow(net, rule)
    (message,) = said_in(lambda: steps(net, optimizer, 30))
    assert re.search(r"(?s)^fc\d\.B has a pseudo-gradient, and none of the optimizers.*net\.parameters\(\)", message)


def test_as_is_one_of_weights_alone():
    net = network("kolen_pollack")
    some = torch.optim.SGD([p for name, p in net.named_parameters() if name.endswith("weight")], lr=0.01)
    assert len(said_in(lambda: steps(net, some, 6))) == 1


@pytest.mark.parametrize("rule", TEACHES_B)
def test_a_second_optimizer_that_has_b_is_one_that_steps(rule):
    net = network(rule)
    own = [p for name, p in net.named_parameters() if name.endswith(".B")]
    theirs = [p for name, p in net.named_parameters() if not name.endswith(".B")]
    both = [torch.optim.SGD(each, lr=0.01) for each in (own, theirs)]

    def step(optimizer):
        for one in both:
            one.step()

    assert said_in(lambda: steps(net, net, 6, step=step)) == []


def test_what_is_frozen_needs_no_optimizer():
    net = network("kolen_pollack")
    for layer in net.ruledsl.layers.values():
        layer.B.requires_grad_(False)
    bare = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    assert said_in(lambda: steps(net, bare, 6)) == []


# --- advance ---


@pytest.mark.parametrize("rule", NEEDS_ADVANCE)
def test_a_forgotten_advance_is_told_once(rule):
    net = network(rule)
    optimizer = probes.optimizer_of(net)
    (message,) = said_in(lambda: steps(net, optimizer, 30, advancing=False))
    assert re.search(rf"(?s)^{rule} needs advance.*not called in 10 steps.*advance\(net\)", message)


@pytest.mark.parametrize("rule", [name for name in loops.LIBRARY if name.startswith(("usf", "nusf", "frsf", "feed"))])
def test_a_rule_that_needs_none_is_not(rule):
    net = network(rule)
    assert said_in(lambda: steps(net, sgd_of(net), 15, advancing=False)) == []


def test_a_constraint_needs_it_under_any_rule():
    net = network("feedback_alignment", constraints="constant_norm")
    (message,) = said_in(lambda: steps(net, sgd_of(net), 15, advancing=False))
    assert "needs advance" in message


# --- a forward of its own ---


def test_a_forward_that_was_set_on_a_layer_is_told_once():
    net = network("feedback_alignment")
    net.fc2.forward = lambda x: F.linear(x, net.fc2.weight, net.fc2.bias)
    (message,) = said_in(lambda: steps(net, sgd_of(net), 15))
    assert re.search(r"(?s)^the layer fc2 has a forward of its own.*feedback_alignment.*del net\.fc2\.forward", message)
    del net.fc2.forward
    assert said_in(lambda: steps(net, sgd_of(net), 6)) == []


# --- several passes ---


@pytest.mark.parametrize("rule", UNLIKE)
def test_passes_that_do_not_add_up_are_told_once(rule):
    net = network(rule)
    (message,) = said_in(lambda: steps(net, sgd_of(net), 15, twice))
    names = {"drtp": "send"}.get(rule, "W")
    assert re.search(rf"(?s)^2 backward passes went into one step, and of {rule}.*\({names}\).*a larger batch", message)


@pytest.mark.parametrize("rule", UNLIKE)
def test_one_pass_a_step_is_not(rule):
    net = network(rule)
    assert said_in(lambda: steps(net, sgd_of(net), 15)) == []
    assert said_in(lambda: steps(net, sgd_of(net), 15, advancing=False)) == []


@pytest.mark.parametrize("rule", [name for name in loops.LIBRARY if name not in (*UNLIKE, "activation_alignment")])
def test_passes_that_add_up_are_not(rule):
    net = network(rule)
    optimizer = probes.optimizer_of(net)
    assert said_in(lambda: steps(net, optimizer, 4, twice)) == []


def closing(net, passes):
    x, labels = probes.batch(net)

    def closure():
        net.zero_grad()
        for _ in range(passes):
            loss = F.cross_entropy(net(x), labels)
            loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("rule", UNLIKE)
def test_a_closure_that_is_called_often_is_one_pass_each_time(rule):
    net = network(rule)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=4, lr=0.01)
    observe(net, target=probes.batch(net)[1])
    assert said_in(lambda: [optimizer.step(closing(net, 1)) for _ in range(3)]) == []
    assert len(said_in(lambda: [optimizer.step(closing(net, 2)) for _ in range(3)])) == 1


@pytest.mark.parametrize("rule", UNLIKE)
def test_a_step_that_was_skipped_leaves_no_pass_to_the_next(rule):
    net = network(rule)
    optimizer = sgd_of(net)
    every_other = iter([True, False] * 6)
    assert said_in(lambda: steps(net, optimizer, 12, step=lambda one: next(every_other) and one.step())) == []


# --- a scaled loss ---


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rule", [*UNLIKE, "activation_alignment"])
def test_a_scaler_that_scales_not_everything_is_told_once(rule, fused):
    net = network(rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    optimizer = probes.optimizer_of(net, partial(torch.optim.SGD, lr=0.01, fused=fused))

    def scaled(net, x, labels):
        scaler.scale(F.cross_entropy(net(x), labels)).backward()

    def step(optimizer):
        scaler.step(optimizer)
        scaler.update()

    (message,) = said_in(lambda: steps(net, optimizer, 15, scaled, step=step))
    assert re.search(rf"(?s)^the loss is scaled, and .* of {rule} does not scale.*train without GradScaler", message)


@pytest.mark.parametrize("rule", UNLIKE)
def test_one_that_is_off_is_not(rule):
    net = network(rule)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(optimizer):
        scaler.step(optimizer)
        scaler.update()

    assert said_in(lambda: steps(net, sgd_of(net), 6, step=step)) == []


SHARED = """
rule shared "W is taught in two phases, by two optimizers" {
  feedback send = W.T @ delta
  grad W = outer(delta, x)
  optimizer align = sgd(lr = 0.1)
  phase align {
    primitive decay = sq(W)
    minimize decay over W by align
  }
  schedule { alternate : task, align }
  locality { allow reverse(W) -> send }
}
"""


def test_a_scaler_for_optimizers_that_share_a_weight_is_refused():
    net = small.MLP().double()
    convert(net, ruledsl.parse(SHARED), example=probes.batch(net)[0], seed=0)
    optimizer = optimizers(net, task=probes.sgd)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(net(probes.batch(net)[0]), probes.batch(net)[1])).backward()
    before = probes.held(net)
    with pytest.raises(UserError, match=r"(?s)task and align share parameters.*train without GradScaler"):
        scaler.step(optimizer)
    loops.assert_same(probes.held(net), before, 0.0)
    assert optimizer["task"].param_groups[0]["lr"] == probes.LR


def test_groups_of_several_optimizers_are_theirs():
    net = network("symmetric_alignment")
    optimizer = optimizers(net, task=probes.sgd)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    assert all(group["lr"] == 0.5 for _, one in optimizer.items() for group in one.param_groups)


# --- who speaks, and how long ---


def test_each_network_speaks_for_itself():
    one, other = (network("brsf") for _ in range(2))
    optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()], lr=0.01)

    def loop():
        for _ in range(12):
            optimizer.zero_grad()
            for net in (one, other):
                probes.backward(net, *probes.batch(net))
            optimizer.step()
            advance(one)

    (message,) = said_in(loop)
    assert "needs advance" in message
    assert "advance" not in one.ruledsl.__dict__.get("_said", ()) and "advance" in other.ruledsl._said


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_looks_too(copy_of):
    net = copy_of(network("brsf"))
    assert len(said_in(lambda: steps(net, sgd_of(net), 12, advancing=False))) == 1


def test_nobody_is_kept_alive():
    net = network("kolen_pollack")
    optimizer = sgd_of(net)
    steps(net, optimizer, 3)
    gone = [weakref.ref(each) for each in (net, net.ruledsl, net.fc1, optimizer)]
    del net, optimizer
    gc.collect()
    assert [each() for each in gone] == [None] * 4


def test_optimizers_of_other_networks_have_nothing_to_do():
    network("kolen_pollack")
    plain = small.MLP()
    optimizer = sgd_of(plain)
    F.cross_entropy(plain(torch.randn(6, 6)), torch.arange(6) % 3).backward()
    optimizer.step()
    assert not vars(optimizer)["_watch"].networks and not vars(optimizer)[hooks.PLAN].layers


@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack"])
def test_layers_that_came_into_the_network_afterwards_are_told_once(rule):
    net = network(rule, build=small.MLP)
    copied = copy.deepcopy(net)
    assert "came into" not in repr(net.ruledsl) and not said_in(lambda: steps(net, sgd_of(net), 4))
    net.fc3 = torch.nn.Linear(5, 3).to(net.fc2.weight.dtype)
    assert "fc3: it came into the network after convert" in repr(net.ruledsl)
    said, *others = said_in(lambda: steps(net, sgd_of(net), 4))
    assert not others
    assert "fc3 came into the network after convert" in said and "convert(unconvert(net), ...)" in said
    assert not said_in(lambda: steps(copied, sgd_of(copied), 4))
    convert(unconvert(net), rule)  # the line that mends it
    assert net.fc3.rule == rule and not said_in(lambda: steps(net, sgd_of(net), 4))


def test_layers_beside_that_do_not_learn_are_not():
    net = network("feedback_alignment", build=small.MLP)
    net.teacher = torch.nn.Linear(6, 3).requires_grad_(False)
    assert not said_in(lambda: steps(net, sgd_of(net), 4))


def test_a_target_that_is_that_of_the_step_before_is_told_once():
    net = network("drtp")
    optimizer, (x, labels) = sgd_of(net), probes.batch(net)

    def step(number, observing):
        for _ in range(number):
            if observing:
                observe(net, target=labels)
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()

    assert not said_in(lambda: step(3, True))
    (said,) = said_in(lambda: step(3, False))
    assert "drtp reads target, which is still that of the step before" in said and "observe(net, target=labels)" in said


def test_who_loads_weights_without_what_a_constraint_keeps_of_them_is_told():
    plain = copy.deepcopy(small.mlp()).state_dict()
    net = convert(small.mlp(), "usf", constraints=["constant_norm", "frozen_signs"])
    (norm, signs) = said_in(lambda: net.load_state_dict(plain, strict=False))
    assert "constant_norm keeps" in norm and "frozen_signs keeps" in signs and "before convert" in norm
    assert not said_in(lambda: net.load_state_dict(net.state_dict()))
    other = convert(small.mlp(), "kolen_pollack")  # whose B may start anywhere
    assert not said_in(lambda: other.load_state_dict(plain, strict=False))
