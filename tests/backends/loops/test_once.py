"""Terms that read no activity count once for each step of an optimizer, however many passes have led to it."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from functools import partial

import pytest
import torch
from backends.loops import loops, probes
from backends.torch import small
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import RuleWarning
from ruledsl_torch import advance, complete, convert, observe, optimizers, unconvert

STRONG = {
    "backprop_alignment": {"strength": 0.5},
    "backprop_noise": {},
    "direct_kolen_pollack": {"decay": 0.5},
    "direct_sign_symmetry": {"decay": 0.5},
    "kolen_pollack": {"decay": 0.5},
    "symmetric_alignment": {"alpha": 0.5, "beta": 0.7},
}
"""The rules that have such terms, with parameters under which nobody can overlook them."""
DECAYS = ("direct_kolen_pollack", "direct_sign_symmetry", "kolen_pollack")
every = pytest.mark.parametrize("rule", STRONG)
decaying = pytest.mark.parametrize("rule", DECAYS)


def network(rule, build=small.MLP, seed=0):
    return probes.network(rule, build, seed, **STRONG[rule])


def optimizer_of(net, lr=0.1, **options):
    """Plain SGD for every name, whose steps show the gradients that it took."""
    make = partial(torch.optim.SGD, lr=lr, **options)
    return optimizers(net, task=make, align=make) if probes.names_optimizers(net) else make(net.parameters())


def taken(net, passes, step=None, optimizer=None):
    """By parameter, the gradients with which an optimizer has moved it."""
    optimizer = optimizer_of(net) if optimizer is None else optimizer
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer.zero_grad()
    passes(net)
    optimizer.step() if step is None else step(optimizer)
    return {name: (before[name] - p.detach()) / 0.1 for name, p in net.named_parameters()}


def once_through(net):
    probes.backward(net, *probes.batch(net))


def summed(net):
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def added(net, bare):
    """What a step adds, by the equations; of tensors that have summed gradients."""
    found = {}
    for path, layer in net.ruledsl.layers.items():
        for tensor in ("weight", "bias", "B", "C"):
            value, name = getattr(layer, tensor, None), f"{path}.{tensor}"
            if value is None or name not in bare:
                continue
            match layer.rule, tensor:
                case (("kolen_pollack" | "direct_kolen_pollack" | "direct_sign_symmetry"), ("weight" | "B" | "C")):
                    found[name] = 0.5 * value
                case "backprop_alignment", "weight":
                    found[name] = 2 * 0.5 * (value - layer.V)
                case "symmetric_alignment", "B":
                    found[name] = 2 * 0.5 * value - 0.7 * layer.weight
                case "backprop_noise", "weight":
                    found[name] = bare[name].std(correction=0) * layer.N
                case _:
                    found[name] = 0 * value
    return {name: value.detach() for name, value in found.items()}


def test_these_are_the_rules_that_have_such_terms():
    assert {name for name in loops.LIBRARY if getattr(probes.network(name).fc2, "once", ())} == {*STRONG}


@every
def test_a_step_takes_the_sum_over_examples_and_the_term_once(rule):
    net = network(rule)
    once_through(net)
    bare = summed(net)
    expected = {name: bare[name] + value for name, value in added(net, bare).items()}
    loops.assert_same(taken(net, once_through), expected)
    loops.assert_same(summed(net), bare)  # what `.grad` holds after it is the sum


@every
@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_are_the_joint_batch(rule, size):
    def micro_batches(net):
        x, labels = probes.batch(net)
        for part, own in zip(x.split(size), labels.split(size), strict=True):
            (F.cross_entropy(net(part), own) * size / len(x)).backward()

    loops.assert_same(taken(network(rule), micro_batches), taken(network(rule), once_through))


@every
def test_visits_of_a_layer_are_one_layer(rule):
    net = network(rule, probes.Twice)
    once_through(net)
    bare = summed(net)
    expected = {name: bare[name] + value for name, value in added(net, bare).items()}
    loops.assert_same(taken(net, once_through), expected)


@every
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_adds_nothing_and_the_next_is_whole(rule, fused):
    net, scaler = network(rule), torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = optimizer_of(net, fused=fused)
    x, labels = probes.batch(net)

    def scaled(factor):
        def passes(net):
            scaler.scale(F.cross_entropy(net(x), labels) * factor).backward()

        return passes

    def step(optimizer):
        scaler.step(optimizer)
        scaler.update()

    skipped = taken(net, scaled(float("inf")), step, optimizer)
    assert not any(value.any() for value in skipped.values())
    loops.assert_same(taken(net, scaled(1.0), step, optimizer), taken(network(rule), once_through))


@every
def test_two_optimizers_of_a_network_add_it_where_each_has_the_parameter(rule):
    net = network(rule)
    halves = [[p for name, p in net.named_parameters() if name.startswith("fc1") is first] for first in (True, False)]
    both = [torch.optim.SGD(half, lr=0.1) for half in halves]
    net.zero_grad()

    class Both:
        def zero_grad(self):
            net.zero_grad()

        def step(self):
            for one in both:
                one.step()

    one = torch.optim.SGD((other := network(rule)).parameters(), lr=0.1)
    loops.assert_same(taken(net, once_through, optimizer=Both()), taken(other, once_through, optimizer=one))


def test_b_reads_w_from_before_the_step():
    net = network("symmetric_alignment")
    optimizer = optimizer_of(net)
    weight, B = net.fc2.weight.detach().clone(), net.fc2.B.detach().clone()
    once_through(net)
    optimizer.step()
    assert not torch.equal(net.fc2.weight, weight)
    assert torch.allclose(net.fc2.B, B - 0.1 * (2 * 0.5 * B - 0.7 * weight), atol=1e-12)


@decaying
def test_the_weight_decay_of_optimizers_is_off_where_the_rule_decays(rule):
    net = network(rule)
    optimizer = optimizers(net, task=partial(torch.optim.SGD, lr=0.1, weight_decay=0.3))
    own = {id(p) for group in optimizer["task"].param_groups if not group["weight_decay"] for p in group["params"]}
    assert own == {id(p) for name, p in net.named_parameters() if not name.endswith("bias")}


@every
def test_a_shared_weight_has_it_once(rule):
    """Where each of the two layers has a V of its own, W is drawn to that of the first."""
    net = probes.silently(partial(network, rule), partial(probes.Unrolled, tied=True))
    once_through(net)
    bare = summed(net)
    expected = {name: bare[name] + value for name, value in added(net, bare).items()}
    found = taken(net, once_through)
    loops.assert_same({name: found[name] for name in expected}, expected)


@every
@pytest.mark.parametrize("copy_of", [copy.deepcopy, probes.pickled])
def test_copies_keep_it(rule, copy_of):
    net = network(rule)
    loops.assert_same(taken(copy_of(net), once_through), taken(net, once_through))


def test_pickled_bytes_alone_make_a_network_that_decays():
    made = pickle.dumps(network("kolen_pollack"))
    expected = taken(network("kolen_pollack"), once_through)
    loops.assert_same(taken(pickle.loads(made), once_through), expected)


# --- complete ---


@every
def test_completed_gradients_are_not_completed_again(rule):
    net = network(rule)

    def passes(net):
        once_through(net)
        bare = summed(net)
        assert complete(net) == {}
        terms = added(net, bare)
        loops.assert_same(summed(net), {name: bare[name] + terms[name] for name in bare})

    loops.assert_same(taken(net, passes), taken(network(rule), once_through))
    loops.assert_same(taken(net, once_through), second_step(rule))  # and the next step is whole


def second_step(rule):
    net = network(rule)
    taken(net, once_through)
    return taken(net, once_through)


BY_TWO = """rule by_two "t" {
  weight B : post -> pre ~ normal(0, 1)
  optimizer align = sgd(lr = 0.1)
  feedback send = B @ delta
  grad W = outer(delta, x) + 0.5 * W
  grad W = outer(delta, x) + 0.3 * W by align
  grad B = outer(x, delta) + 0.25 * B by align
}"""


@pytest.mark.parametrize("completing", [False, True])
def test_what_stands_beside_a_gradient_is_left_to_its_optimizer(completing):
    torch.manual_seed(0)
    net = small.MLP().double()
    net = convert(net, ruledsl.parse(BY_TWO), example=probes.batch(net)[0], seed=0)
    once_through(net)
    bare, weight, B = summed(net), net.fc2.weight.detach().clone(), net.fc2.B.detach().clone()

    def passes(net):
        once_through(net)
        if completing:
            complete(net)

    optimizer = optimizers(net, **{name: partial(torch.optim.SGD, lr=0.1) for name in ("task", "align")})
    found = taken(net, passes, optimizer=optimizer)
    assert torch.allclose(found["fc2.weight"], 2 * bare["fc2.weight"] + 0.8 * weight, atol=1e-12)
    assert torch.allclose(found["fc2.B"], bare["fc2.B"] + 0.25 * B, atol=1e-12)


@every
def test_gradients_by_name_are_returned_complete_and_nothing_changes(rule):
    net = network(rule)
    once_through(net)
    bare = summed(net)
    terms = added(net, bare)
    found = complete(net, bare)
    loops.assert_same(found, {name: bare[name] + terms[name] for name in bare})
    loops.assert_same(summed(net), bare)


@every
def test_for_other_parameters_it_reads_these(rule):
    net, other = network(rule), network(rule)
    parameters = {name: p.detach() * 2 for name, p in net.named_parameters()}
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(parameters[name])
    once_through(net)
    bare = summed(net)
    terms = added(other, bare)
    found = complete(net, bare, parameters)
    loops.assert_same(found, {name: bare[name] + terms[name] for name in bare})


@every
def test_unscaled_and_completed_gradients_may_be_clipped_under_a_scaler(rule):
    net, scaler = network(rule), torch.amp.GradScaler("cpu", init_scale=64.0)

    def passes(net):
        scaler.scale(F.cross_entropy(net(x), labels)).backward()

    def step(optimizer):
        scaler.unscale_(optimizer)
        complete(net)
        nn.utils.clip_grad_norm_(net.parameters(), 1e-2)
        scaler.step(optimizer)
        scaler.update()

    x, labels = probes.batch(net)
    found = taken(net, passes, step)
    length = torch.stack([value.square().sum() for value in found.values()]).sum().sqrt()
    assert abs(length / 1e-2 - 1) < 1e-3


def completed_twice(net):
    once_through(net)
    complete(net)
    complete(net)


def completed_after_each_micro_batch(net):
    x, labels = probes.batch(net)
    for part, own in zip(x.split(2), labels.split(2), strict=True):
        (F.cross_entropy(net(part), own) / 3).backward()
        complete(net)


def completed_too_early(net):
    complete(net)
    once_through(net)


def completed_and_dropped(net):
    once_through(net)
    complete(net)
    net.zero_grad()
    once_through(net)


MISUSES = (completed_twice, completed_too_early, completed_and_dropped)


@every
@pytest.mark.parametrize("passes", MISUSES)
def test_however_complete_is_called_it_counts_once(rule, passes):
    loops.assert_same(taken(network(rule), passes), taken(network(rule), once_through))


@decaying
def test_it_counts_once_where_each_micro_batch_is_completed(rule):
    found = taken(network(rule), completed_after_each_micro_batch)
    loops.assert_same(found, taken(network(rule), once_through))


@decaying
@pytest.mark.parametrize("zero", [lambda net: net.zero_grad(), lambda net: net.zero_grad(set_to_none=False)])
@pytest.mark.parametrize("data", [False, True])
def test_a_loop_by_hand_completes_every_step_however_it_moves_and_zeroes(rule, zero, data):
    net, other = network(rule), network(rule)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(3):
        zero(net)
        once_through(net)
        complete(net)
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    (p.data if data else p).sub_(0.1 * p.grad)
        optimizer.zero_grad()
        once_through(other)
        optimizer.step()
    loops.assert_same(probes.held(net), probes.held(other))


# --- optimizers within optimizers, and with other parameters than before ---


class Outer(torch.optim.Optimizer):
    """One that moves parameters by another, as lookahead and sharpness-aware minimization do."""

    def __init__(self, parameters):
        super().__init__(parameters, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    def step(self, closure=None):
        if closure is not None:
            closure()
        self.base.step()


class Derived(torch.optim.SGD):
    """One that leaves its step, or its closure, to the class that it is derived from."""

    def step(self, closure=None):
        return super().step(closure)


class Halving(torch.optim.SGD):
    """One that changes gradients before its step."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.grad.mul_(0.5)
        return super().step(closure)


