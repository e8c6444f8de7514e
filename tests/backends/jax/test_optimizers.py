"""Definitions of the kind `optimizer`, as optax transformations."""

from __future__ import annotations

import pickle
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import torch
from jax import numpy as jnp
from optimizer_definitions import DEFINITIONS, LIBRARY, Reference, clock, gradients

import ruledsl
import ruledsl_torch
from generators.programs import random_optimizer
from ruledsl.errors import UserError
from ruledsl.verification.executor import python_names
from ruledsl_jax import optimizer
from ruledsl_jax.optimization import factory

SHAPES = {"w": (3, 4), "b": (5,), "k": (2, 3, 2, 2)}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def start(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def given(steps, dtype=jnp.float32):
    found = gradients(tuple(SHAPES.values()), steps)
    return [{name: jnp.asarray(g, dtype) for name, g in zip(SHAPES, step, strict=True)} for step in found]


def told(made, **scalars):
    return scalars if isinstance(made, optax.GradientTransformationExtraArgs) else {}


def trained(made, steps=5, params=None, dtype=jnp.float32):
    params = start(dtype) if params is None else params
    state = made.init(params)
    step = jax.jit(made.update)
    for index, g in enumerate(given(steps, dtype)):
        updates, state = step(g, state, params, **told(made, **clock(index, steps)))
        params = optax.apply_updates(params, updates)
    return params, state


def near(one, other, tolerance=1e-6):
    return all(jnp.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in other)


def compared(rule, dtype, steps=5):
    """How far parameters and states are from the reference, and the parameters."""
    made = optimizer(rule, 0.05)
    params, state = trained(made, steps, dtype=dtype)
    names = python_names(rule.compile("jax"), rule.checked.lowered)
    worst = 0.0
    for index, (name, p) in enumerate(start(dtype).items()):
        reference = Reference(rule, np.asarray(p, np.float64))
        for at, step in enumerate(gradients(tuple(SHAPES.values()), steps)):
            with np.errstate(all="ignore"):
                reference.step(step[index], lr=0.05, **clock(at, steps))
        for written, field in names.items():
            tree = params if written == "p" else getattr(state, field, None)
            if written not in rule.equations.tensors or tree is None:
                continue
            found = np.asarray(tree[name] if isinstance(tree, dict) else tree, np.float64)
            expected = reference[written]
            assert np.array_equal(np.isnan(found), np.isnan(expected)), written
            worst = max(worst, float(np.nanmax(np.abs(found - expected) / (1 + np.abs(expected)), initial=0.0)))
    return worst, params


@pytest.mark.parametrize("name", [*LIBRARY, *DEFINITIONS])
def test_several_steps_are_those_of_the_reference_and_of_pytorch(name, x64):
    rule = ruledsl.parse(DEFINITIONS[name]) if name in DEFINITIONS else ruledsl.load(name)
    worst, params = compared(rule, jnp.float64)
    assert worst < 1e-12
    tensors = [torch.nn.Parameter(torch.tensor(np.asarray(p))) for p in start(jnp.float64).values()]
    twin = ruledsl_torch.optimizer(tensors, rule, lr=0.05)
    for index, g in enumerate(given(5, jnp.float64)):
        twin.observe(**clock(index, 5))
        for p, each in zip(tensors, g.values(), strict=True):
            p.grad = torch.tensor(np.asarray(each))
        twin.step()
    for p, q in zip(tensors, (params[name] for name in SHAPES), strict=True):
        assert np.allclose(p.detach().numpy(), q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*LIBRARY, *DEFINITIONS])
def test_so_they_are_in_single_precision(name):
    rule = ruledsl.parse(DEFINITIONS[name]) if name in DEFINITIONS else ruledsl.load(name)
    assert compared(rule, jnp.float32)[0] < 2e-5


@pytest.mark.parametrize("seed", range(20))
def test_random_optimizers_are_what_the_reference_says(seed, x64):
    try:
        rule = ruledsl.parse(random_optimizer(seed))
    except ruledsl.RuleError:
        pytest.skip("not local")
    if not any(function.target == "p" for function in rule.compile("jax").functions):
        pytest.skip("moves nothing")
    assert compared(rule, jnp.float64)[0] < 1e-9


