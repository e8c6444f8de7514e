"""Phases beside the task, second optimizers, and the schedule that says when which of them has its turn."""

from __future__ import annotations

import copy

import pytest
import torch
from backends.torch import small
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import ruledsl
from ruledsl.errors import UserError
from ruledsl_torch import advance, convert, observe, optimizers, steps

TWO_TEACHERS = """
rule two_teachers {
  param alpha = 0.5
  weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))
  feedback send = B @ delta
  optimizer pull = sgd(lr = 0.01)
  minimize alpha * sq(W) over W by pull
  grad B = outer(x, delta) by pull
}
"""
EVERY_STEP = """
rule every_step {
  weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))
  state m : post = 0
  feedback send = B @ delta
  phase look { m <- total(u)    grad B = -outer(x, u) }
  schedule { each step : task, look }
}
"""
WITH_ERRORS = """
rule with_errors {
  weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))
  feedback send = B @ delta
  phase look { grad B = outer(x, delta) }
  schedule { alternate : task, look }
}
"""


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def converted(rule, build=small.mlp, **options):
    net = build()
    x, labels = small.batch(net)
    convert(net, rule, example=x, seed=0, **options)
    return net, x, labels


def step(net, optimizer, x, labels, run=None):
    optimizer.zero_grad()
    loss = F.cross_entropy((net if run is None else run)(x), labels)
    loss.backward()
    optimizer.step()
    advance(net)
    return loss.item()


def test_a_second_optimizer_moves_what_is_meant_for_it_and_nothing_else():
    net, x, labels = converted("symmetric_alignment")
    optimizer = optimizers(net, task=sgd, align=lambda p: torch.optim.SGD(p, lr=1.0))
    before = copy.deepcopy(net.state_dict())
    plain = small.gradients(net, x, labels)
    step(net, optimizer, x, labels)
    W, B = before["fc2.weight"], before["fc2.B"]
    assert torch.allclose(net.fc2.B, B - (0.002 * B - 0.002 * W), atol=1e-7)
    assert torch.allclose(net.fc2.weight, W - 0.1 * plain["fc2.weight"], atol=1e-7)


def test_a_rule_brings_its_optimizers_along():
    net, *_ = converted("symmetric_alignment")
    optimizer = optimizers(net, task=sgd)
    assert optimizer["align"].param_groups[0]["lr"] == 0.001
    with pytest.raises(UserError, match=r"(?s)which optimizer is `task`.*optimizers\(net, task="):
        optimizers(net)
    with pytest.raises(UserError, match="did you mean `align`"):
        optimizers(net, task=sgd, aling=sgd)


def test_two_pseudo_gradients_of_one_tensor_do_not_mix():
    rule = ruledsl.parse(TWO_TEACHERS)
    net, x, labels = converted(rule)
    plain = small.gradients(converted(rule)[0], x, labels)
    optimizer = optimizers(net, task=sgd)
    W = net.fc2.weight.detach().clone()
    step(net, optimizer, x, labels)
    assert torch.allclose(plain["fc2.weight"], net.fc2.weight.grad)
    assert torch.allclose(net.fc2.weight, W - 0.1 * plain["fc2.weight"] - 0.01 * W, atol=1e-7)


def test_a_tensor_with_two_teachers_needs_two_optimizers():
    net, x, labels = converted(ruledsl.parse(TWO_TEACHERS))
    F.cross_entropy(net(x), labels).backward()
    with pytest.raises(UserError, match="trains W by the task optimizer and `by pull`"):
        advance(net)