def with_closure(net):
    def step(optimizer):
        def closure():
            optimizer.zero_grad()
            once_through(net)
            return torch.zeros(())

        optimizer.step(closure)

    return step


@decaying
@pytest.mark.parametrize("kind", [Outer, partial(Derived, lr=0.1)], ids=["outer", "derived"])
@pytest.mark.parametrize("closure", [False, True])
def test_a_step_within_a_step_adds_it_once(rule, kind, closure):
    net = network(rule)
    passes, step = (lambda net: None, with_closure(net)) if closure else (once_through, None)
    found = taken(net, passes, step, optimizer=kind(net.parameters()))
    loops.assert_same(found, taken(network(rule), once_through))


@decaying
def test_what_a_step_does_to_its_gradients_stays_done(rule):
    net = network(rule)
    found = taken(net, once_through, optimizer=Halving(net.parameters(), lr=0.2))
    loops.assert_same(found, taken(network(rule), once_through))


class Twice(Outer):
    """One that computes gradients a second time, after zeroing the first ones in place."""

    def step(self, closure):
        with torch.enable_grad():
            closure()
            self.zero_grad(set_to_none=False)
            closure()
        self.base.step()


@decaying
def test_gradients_that_a_step_zeroes_in_place_do_not_come_back(rule):
    net = network(rule)

    def step(optimizer):
        optimizer.step(lambda: once_through(net))

    found = taken(net, lambda net: None, step, optimizer=Twice(net.parameters()))
    loops.assert_same(found, taken(network(rule), once_through))


