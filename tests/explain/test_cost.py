"""The cost of a rule by the model of `ruledsl.explain.cost`, counted by hand for one layer."""

from __future__ import annotations

import pytest

import ruledsl
from ruledsl.explain.cost import (
    BYTES,
    SGD_PASSES,
    STORE_PASSES,
    Cost,
    LayerSize,
    backprop_cost,
    only_for_feedback,
    phase_cost,
    relative_time,
    step_cost,
)
from ruledsl.rule import Rule

BATCH, PRE, POST, CLASSES = 8, 30, 20, 10
DENSE = LayerSize("fc", PRE * POST, PRE * POST, PRE, POST, PRE, POST, CLASSES, (), True)
ONE_APPLICATION = BATCH * PRE * POST


def rule(body: str) -> Rule:
    everything = "locality { allow reverse(W) -> send }" if "feedback" not in body else ""
    return ruledsl.parse(f"rule r {{\n{body}\n{everything}\n}}")


def cost(body: str, phase: str = "task") -> Cost:
    return phase_cost(rule(body).equations, phase, [DENSE], BATCH)


def test_backprop_takes_two_products_for_the_backward_pass() -> None:
    assert cost("").multiply_adds == 2 * ONE_APPLICATION
    assert backprop_cost([DENSE], BATCH).multiply_adds == 3 * ONE_APPLICATION


def test_backprop_moves_every_argument_and_result_once() -> None:
    send, grad_W = BATCH * POST + BATCH * PRE + PRE * POST, BATCH * (PRE + POST) + PRE * POST
    grad_b = BATCH * POST + POST
    passes = SGD_PASSES * (PRE * POST + POST)
    assert cost("").bytes == BYTES * (send + grad_W + grad_b + passes)


def test_a_kernel_gradient_that_two_weights_share_is_paid_for_once() -> None:
    one = cost("weight B : post -> pre ~ normal(0, 1)\nfeedback send = B @ delta")
    two = cost("weight B : post -> pre ~ normal(0, 1)\nfeedback send = B @ delta\ngrad B = outer(x, delta)")
    assert two.multiply_adds == one.multiply_adds
    assert two.bytes == one.bytes + BYTES * SGD_PASSES * PRE * POST


def test_what_is_stored_is_copied_once() -> None:
    stored = cost("state h : pre -> post = 0\nh <- 0\nfeedback send = 0 * x")
    unstored = cost("feedback send = 0 * x")
    assert stored.bytes - unstored.bytes == BYTES * STORE_PASSES * PRE * POST


def test_a_draw_counts_every_number() -> None:
    body = "fresh B : post -> pre ~ normal(0, 1)\nfeedback send = B @ delta"
    assert cost(body).drawn == PRE * POST


def test_a_map_from_the_output_costs_its_own_size() -> None:
    body = "fixed B : out -> pre ~ normal(0, 1)\nfeedback send = B @ e\nlocality { allow broadcast(e) -> send }"
    assert cost(body).multiply_adds == BATCH * CLASSES * PRE + ONE_APPLICATION


def test_the_first_layer_computes_nothing_that_serves_the_feedback_alone() -> None:
    first = LayerSize("fc", PRE * POST, PRE * POST, PRE, POST, PRE, POST, CLASSES, (), False)
    equations = ruledsl.load("kolen_pollack").equations
    assert only_for_feedback(equations, "B")
    assert not only_for_feedback(equations, "W")
    assert phase_cost(equations, "task", [first], BATCH).multiply_adds == ONE_APPLICATION


@pytest.mark.parametrize("schedule", ["each step : task, second", "alternate : task, second"])
def test_phases_of_one_step_add_up_and_alternating_ones_share_it(schedule: str) -> None:
    body = f"state h : post = 0\nphase second {{ h <- total(u) }}\nschedule {{ {schedule} }}"
    costs = step_cost(rule(body).equations, [DENSE], BATCH)
    both = costs["task"].multiply_adds + costs["second"].multiply_adds
    assert costs["step"].multiply_adds == (both if schedule.startswith("each") else both // 2)


def test_backprop_takes_as_long_as_backprop() -> None:
    assert relative_time(ruledsl.load("backprop").equations, [DENSE], BATCH) == 1.0
    assert relative_time(ruledsl.load("weight_mirror").equations, [DENSE], BATCH) > 1.0