def test_phases_that_alternate_have_their_turn():
    net, x, labels = converted("activation_alignment")
    optimizer = optimizers(net, task=sgd, align=lambda p: torch.optim.SGD(p, lr=1.0))
    inputs = {"fc1": x}
    for index in range(4):
        before = copy.deepcopy(net.state_dict())
        with torch.no_grad():
            inputs["fc2"] = torch.relu(net.fc1(x))
        assert net.ruledsl.phases == (("align",) if index % 2 else ("task",))
        step(net, optimizer, x, labels)
        moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
        if index % 2:
            assert moved == {"fc2.B", "fc3.B"}  # fc1 sends to nobody
            u = inputs["fc2"] @ before["fc2.weight"].T + before["fc2.bias"]
            h = inputs["fc2"] @ before["fc2.B"].T + before["fc2.bias"]
            change = (0.002 * h - 0.002 * u).T @ inputs["fc2"] / 5
            assert torch.allclose(net.fc2.B, before["fc2.B"] - change, atol=1e-7)
        else:
            assert moved == {f"fc{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")}


def test_a_plain_optimizer_moves_only_what_the_phase_teaches():
    net, x, labels = converted("activation_alignment")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step(net, optimizer, x, labels)
    step(net, optimizer, x, labels)
    assert net.fc2.weight.grad is None and net.fc1.bias.grad is None and net.fc2.B.grad is not None


def test_where_no_errors_travel_no_gradient_of_other_modules_is_computed():
    net, x, labels = converted("activation_alignment", small.convnet)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step(net, optimizer, x, labels)
    kept = []
    optimizer.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = F.cross_entropy(net(x), labels)
    loss.backward()
    assert net.norm.weight.grad is None and net.conv3.B.grad is not None
    assert len(kept) < 20


def test_a_phase_may_see_the_batch_after_the_task_in_the_same_step():
    net, x, labels = converted(ruledsl.parse(EVERY_STEP))
    optimizer = optimizers(net, task=sgd)
    before = net.fc2.B.detach().clone()
    step(net, optimizer, x, labels)
    assert net.ruledsl.step == 0 and net.ruledsl.phase == "look" and torch.equal(net.fc2.B, before)
    with torch.no_grad():
        u = net.fc1(x)
    step(net, optimizer, x, labels)
    assert net.ruledsl.step == 1 and net.ruledsl.phase == "task"
    assert not torch.equal(net.fc2.B, before)
    assert torch.allclose(net.fc1.m, u.sum(0), atol=1e-5)


def test_a_phase_that_reads_errors_is_sent_them():
    net, x, labels = converted(ruledsl.parse(WITH_ERRORS))
    optimizer = optimizers(net, task=sgd)
    step(net, optimizer, x, labels)
    W, expected = net.fc2.weight.detach().clone(), small.gradients(converted("kolen_pollack")[0], x, labels)
    assert expected["fc2.B"] is not None
    optimizer.zero_grad()
    F.cross_entropy(net(x), labels).backward()
    assert net.fc2.weight.grad is None and net.fc2.B.grad.abs().sum() > 0
    optimizer.step()
    assert torch.equal(net.fc2.weight, W)


def test_the_first_epochs_count_by_what_the_loop_tells():
    net, x, labels = converted("information_alignment")
    optimizer = optimizers(net, task=sgd)
    observe(net, epoch=0.5)
    assert net.ruledsl.phases == ("align",)
    before = copy.deepcopy(net.state_dict())
    step(net, optimizer, x, labels)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"fc2.B", "fc3.B"}
    observe(net, epoch=1.0)
    assert net.ruledsl.phases == ("align",)  # the second of two that alternate
    step(net, optimizer, x, labels)
    assert net.ruledsl.phases == ("task",)


def test_a_driven_phase_needs_the_optimizer_that_it_names():
    net, x, labels = converted("information_alignment")
    loop = torch.optim.SGD(net.parameters(), lr=0.1)
    step(net, loop, x, labels)
    with pytest.raises(UserError, match=r"(?s)by align` in the phase align.*optimizers\(net, task="):
        step(net, loop, x, labels)


def test_a_driven_phase_draws_an_input_for_every_layer_in_the_size_of_the_example():
    net, x, labels = converted("weight_mirror")
    B = net.fc2.B.clone()
    step(net, torch.optim.SGD(net.parameters(), lr=0.0), x, labels)
    assert not torch.equal(net.fc2.B, B)
    assert net.fc2.input_shape[0] == len(x)