@decaying
def test_an_optimizer_that_is_given_other_parameters_knows_them(rule):
    net = network(rule)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    taken(net, once_through, optimizer=optimizer)
    net.load_state_dict({name: value.clone() for name, value in net.state_dict().items()}, assign=True)
    optimizer.param_groups[0]["params"] = list(net.parameters())
    loops.assert_same(taken(net, once_through, optimizer=optimizer), second_step(rule))


# --- loops that leave it out ---


@pytest.fixture
def errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        yield


def by_hand(net, completing, steps=8):
    x, labels = probes.batch(net)
    for _ in range(steps):
        net.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        if completing:
            complete(net)
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
        advance(net)


def by_func(net, completing, steps=8):
    x, labels = probes.batch(net)
    own = {name: p.detach() for name, p in net.named_parameters()}
    for _ in range(steps):
        gradients = grad(lambda own: F.cross_entropy(functional_call(net, own, (x,)), labels))(own)
        if completing:
            gradients = complete(net, gradients, own)
        own = {name: p - 0.1 * gradients[name] for name, p in own.items()}


MANUAL = {
    by_hand: r"(?s)parameters move without a step of torch\.optim.*complete\(net\)",
    by_func: r"(?s)torch\.func differentiates move.*gradients = complete\(net, gradients\)",
}


