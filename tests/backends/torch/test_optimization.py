"""Definitions of the kind `optimizer`, as torch optimizers."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from optimizer_definitions import DEFINITIONS, LIBRARY, Reference, clock, gradients
from torch import nn
from torch.nn import functional as F

import ruledsl
from generators.programs import random_optimizer
from ruledsl.errors import UserError
from ruledsl.verification.executor import python_names
from ruledsl_torch import optimizer

COUNTING = """
optimizer counting {
  state seen : scalar = 0
  seen <- seen + 1
  p <- if step < 2 then p - lr * sqrt(lr) * g * (1 + progress) else p
}
"""


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def batch():
    torch.manual_seed(1)
    return torch.randn(7, 6), torch.randint(3, (7,))


def trained(make, steps=20, net=None):
    net = mlp() if net is None else net
    x, labels = batch()
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
    assert all(torch.allclose(one[key], value, rtol=1e-6, atol=1e-7) for key, value in two.items())


def test_manhattan_moves_every_weight_by_the_learning_rate():
    before = mlp().state_dict()
    after, _ = trained(lambda p: optimizer(p, "manhattan_1", lr=0.01), steps=1)
    moved = (after["4.weight"] - before["4.weight"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.01), atol=1e-6)


@pytest.mark.parametrize("name", ["manhattan_1", "manhattan_2", "manhattan_3", "noisy_sgd"])
def test_every_optimizer_of_the_library_learns(name):
    net = mlp()
    x, labels = batch()
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
    net = mlp()
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


def test_a_pickled_optimizer_learns_on_in_another_process(tmp_path):
    p = nn.Parameter(torch.ones(3))
    rule = optimizer([p], "adam", lr=0.1)
    p.grad = torch.ones(3)
    rule.step()
    (tmp_path / "optimizer").write_bytes(pickle.dumps(rule))
    script = """
import pickle, sys, torch
rule = pickle.loads(open(sys.argv[1], "rb").read())
(p,) = rule.param_groups[0]["params"]
p.grad = torch.ones(3)
rule.step()
print(p[0].item())
"""
    run = [sys.executable, "-c", script, str(tmp_path / "optimizer")]
    found = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    rule.step()
    assert found == p[0].item()


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


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean `momentum`"):
        optimizer([nn.Parameter(torch.ones(1))], "sgd", lr=0.1, momentun=0.9)
    with pytest.raises(UserError, match="there are: beta1"):
        optimizer([nn.Parameter(torch.ones(1))], ruledsl.load("adam"), lr=0.1, xyz=0.9)
    with pytest.raises(UserError, match="backprop is no optimizer"):
        optimizer([nn.Parameter(torch.ones(1))], "backprop", lr=0.1)


def test_an_optimizer_may_swap_what_it_keeps():
    text = "optimizer swap { state m : p = 0  m <- p  p <- m }"
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.zeros(3)
    made = optimizer([parameter], ruledsl.parse(text), lr=0.1)
    made.step()
    assert (parameter == 0).all() and (made.state[parameter]["m"] == 1).all()


# --- both ways of moving, against each other and against the reference ---

SHAPES = ((3, 4), (5,), (2, 3, 2, 2))


def compared(rule, *, foreach, dtype, steps=5, **options):
    """Parameters after some steps, and how far they and their states are from the reference."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape) for shape in SHAPES]
    parameters = [nn.Parameter(torch.tensor(p, dtype=dtype)) for p in start]
    references = [Reference(rule, p) for p in start]
    made = optimizer(parameters, rule, lr=0.05, foreach=foreach, **options)
    for index, step in enumerate(gradients(SHAPES, steps)):
        made.observe(**clock(index, steps))
        for p, g, reference in zip(parameters, step, references, strict=True):
            p.grad = torch.tensor(g, dtype=dtype)
            with np.errstate(all="ignore"):
                reference.step(g, lr=0.05, **clock(index, steps))
        made.step()
    written = {name: key for key, name in python_names(rule.compile("torch"), rule.checked.lowered).items()}
    worst = 0.0
    for p, reference in zip(parameters, references, strict=True):
        for name, value in {"p": p.detach(), **made.state[p]}.items():
            expected = reference.steps if name == "step" else reference[written.get(name, name)]
            found = value.double().numpy()
            assert np.array_equal(np.isnan(found), np.isnan(expected)), name
            worst = max(worst, float(np.nanmax(np.abs(found - expected) / (1 + np.abs(expected)), initial=0.0)))
    return [p.detach() for p in parameters], worst