@pytest.mark.parametrize(
    ("name", "parameters", "theirs"),
    [
        ("sgd", {}, optax.sgd(0.05)),
        ("sgd", {"momentum": 0.9}, optax.sgd(0.05, momentum=0.9)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, optax.sgd(0.05, momentum=0.9, nesterov=True)),
        ("adam", {}, optax.adam(0.05)),
        ("adam", {"beta1": 0.8, "beta2": 0.9, "epsilon": 1e-4}, optax.adam(0.05, b1=0.8, b2=0.9, eps=1e-4)),
    ],
)
def test_the_library_gives_the_numbers_of_optax(name, parameters, theirs):
    assert near(trained(optimizer(name, 0.05, **parameters))[0], trained(theirs)[0])


@pytest.mark.parametrize("name", ["sgd", "adam", "manhattan_1"])
def test_an_update_is_not_rounded_to_the_size_of_the_parameter(name):
    params, g = {"p": jnp.full((4,), 1e4)}, {"p": jnp.full((4,), 0.3)}
    made = optimizer(name, 1e-5)
    update = made.update(g, made.init(params), params)[0]["p"]
    expected = -1e-5 * (0.3 if name == "sgd" else 1.0)
    assert jnp.allclose(update, expected, rtol=1e-5, atol=0)


def test_an_optimizer_that_does_not_read_the_parameters_needs_none():
    made = optimizer("adam", 0.1)
    params = start()
    made.update(given(1)[0], made.init(params))
    decaying = optimizer("sgd", 0.1)
    with pytest.raises(ValueError, match="sgd reads the parameters"):
        decaying.update(given(1)[0], decaying.init(params))


def test_a_learning_rate_may_follow_a_schedule():
    schedule = optax.exponential_decay(0.1, 2, 0.5)
    ours, theirs = optimizer("sgd", schedule, momentum=0.9), optax.sgd(schedule, momentum=0.9)
    assert near(trained(ours)[0], trained(theirs)[0])


def test_noise_is_scaled_and_drawn_anew_from_the_key():
    params = {"a": jnp.zeros(20000), "b": jnp.zeros(20000)}
    found = {}
    for key in (0, 1, jax.random.key(1)):
        made = optimizer("noisy_sgd", 0.1, sigma=0.5, key=key)
        state = made.init(params)
        first, state = made.update(params, state, params)
        second, _ = made.update(params, state, params)
        found[str(key)] = first["a"]
        assert jnp.isclose(first["a"].std(), 0.05, rtol=0.05)
        for one, other in ((first["a"], first["b"]), (first["a"], second["a"])):
            assert abs(jnp.corrcoef(one, other)[0, 1]) < 0.05
    zero, one, same = found.values()
    assert (one == same).all() and not (zero == one).all()
    with pytest.raises(UserError, match="draws nothing"):
        optimizer("sgd", 0.1, key=0)


@pytest.mark.parametrize("name", ["adam", "noisy_sgd"])
def test_states_have_the_type_of_the_parameters(name):
    params = start(jnp.bfloat16)
    made = optimizer(name, optax.constant_schedule(0.1))
    updates, state = jax.jit(made.update)(given(1, jnp.bfloat16)[0], made.init(params), params)
    trees = [updates, state.v if name == "noisy_sgd" else state.m]
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(trees))
    if name == "adam":
        assert state.n.dtype == jnp.float32
    assert jax.tree.map(lambda a: a.dtype, state) == jax.tree.map(lambda a: a.dtype, made.init(params))


@pytest.mark.parametrize("name", ["adam", "noisy_sgd", *DEFINITIONS])
def test_steps_run_inside_scan_and_vmap(name):
    rule = ruledsl.parse(DEFINITIONS[name]) if name in DEFINITIONS else ruledsl.load(name)
    made = optimizer(rule, 0.05)
    steps = jax.tree.map(lambda *gs: jnp.stack(gs), *given(4))

    def run(params):
        def body(carry, g):
            params, state = carry
            updates, state = made.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, made.init(params)), steps)[0][0]

    once = run(start())
    twice = jax.vmap(run)(jax.tree.map(lambda p: jnp.stack((p, p)), start()))
    assert near(jax.tree.map(lambda p: p[1], twice), once, 1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "noisy_sgd", "manhattan_1"])
