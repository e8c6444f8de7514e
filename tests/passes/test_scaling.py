"""What the compiler says of scale and sums is held against values: of the library, and of random rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from passes.values import W, b, delta, rate, size, u, value, x

import ruledsl
from generators.programs import parsed
from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import const, signal, walk
from ruledsl.ir.operations import make
from ruledsl.ir.types import OUT, activity
from ruledsl.library import names
from ruledsl.passes.accumulation import accumulation
from ruledsl.passes.scaling import Scaling, scaling_of
from ruledsl.reference import run_phase
from ruledsl.verification.cases import BATCH, random_values, reference_layer
from ruledsl.verification.executor import deviation
from ruledsl.verification.geometries import DENSE

BATCHED, ERRORS = ("x", "u", "delta", "e", "target"), ("delta", "e")
LIBRARY = [name for name in names() if ruledsl.load(name).kind == "rule"]
LAYER = reference_layer(DENSE[0])
e = signal("e", activity(OUT))
taught = make("outer", delta, x, attrs=(None,))
hebbian = make("outer", u, x, attrs=(None,))
averaged = make("outer", delta, x, attrs=("batch",))

SCALINGS = {
    "an error": (delta, Scaling(1, "each")),
    "an activity": (u, Scaling(0, "each")),
    "a weight": (W, Scaling(0, "nothing")),
    "the number of examples": (size, Scaling(0, "batch")),
    "a kernel gradient": (taught, Scaling(1, "sum")),
    "a Hebbian product": (hebbian, Scaling(0, "sum")),
    "an average": (averaged, Scaling(1, "batch")),
    "a gradient and decay": (make("add", taught, make("mul", rate, W)), Scaling(None, "batch")),
    "a gated gradient": (make("where", make("gt", W, 0.0), taught, 0.0), Scaling(1, "sum")),
    "a gradient between activities": (make("apply", taught, x), Scaling(1, "batch")),
    "a product of errors": (make("mul", delta, delta), Scaling(2, "each")),
    "a normalized error": (make("div", delta, make("l2_norm", delta, attrs=("units",))), Scaling(None, "each")),
    "an error by its largest": (make("div", delta, make("std", delta, attrs=("units",))), Scaling(0, "each")),
    "the sign of an error": (make("sign", delta), Scaling(0, "each")),
    "the sign of an error and an activity": (make("sign", make("add", delta, u)), Scaling(None, "each")),
    "an error against a number": (make("gt", delta, rate), Scaling(None, "each")),
    "an error against nothing": (make("gt", delta, 0.0), Scaling(0, "each")),
    "a squashed error": (make("tanh", delta), Scaling(None, "each")),
    "half an error where it is large": (make("where", make("gt", delta, 0.0), delta, 0.0), Scaling(1, "each")),
    "a centred error": (make("sub", delta, make("mean", delta, attrs=("batch",))), Scaling(1, "batch")),
    "the root of its square": (make("sqrt", make("mul", delta, delta)), Scaling(1, "each")),
    "nothing": (const(0.0), Scaling(zero=True)),
}


@pytest.mark.parametrize("node, expected", SCALINGS.values(), ids=SCALINGS)
def test_a_value_scales_as_its_operations_do(node, expected):
    assert scaling_of(node) == expected


# --- against values ---


def part(values, start, stop):
    cut = {name: values[name][start:stop] for name in BATCHED}
    return {**values, **cut, "delta_k": [d[start:stop] for d in values["delta_k"]], "batch_size": float(stop - start)}


def louder(values, factor):
    scaled = {name: factor * values[name] for name in ERRORS}
    return {**values, **scaled, "delta_k": [factor * d for d in values["delta_k"]]}


def result(equation: Equation, equations: Equations, values):
    with np.errstate(all="ignore"):
        outputs = run_phase(replace(equations, equations=(equation,)), equation.phase, LAYER, values)
    return outputs.send if equation.role == "send" else outputs.grads[equation.target, equation.optimizer]


def judged(equation: Equation, equations: Equations, seed: int) -> tuple[bool, bool]:
    """Whether a result scales with the errors, and adds up over two parts of a batch, as its values show."""
    values = random_values(equations, LAYER, np.random.default_rng(seed))
    whole, doubled = (result(equation, equations, each) for each in (values, louder(values, 2.0)))
    parts = [result(equation, equations, part(values, *cut)) for cut in ((0, 1), (1, BATCH))]
    together = np.concatenate(parts) if equation.role == "send" else parts[0] + parts[1]
    if not np.isfinite(whole).all():
        return True, True
    return deviation(doubled, 2 * whole) < 1e-9, deviation(together, whole) < 1e-9


def of_passes(rule: ruledsl.Rule) -> list[Equation]:
    """What a pass through one layer gives: sends and pseudo-gradients."""
    return [own for own in rule.equations.equations if own.role in ("send", "grad") and own.phase == "task"]


@pytest.mark.parametrize("name", LIBRARY)
def test_of_the_library_what_is_said_is_what_values_show(name):
    rule = ruledsl.load(name)
    for equation in of_passes(rule):
        summed = equation.with_value(accumulation(equation.value).summed)
        said = scaling_of(summed.value)
        assert (said.scales, said.adds) == judged(summed, rule.equations, 0), equation.target


@pytest.mark.parametrize("seed", range(150))
def test_of_random_rules_nothing_is_said_that_values_deny(seed):
    rule = parsed(seed)
    for equation in of_passes(rule):
        said = scaling_of(equation.value)
        scales, adds = judged(equation, rule.equations, seed)
        assert scales >= said.scales and adds >= said.adds, (equation.target, said)


# --- what counts once ---


@pytest.mark.parametrize("seed", range(150))
def test_what_is_summed_and_what_counts_once_are_the_whole(seed):
    rule = parsed(seed)
    values = random_values(rule.equations, LAYER, np.random.default_rng(seed))
    for equation in of_passes(rule):
        if equation.role == "grad":
            stages = accumulation(equation.value)
            whole = equation.with_value(stages.summed if stages.value is None else stages.value)
            found, expected = (result(each, rule.equations, values) for each in (whole, equation))
            assert deviation(found, expected) < 1e-9
            if stages.value is not None:
                assert any(node is stages.summed for node in walk(stages.value))


DIVIDED = {
    "decay": (make("add", taught, make("mul", rate, W)), taught),
    "decay in front": (make("sub", make("mul", rate, W), taught), make("neg", taught)),
    "decay in brackets": (make("mul", rate, make("add", taught, W)), make("mul", rate, taught)),
    "decay on a condition": (make("add", taught, make("where", make("gt", rate, 0.0), W, 0.0)), taught),
    "decay beside an average": (make("add", averaged, W), averaged),
    "nothing but decay": (make("mul", rate, W), const(0.0)),
    "a function of one sum": (make("add", taught, make("norm", taught)), taught),
}


@pytest.mark.parametrize("whole, summed", DIVIDED.values(), ids=DIVIDED)
def test_a_backward_pass_brings_what_is_summed_over_examples(whole, summed):
    stages = accumulation(whole)
    assert np.allclose(value(stages.summed), value(summed))
    assert stages.value is not None and np.allclose(value(stages.value), value(whole))


NEEDS_THE_PASS = {
    "a clipped sum, times the number of examples": make("mul", size, make("tanh", taught)),
    "decay by the number of examples": make("add", taught, make("mul", size, W)),
}


@pytest.mark.parametrize("whole", NEEDS_THE_PASS.values(), ids=NEEDS_THE_PASS)
def test_what_reads_the_number_of_examples_is_computed_in_the_pass(whole):
    stages = accumulation(whole)
    assert stages.value is None and not scaling_of(stages.summed).adds


def test_the_size_of_a_space_is_asked_of_a_tensor_and_not_of_activity():
    by_size = make("div", b, make("count", u, attrs=("units",)))
    stages = accumulation(make("add", make("total", delta), by_size))
    assert stages.once is not None and not any(node.op == "signal" for node in walk(stages.once))
    assert np.allclose(value(stages.once), value(by_size))


def test_where_no_tensor_has_it_the_term_stays_in_the_pass():
    assert accumulation(make("add", taught, make("div", W, make("count", x, attrs=("units",))))).value is None


@pytest.mark.parametrize("seed", range(150))
def test_what_counts_once_reads_no_activity(seed):
    for equation in parsed(seed).equations.equations:
        if equation.role == "grad":
            stages = accumulation(equation.value)
            nodes = [] if stages.value is None else walk(stages.value, until={id(stages.summed)})
            assert not {"signal"} & {node.op for node in nodes if node is not stages.summed}


@pytest.mark.parametrize("whole", [taught, hebbian, averaged, make("mul", rate, taught)])
def test_a_pseudo_gradient_without_such_a_term_stays_in_one_piece(whole):
    stages = accumulation(whole)
    assert stages.summed is whole and stages.value is None