def test_another_schedule_in_the_last_layer_is_refused():
    with pytest.raises(UserError, match="schedule that differs"):
        converted("activation_alignment", output="weight_mirror")
    converted("activation_alignment", output="backprop")
    net, x, labels = converted("feedback_alignment", output="activation_alignment")
    optimizer = optimizers(net, task=sgd)
    for _ in range(2):
        step(net, optimizer, x, labels)


def test_a_phase_that_has_a_drive_in_one_rule_alone_is_refused():
    undriven = WITH_ERRORS.replace("outer(x, delta)", "outer(x, u)")
    drive = undriven.replace("phase look {", "phase look { drive x = normal(0, 1)")
    with pytest.raises(UserError, match="look has a drive in one"):
        converted(ruledsl.parse(undriven), output=ruledsl.parse(drive))


def test_the_number_of_threads_changes_no_input():
    found = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        net, *_ = converted("weight_mirror", small.convnet)
        inputs = {layer.path: x.clone() for layer, _, x in steps.with_inputs(net.ruledsl, "mirror")}
        torch.set_num_threads(before)
        found.append(inputs)
    assert len(found[0]) > 1
    assert all(torch.equal(x, found[1][path]) for path, x in found[0].items())
    one, other = list(found[0].values())[:2]
    assert not torch.equal(one.flatten()[:8], other.flatten()[:8])


def test_steps_without_the_batch_take_no_pass():
    net, x, labels = converted("information_alignment")
    optimizer = optimizers(net, task=sgd)
    step(net, optimizer, x, labels)
    assert net.ruledsl.phases == ("align",)
    assert not net.ruledsl.sees_batch
    before = {name: value.clone() for name, value in net.state_dict().items()}
    advance(net)
    assert net.ruledsl.sees_batch
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc2.B", "fc3.B"}


@pytest.mark.parametrize(
    "rule", ["activation_alignment", "information_alignment", "weight_mirror", "symmetric_alignment"]
)
@pytest.mark.parametrize("build", [small.mlp, small.convnet])
def test_phases_compile_once_each_with_the_same_numbers(rule, build):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    states = []
    for compiled in (False, True):
        net, x, labels = converted(rule, build)
        optimizer = optimizers(net, task=sgd)
        run = torch.compile(net, fullgraph=True, backend=counter) if compiled else net
        for index in range(6):
            observe(net, epoch=index / 2)
            step(net, optimizer, x, labels, run)
        states.append(net.state_dict())
    assert counter.frame_count <= 2
    for name, value in states[0].items():
        if not name.endswith("num_batches_tracked"):
            assert small.relative(states[1][name], value) <= 1e-6, name


def test_copies_keep_their_place_in_the_schedule():
    net, x, labels = converted("activation_alignment")
    optimizer = optimizers(net, task=sgd)
    step(net, optimizer, x, labels)
    twin = copy.deepcopy(net)
    assert twin.ruledsl.phases == ("align",)
    twins = twin.ruledsl.optimizers
    assert twins is not optimizer
    step(net, optimizer, x, labels)
    step(twin, twins, x, labels)
    assert torch.equal(net.fc2.B, twin.fc2.B)


@pytest.mark.parametrize("rule", ["kolen_pollack", "symmetric_alignment"])
def test_feedback_weights_come_to_the_transpose(rule):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(64, 6)
    labels = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    options = {"decay": 0.05} if rule == "kolen_pollack" else {}
    convert(net, rule, example=x, seed=0, **options)
    optimizer = optimizers(net, task=sgd, **({} if options else {"align": ("adam", {"lr": 0.02})}))
    start = F.cosine_similarity(net[2].B.flatten(), net[2].weight.flatten(), dim=0)
    for _ in range(400):
        step(net, optimizer, x, labels)
    assert start < 0.7 < 0.97 < F.cosine_similarity(net[2].B.flatten(), net[2].weight.flatten(), dim=0)