@pytest.mark.parametrize("name", [*LIBRARY, *DEFINITIONS])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_one_by_one_and_all_at_once_are_what_the_reference_says(name, dtype, near):
    rule = ruledsl.parse(DEFINITIONS[name]) if name in DEFINITIONS else ruledsl.load(name)
    single, off = compared(rule, foreach=False, dtype=dtype)
    together, further_off = compared(rule, foreach=True, dtype=dtype)
    assert off < near and further_off < near
    assert all(torch.allclose(a, b, rtol=near, atol=near) for a, b in zip(single, together, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_random_optimizers_are_what_the_reference_says(seed):
    try:
        rule = ruledsl.parse(random_optimizer(seed))
    except ruledsl.RuleError:
        pytest.skip("not local")
    if not any(function.target == "p" for function in rule.compile("torch").functions):
        pytest.skip("moves nothing")
    for foreach in (False, True):
        assert compared(rule, foreach=foreach, dtype=torch.float64)[1] < 1e-9


def test_noise_is_the_same_in_both_ways():
    found = []
    for foreach in (False, True):
        p = [nn.Parameter(torch.zeros(4, dtype=torch.float64)), nn.Parameter(torch.zeros(2, dtype=torch.float64))]
        rule = optimizer(p, "noisy_sgd", lr=0.1, foreach=foreach)
        for each in p:
            each.grad = torch.ones_like(each)
        torch.manual_seed(0)
        rule.step()
        found.append(torch.cat([each.detach() for each in p]))
    assert torch.equal(*found) and found[0].unique().numel() == 6


@pytest.mark.parametrize("foreach", [False, True])
def test_a_gradient_may_lie_in_memory_in_any_way(foreach):
    found = []
    for shaped in (lambda g: g, lambda g: g.t().contiguous().t(), lambda g: g[:1].expand(4, 3)):
        p = nn.Parameter(torch.ones(4, 3))
        rule = optimizer([p], "adam", lr=0.1, foreach=foreach)
        for _ in range(3):
            p.grad = shaped(torch.arange(3.0).expand(4, 3).contiguous())
            rule.step()
        found.append(p.detach())
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("foreach", [False, True])
def test_parameters_of_several_types_and_without_gradients(foreach):
    p = [nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    idle = nn.Parameter(torch.ones(2))
    rule = optimizer([*p, idle], "adam", lr=0.5, foreach=foreach)
    for each in p:
        each.grad = torch.ones_like(each)
    rule.step()
    assert all(torch.allclose(each.float(), torch.full((2,), 0.5)) for each in p)
    assert all(rule.state[each]["m"].dtype == each.dtype for each in p)
    assert idle not in rule.state and (idle == 1).all()


def test_a_group_without_weight_decay_has_no_decay_under_any_name():
    free, decayed = (nn.Parameter(torch.ones(1)) for _ in range(2))
    rule = optimizer([{"params": [free], "weight_decay": 0}, {"params": [decayed]}], "manhattan_1", decay=0.5)
    assert [group["decay"] for group in rule.param_groups] == [0, 0.5]


def test_a_closure_is_called_with_gradients_enabled():
    p = nn.Parameter(torch.ones(1))
    rule = optimizer([p], "sgd", lr=0.25)

    def closure():
        rule.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert rule.step(closure) == 1 and p == 0.5


def test_what_was_told_and_how_it_moves_are_pickled_too():
    rule = optimizer([nn.Parameter(torch.ones(3))], ruledsl.parse(COUNTING), lr=0.25, foreach=False)
    rule.observe(progress=0.5)
    twin = pickle.loads(pickle.dumps(rule))
    assert twin.clock["progress"] == 0.5 and twin.param_groups[0]["foreach"] is False and type(twin) is type(rule)


@pytest.mark.parametrize("name", ["sgd", "adam", "noisy_sgd", "told"])
def test_a_step_can_be_compiled(name):
    torch._dynamo.reset()
    rule = ruledsl.parse(DEFINITIONS[name]) if name in DEFINITIONS else ruledsl.load(name)
    still = {"sigma": 0.0} if name == "noisy_sgd" else {}
    plain, compiled = (nn.Parameter(torch.ones(5)) for _ in range(2))
    one, other = (optimizer([p], rule, lr=torch.tensor(0.1), **still) for p in (plain, compiled))
    step = torch.compile(other.step, backend="aot_eager")
    for index in range(4):
        for each in (one, other):
            each.param_groups[0]["lr"].fill_(0.1 / (1 + index))
        for p in (plain, compiled):
            p.grad = torch.arange(5.0) - index
        one.step()
        step()
        for name, value in one.state[plain].items():
            assert torch.allclose(value, other.state[compiled][name])
    assert torch.allclose(plain, compiled)
