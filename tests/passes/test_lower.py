"""What the author leaves out is written in, and means what the language says it does."""

from __future__ import annotations

from typing import Any

import numpy as np
from passes.values import LAYERS, checked, values_of

import ruledsl
from ruledsl.checked import Checked
from ruledsl.ir.nodes import reads, walk
from ruledsl.reference import run_phase
from ruledsl.reference.interpreter import evaluate

LAYER = LAYERS["everything"]


def outputs(found: Checked, phase: str = "task", **changed: Any) -> Any:
    assert found.lowered is not None
    return run_phase(found.lowered, phase, LAYER, {**values_of(found, LAYER), **changed})


def test_a_rule_that_says_nothing_is_backprop() -> None:
    found = checked("")
    values, given = values_of(found, LAYER), outputs(found)
    np.testing.assert_allclose(given.send, LAYER.adjoint(values["W"], values["delta"]))
    np.testing.assert_allclose(given.grads["W", "task"], LAYER.outer(values["delta"], values["x"]))
    np.testing.assert_allclose(given.grads["b", "task"], LAYER.sum_to_units(values["delta"]))


def test_a_weight_that_is_assigned_has_no_gradient_of_its_own() -> None:
    given = outputs(checked("W <- 0.9 * W"))
    assert set(given.grads) == {("b", "task")}
    assert set(given.assigned) == {"W"}


def test_a_condition_falls_back_on_what_holds_without_it() -> None:
    found = checked("when step > 5 { feedback send = 2 * x\ngrad B = B\nc <- 0 }")
    values = values_of(found, LAYER)
    before, after = outputs(found, step=0.0), outputs(found, step=9.0)
    np.testing.assert_allclose(before.send, LAYER.adjoint(values["W"], values["delta"]))
    np.testing.assert_allclose(after.send, 2 * values["x"])
    np.testing.assert_array_equal(before.grads["B", "task"], 0 * values["B"])
    np.testing.assert_array_equal(after.grads["B", "task"], values["B"])
    np.testing.assert_array_equal(before.assigned["c"], values["c"])
    np.testing.assert_array_equal(after.assigned["c"], 0 * values["c"])


def test_an_activity_that_is_stored_is_summed_and_an_average_is_spread() -> None:
    found = checked("grad c = total(delta)\ngrad B = s")
    values, given = values_of(found, LAYER), outputs(found)
    np.testing.assert_allclose(given.grads["c", "task"], LAYER.sum_to_units(values["delta"]))
    np.testing.assert_allclose(given.grads["B", "task"], np.full_like(values["B"], values["s"]))


def test_y_is_the_activation_of_u() -> None:
    found = checked("feedback send = B @ y")
    values = values_of(found, LAYER)
    np.testing.assert_allclose(outputs(found).send, LAYER.adjoint(values["B"], np.tanh(values["u"])))
    assert found.lowered is not None
    assert not any("y" in reads(equation.value) for equation in found.lowered.equations)


def test_in_a_driven_phase_every_layer_computes_u_from_its_own_input() -> None:
    found = checked("phase mirror { drive x = normal(0, 1)\nB <- outer(x, u) }\nschedule { each step : task, mirror }")
    values = values_of(found, LAYER)
    u = LAYER.apply(values["W"], values["x"]) + LAYER.spread(values["b"])
    given = outputs(found, "mirror", u=np.zeros_like(values["u"]))
    np.testing.assert_allclose(given.assigned["B"], LAYER.outer(u, values["x"]))


def test_an_energy_over_the_forward_weights_sees_that_u_follows_from_them() -> None:
    """The slope of sq(u) by W; it would be zero if `u` was a constant. It adds to the gradient of the loss."""
    found = checked("minimize sq(u) over W")
    values = values_of(found, LAYER)
    u = LAYER.apply(values["W"], values["x"]) + LAYER.spread(values["b"])
    assert found.lowered is not None
    (equation,) = [e for e in found.lowered.of("grad", phase="task") if e.target == "W"]
    own = evaluate(equation.value, LAYER, values) - LAYER.outer(values["delta"], values["x"])
    np.testing.assert_allclose(own, LAYER.outer(2 * u / len(u), values["x"]), rtol=1e-9, atol=1e-9)


def test_kaiming_draws_by_the_synapses_that_end_on_a_neuron() -> None:
    rule = ruledsl.parse(
        "rule r { fixed B : post -> pre ~ kaiming()\nfixed V : pre -> post ~ xavier()\n"
        "fixed D : out -> pre ~ kaiming()\nfeedback send = (B * V.T) @ delta + D @ e\n"
        "locality { allow broadcast(e) -> send  allow value(V) -> send } }"
    )
    std = {e.target: reads(e.value) for e in rule.equations.of("init")}
    assert std == {"B": {"fan_out"}, "V": {"fan_in", "fan_out"}, "D": {"sources"}}
    assert all(e.value.attrs == ("normal",) for e in rule.equations.of("init"))


def test_a_constraint_acts_after_the_step_under_names_of_its_own() -> None:
    rule = ruledsl.parse(
        "constraint held { state kept : pre -> post = W\nafter step { W <- kept } }\n"
        "rule r { state kept : scalar = 0\nkept <- 1\nfeedback send = 0 * x\nuse held() }"
    )
    assert {"kept", "held_kept"} <= set(rule.equations.tensors)
    (assigned,) = [e for e in rule.equations.of("assign") if e.target == "W"]
    assert assigned.phase == "after step: held"
    assert {str(n.attrs[0]) for n in walk(assigned.value) if n.op == "tensor"} == {"held_kept"}