@every
@pytest.mark.parametrize("loop", MANUAL)
def test_a_loop_of_its_own_that_leaves_it_out_is_told_once(rule, loop):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuleWarning)
        loop(network(rule), completing=False)
    (message,) = [str(each.message) for each in said if issubclass(each.category, RuleWarning)]
    assert re.search(MANUAL[loop], message)


@every
@pytest.mark.parametrize("loop", MANUAL)
@pytest.mark.usefixtures("errors")
def test_one_that_completes_is_not(rule, loop):
    loop(network(rule), completing=True)


@pytest.mark.usefixtures("errors")
def test_nor_is_evaluation_or_a_rule_without_such_terms():
    net = network("kolen_pollack")
    for _ in range(8):
        net(probes.batch(net)[0])
    by_hand(probes.network("feedback_alignment"), completing=False)
    by_func(probes.network("feedback_alignment"), completing=False)


@every
@pytest.mark.usefixtures("errors")
def test_nor_are_gradients_that_move_nothing(rule):
    net = network(rule)
    own = {name: p.detach() for name, p in net.named_parameters()}
    for _ in range(8):
        grad(lambda own: F.cross_entropy(functional_call(net, own, (probes.batch(net)[0],)), torch.arange(6) % 3))(own)


@pytest.mark.parametrize("rule", loops.LIBRARY)
def test_the_documented_loop_is_silent(rule):
    net = probes.silently(probes.network, rule)
    x, labels = probes.batch(net)
    optimizer = probes.optimizer_of(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuleWarning)
        for step in range(20):
            observe(net, target=labels, epoch=5 + step // 10)
            if net.ruledsl.sees_batch:
                optimizer.zero_grad()
                F.cross_entropy(net(x), labels).backward()
                optimizer.step()
            advance(net)


PHASES = """rule turns "t" {
  weight B : post -> pre ~ normal(0, 1)
  feedback send = B @ delta
  grad W = outer(delta, x) + 0.5 * W
  phase mirror { grad B = -outer(x, u) + 0.5 * B }
  schedule { alternate : task, mirror }
}"""


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_step_after_advance_takes_the_gradients_of_another_phase_and_says_so(late, set_to_none):
    torch.manual_seed(0)
    net = small.MLP().double()
    x, labels = probes.batch(net)
    net = probes.silently(partial(convert, net, ruledsl.parse(PHASES), example=x, seed=0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuleWarning)
        for _ in range(4):
            optimizer.zero_grad(set_to_none=set_to_none)
            F.cross_entropy(net(x), labels).backward()
            for step in (partial(advance, net), optimizer.step)[:: 1 if late else -1]:
                step()
    told = [str(each.message) for each in said if issubclass(each.category, RuleWarning)]
    assert len(told) == late and all(re.search(r"(?s)nothing learns.*step\(\); advance\(net\)", each) for each in told)


def test_of_two_rules_only_the_layers_of_one_have_it():
    torch.manual_seed(0)
    net = small.MLP().double().eval()
    convert(net, "kolen_pollack", output="backprop", example=probes.batch(net)[0], seed=0, decay=0.5)
    once_through(net)
    bare, weight = summed(net), net.fc2.weight.detach().clone()
    found = taken(net, once_through)
    assert torch.allclose(found["fc2.weight"], bare["fc2.weight"] + 0.5 * weight, atol=1e-12)
    assert torch.allclose(found["fc3.weight"], bare["fc3.weight"], atol=1e-12)


class Around(torch.optim.Optimizer):
    """An optimizer that calls another one, as Lookahead and ZeroRedundancyOptimizer do."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure=None):
        return self.inner.step(closure)


class Sharpness(Around):
    """As SAM: the gradient somewhere near, and the step from where the weights were."""

    @torch.no_grad()
    def step(self, closure):
        parameters = [p for group in self.param_groups for p in group["params"]]
        before = [p.clone() for p in parameters]
        for p in parameters:
            p.add_(0.1)
        with torch.enable_grad():
            closure()
        for p, value in zip(parameters, before, strict=True):
            p.copy_(value)
        self.inner.step()


def test_an_optimizer_that_calls_another_one_adds_it_once():
    net = network("kolen_pollack")
    right = taken(copy.deepcopy(net), once_through)
    found = taken(net, once_through, optimizer=Around(torch.optim.SGD(net.parameters(), lr=0.1)))
    assert all(torch.allclose(found[name], right[name], atol=1e-6) for name in right)


def test_where_an_optimizer_takes_a_closure_and_calls_another_one_decay_is_that_of_the_weights_that_move():
    net = network("kolen_pollack")
    optimizer = Sharpness(torch.optim.SGD(net.parameters(), lr=0.1))
    at = {name: p.detach().clone() for name, p in net.named_parameters()}

    def closure():
        optimizer.zero_grad()
        once_through(net)
        summed.update((name, p.grad.clone()) for name, p in net.named_parameters() if p.grad is not None)

    summed = {}
    found = taken(net, once_through, lambda optimizer: optimizer.step(closure), optimizer)
    assert torch.allclose(found["fc2.weight"], summed["fc2.weight"] + 0.5 * at["fc2.weight"], atol=1e-6)
    assert torch.allclose(found["fc2.B"], summed["fc2.B"] + 0.5 * at["fc2.B"], atol=1e-6)


def test_what_was_completed_is_not_completed_again_by_either_of_two_optimizers():
    net = network("kolen_pollack")
    right = taken(copy.deepcopy(net), once_through)
    optimizer = Around(torch.optim.SGD(net.parameters(), lr=0.1))
    found = taken(net, lambda net: (once_through(net), complete(net)), optimizer=optimizer)
    assert all(torch.allclose(found[name], right[name], atol=1e-6) for name in right)
    again = taken(net, once_through, optimizer=optimizer)
    assert torch.allclose(again["fc2.weight"], net.fc2.weight.grad + 0.5 * (net.fc2.weight + 0.1 * again["fc2.weight"]))


def test_a_parameter_in_the_place_of_another_one_has_it_too():
    net = network("kolen_pollack")
    other, optimizer = copy.deepcopy(net), optimizer_of(net)
    taken(net, once_through, optimizer=optimizer), taken(other, once_through)
    net.fc2.weight = nn.Parameter(net.fc2.weight.detach().clone())
    optimizer.param_groups[0]["params"] = list(net.parameters())
    found, right = taken(net, once_through, optimizer=optimizer), taken(other, once_through)
    assert all(torch.allclose(found[name], right[name], atol=1e-6) for name in right)


def test_an_average_of_weights_that_is_never_differentiated_is_no_loop_of_its_own():
    net = network("kolen_pollack")
    mean, optimizer = copy.deepcopy(net), optimizer_of(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            mean(probes.batch(net)[0])
            taken(net, once_through, optimizer=optimizer)
            with torch.no_grad():
                for p, q in zip(mean.parameters(), net.parameters(), strict=True):
                    p.lerp_(q, 0.1)


def thawed(net, x):
    """A head is trained on frozen layers, then all of the network."""
    optimizer = optimizer_of(net)
    for frozen in (True, False):
        net.fc1.requires_grad_(not frozen), net.fc2.requires_grad_(not frozen)
        for _ in range(2):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()


def test_layers_that_are_thawed_find_feedback_that_did_not_follow_and_a_warning_says_so_once():
    net = probes.network("kolen_pollack", small.MLP, 0, decay=0.0)
    x, start = probes.batch(net)[0], copy.deepcopy(net)
    with pytest.warns(RuleWarning, match=r"(?s)fc3 sent its error to nobody.*x\.requires_grad_\(\)") as said:
        thawed(net, x)
    assert len([each for each in said if "to nobody" in str(each.message)]) == 1
    other = copy.deepcopy(start)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thawed(other, x.clone().requires_grad_())  # the line that mends it
    assert torch.allclose(other.fc3.weight - start.fc3.weight, other.fc3.B - start.fc3.B, atol=1e-6)
    assert not torch.allclose(net.fc3.weight - start.fc3.weight, net.fc3.B - start.fc3.B, atol=1e-3)


def test_a_map_from_far_away_that_only_decays_is_left_out_where_nobody_is_sent_to():
    torch.manual_seed(0)
    net = small.MLP().double()
    text = """rule fading "t" {
      weight C : out -> pre ~ normal(0, 1)
      feedback send = C @ e
      grad C = 0.5 * C
      locality { allow broadcast(e) -> send }
    }"""
    convert(net, ruledsl.parse(text), example=probes.batch(net)[0], seed=0)
    C = net.fc2.C.detach().clone()
    found = taken(net, once_through)
    assert net.fc1.C is None and torch.allclose(found["fc2.C"], 0.5 * C, atol=1e-12)


@every
def test_optimizers_go_on_after_a_network_was_made_a_plain_one(rule):
    net, other = network(rule), network(rule)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    taken(net, once_through, optimizer=optimizer)
    unconvert(net)
    found = taken(net, once_through, optimizer=optimizer)
    loops.assert_same(found, summed(net))
    loops.assert_same(taken(other, once_through), taken(network(rule), once_through))


CHOSEN = """rule chosen "t" {
  param m = 0.1
  weight B : post -> pre ~ normal(0, 1)
  feedback send = B @ delta
  when m > 0.5 { grad W = outer(delta, x) + 0.5 * W }
  when m > 0.5 { grad b = 0.5 * b }
}"""


@pytest.mark.parametrize("m", [0.1, 0.9])
def test_a_term_on_a_condition_of_parameters(m):
    torch.manual_seed(0)
    net = small.MLP().double()
    net = convert(net, ruledsl.parse(CHOSEN), example=probes.batch(net)[0], seed=0, m=m)
    weight, bias = net.fc2.weight.detach().clone(), net.fc2.bias.detach().clone()
    once_through(net)
    bare = summed(net)
    found = taken(net, once_through)
    assert torch.allclose(found["fc2.weight"], bare["fc2.weight"] + (0.5 * weight if m > 0.5 else 0), atol=1e-12)
    assert torch.allclose(found["fc2.bias"], 0.5 * bias if m > 0.5 else bare["fc2.bias"], atol=1e-12)


BRANCHES = """rule branches "t" {
  param m = 0.1
  weight B : post -> pre ~ normal(0, 1)
  feedback send = B @ delta
  grad W = if m > 0.5 then W else clip(outer(delta, x), -0.01, 0.01)
  grad B = if m > 0.5 then B else 2 * outer(x, delta)
}"""


@pytest.mark.parametrize("m", [0.1, 0.9])
def test_a_pseudo_gradient_that_is_the_weight_itself_is_a_copy_of_it(m):
    torch.manual_seed(0)
    net = small.MLP().double()
    net = probes.silently(partial(convert, net, ruledsl.parse(BRANCHES), example=probes.batch(net)[0], seed=0, m=m))
    layer = net.fc2
    once_through(net)
    bare = summed(net)
    for _ in range(2):  # the second step starts from weights and gradients that the first one left alone
        weight, B = layer.weight.detach().clone(), layer.B.detach().clone()
        found = taken(net, once_through)
        if m > 0.5:
            assert torch.allclose(found["fc2.weight"], weight, atol=1e-12)
            assert torch.allclose(found["fc2.B"], B, atol=1e-12)
        else:
            assert found["fc2.weight"].abs().max() < 0.01 + 1e-12 < bare["fc2.weight"].abs().max()
            assert found["fc2.B"].any()