def test_it_composes_as_optax_does(name):
    ours = optimizer(name, 0.05)
    chained = optax.chain(optax.clip_by_global_norm(1e6), ours)
    alone, _ = trained(ours)
    assert near(trained(chained)[0], alone)
    injected = optax.inject_hyperparams(factory(ruledsl.load(name).compile("jax")))(learning_rate=0.05)
    params, state = trained(injected)
    assert near(params, alone, 1e-5) and "learning_rate" in state.hyperparams
    parted = optax.multi_transform(
        {"ours": optimizer(name, 0.05), "none": optax.set_to_zero()}, {"w": "ours", "b": "none", "k": "ours"}
    )
    params, _ = trained(parted)
    assert (params["b"] == start()["b"]).all() and (name == "noisy_sgd" or near({"w": params["w"]}, {"w": alone["w"]}))
    several = optax.MultiSteps(ours, every_k_schedule=2)
    params, state = trained(several, steps=4)
    assert state.gradient_step == 2 and jax.tree.structure(params) == jax.tree.structure(alone)


def test_an_injected_parameter_may_be_changed():
    made = optax.inject_hyperparams(factory(ruledsl.load("manhattan_1").compile("jax")))(learning_rate=0.05, decay=0.1)
    params = start()
    state = made.init(params)
    state.hyperparams["decay"] = jnp.asarray(0.5)
    changed, _ = made.update(given(1)[0], state, params)
    expected = optimizer("manhattan_1", 0.05, decay=0.5)
    assert near(changed, expected.update(given(1)[0], expected.init(params), params)[0])


def test_parameters_that_decide_may_be_traced():
    text = "optimizer deciding { param cut = 1  p <- if cut > 2 then p - lr * sqrt(cut) * g else p - lr * g }"
    make = factory(ruledsl.parse(text).compile("jax"))
    update = jax.jit(lambda cut: make(0.1, cut=cut).update(jnp.ones(2), make(0.1).init(jnp.ones(2)), jnp.ones(2))[0])
    assert jnp.allclose(update(1.0), -0.1) and jnp.allclose(update(4.0), -0.2)


def test_first_values_do_not_share_memory_with_the_parameters():
    text = "optimizer anchored { state first : p = p  p <- p - lr * (g + p - first) }"
    made = optimizer(ruledsl.parse(text), 0.1)
    params = {"p": jnp.ones(3)}
    state = made.init(params)
    step = jax.jit(made.update, donate_argnums=(1, 2))
    updates, state = step({"p": jnp.ones(3)}, state, params)
    assert jnp.allclose(updates["p"], -0.1)


def test_a_run_continues_in_another_process(tmp_path):
    made = optimizer("adam", 0.1)
    params, state = trained(made, 2)
    (tmp_path / "state").write_bytes(pickle.dumps((ruledsl.load("adam").compile("jax"), params, state)))
    script = """
import pickle, sys
from ruledsl_jax.optimization import factory
program, params, state = pickle.loads(open(sys.argv[1], "rb").read())
updates, state = factory(program)(0.1).update(params, state, params)
print(float(updates["b"][0]), int(state.step))
"""
    run = [sys.executable, "-c", script, str(tmp_path / "state")]
    update, step = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    expected = made.update(params, state, params)[0]["b"][0]
    assert abs(float(update) - expected) < 1e-7 and step == "3"


def test_mistakes_are_named():
    with pytest.raises(UserError, match="did you mean `momentum`"):
        optimizer("sgd", 0.1, momentun=0.9)
    with pytest.raises(UserError, match="there are: beta1"):
        optimizer(ruledsl.load("adam"), 0.1, xyz=0.9)
    with pytest.raises(UserError, match="backprop is no optimizer"):
        optimizer("backprop", 0.1)