def test_a_parameter_may_change_while_a_rule_learns():
    torch._dynamo.reset()
    states = []
    for compiled in (False, True):
        net, x, labels = converted("kolen_pollack", decay=0.5)
        run = torch.compile(net, fullgraph=True, backend="aot_eager") if compiled else net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for index in range(5):
                observe(net, decay=0.1 * index)
                step(net, optimizer, x, labels, run)
        states.append(net.state_dict())
    assert all(small.relative(states[1][name], value) <= 1e-6 for name, value in states[0].items())
    net, x, labels = converted("kolen_pollack")
    observe(net, decay=0.0)
    found = small.gradients(net, x, labels)
    assert torch.equal(found["fc2.B"], found["fc2.weight"])
    with pytest.raises(UserError, match="did you mean `decay`"):
        observe(net, dekay=0.1)


EVERYTHING_AT_ONCE = """
rule at_once {
  weight A : post -> pre ~ ones()
  weight B : post -> pre ~ zeros()
  weight C : post -> pre ~ zeros()
  feedback send = A @ delta
  optimizer pull = sgd(lr = 1)
  phase look { drive x = normal(0, 1)  A <- B  B <- A  grad C = B by pull }
  phase look_again { A <- B  B <- A }
  schedule { each step : task, PHASE }
  AFTER
}
"""


@pytest.mark.parametrize(
    ("phase", "after"),
    [("look", ""), ("look_again", ""), ("task", "after step { A <- B  B <- A }")],
)
def test_results_of_a_phase_are_stored_together(phase, after):
    text = EVERYTHING_AT_ONCE.replace("task, PHASE" if phase == "task" else "PHASE", phase).replace("AFTER", after)
    net, x, labels = converted(ruledsl.parse(text))
    with torch.no_grad():
        net.fc2.A.fill_(1.0)
        net.fc2.B.fill_(2.0)
    optimizer = optimizers(net, task=sgd)
    step(net, optimizer, x, labels)
    while net.ruledsl.step == 0:
        step(net, optimizer, x, labels)
    assert (net.fc2.A == 2).all()
    assert (net.fc2.B == 1).all()
    assert ((-2 if phase == "look" else 0) == net.fc2.C).all()


def test_a_result_of_the_backward_pass_is_what_was_there_before():
    net, x, labels = converted(
        ruledsl.parse(
            "rule r { weight B : post -> pre ~ ones() state A : post -> pre = 0 feedback send = B @ delta\n"
            "grad B = B   A <- B }"
        )
    )
    step(net, optimizers(net, task=sgd), x, labels)
    assert (net.fc2.A == 1).all()
    assert torch.allclose(net.fc2.B, torch.tensor(0.9))


def test_tied_weights_move_once_in_a_driven_phase():
    text = EVERYTHING_AT_ONCE.replace("A <- B  B <- A  grad C = B by pull", "W <- 0.5 * W", 1)
    rule = ruledsl.parse(text.replace("PHASE", "look").replace("AFTER", ""))
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    net[4].weight = net[2].weight
    x, labels = torch.randn(6, 4), torch.arange(6) % 5
    convert(net, rule, example=x, seed=0)
    before = net[4].weight.detach().clone()
    step(net, optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.0)), x, labels)
    assert torch.allclose(net[4].weight, 0.5 * before)


def test_a_state_taken_between_two_passes_of_a_step_goes_on_with_the_second():
    net, x, labels = converted(ruledsl.parse(EVERY_STEP))
    step(net, optimizers(net, task=sgd), x, labels)
    assert (net.ruledsl.step, net.ruledsl.phase) == (0, "look")
    resumed, *_ = converted(ruledsl.parse(EVERY_STEP))
    resumed.load_state_dict(net.state_dict())
    resumed.ruledsl.load_state(net.ruledsl.state())
    assert (resumed.ruledsl.step, resumed.ruledsl.phase) == (0, "look")
    for one in (net, resumed):
        step(one, optimizers(one, task=sgd), x, labels)
    assert resumed.ruledsl.step == 1
    assert torch.equal(net.fc2.B, resumed.fc2.B)
