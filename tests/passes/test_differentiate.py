"""The derivative of every operation is its slope: against finite differences on the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from passes.values import LAYERS, W, b, checked, values_of, x

from ruledsl.ir.equations import Energy
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS, make
from ruledsl.passes.differentiate import gradient
from ruledsl.passes.lower import lower
from ruledsl.reference.interpreter import evaluate

H = "(B.T @ x)"
ENERGIES: dict[str, tuple[str, ...]] = {
    "total": (f"dot(total({H}), c)", f"sq(total({H} * c, mean=all) + c)", f"sq(c - total({H}, mean=batch))"),
    "add": (f"sq({H} + c)", f"dot({H} + c, u) * (s + sq(c))"),
    "sub": (f"sq({H} - c)", f"sq(c - {H})"),
    "mul": (f"dot({H} * c, u)", f"norm(B) * sq({H} * u) + sq(c)", f"sq({H} * sq(c))"),
    "div": (f"dot(u, {H} / (2 + c * c))", f"sq({H} + c) / (1 + norm(B))"),
    "pow": (f"sq(({H} * {H} + 1) ** 1.5 + c)", "dot(u, (1 + u * u) ** (0.1 * c)) + sq(B)"),
    "neg": (f"dot(-{H}, u) + sq(-c)",),
    "relu": (f"sq(relu({H} + c))",),
    "abs": (f"dot(abs({H} + c), u)",),
    "exp": (f"dot(exp(0.1 * {H}), c * u)",),
    "log": (f"dot(log(1 + {H} * {H}), c * u)",),
    "tanh": (f"dot(tanh({H} + c), u)",),
    "sqrt": (f"dot(sqrt(1 + {H} * {H}), c * u)",),
    "min": (f"sq(min({H}, c))", f"sq(min({H}, 0.2)) + sq(c)"),
    "max": (f"sq(max({H}, c))", f"sq(max(0.2, {H})) + sq(c)"),
    "where": (f"sq(if u > 0.1 then {H} else c)", f"sq(if u > 0 then 0.5 else {H} * c)"),
    "phi": (f"dot(phi({H} + c), u)",),
    "apply": (f"sq({H} + c)", f"sq(B @ (u * c)) + sq({H})", f"dot(B @ mean(u * c, batch), x) + dot(u, {H})"),
    "outer": (
        f"dot(outer({H}, x), W) + sq(c)",
        f"sq(outer({H} + c, x, mean=batch))",
        f"sq(outer(x, {H} + c, mean=all))",
        f"sq(outer(u * c, B @ {H}, mean=all) - W)",
    ),
    "transpose": ("sq(W - B.T) + sq(c)",),
    "dot": (f"dot({H}, c * u)", f"dot({H}, mean(u, batch)) + sq(c)", "dot(B.T, W) + dot(c, c)"),
    "sq": (f"sq({H} * c) + sq(B)", f"sq(mean({H}, batch)) + sq(c)"),
    "norm": ("norm(B) * norm(W - B.T) + sq(c)",),
    "mean": (
        f"sq(mean({H} * c, batch))",
        f"sq(mean({H} + c, units))",
        f"sq(mean({H} + c, positions))",
        f"mean(B * B) + dot(mean(mean({H}, batch), units), u * c)",
    ),
    "std": (f"sq(std({H} + c, units))", f"dot(std({H} * c, batch), u)", f"std(B) + sq(std({H} * c, positions))"),
    "l2_norm": (f"dot(normalize({H} + c, units), u)", f"dot(normalize({H} * c, batch), u)"),
    "full_like": ("dot(full_like(W, norm(B)), W) + sq(c)", "dot(full_like(u, sq(c)), u) + sq(B)"),
}
CASES = [(op, energy) for op, energies in ENERGIES.items() for energy in energies]


def slope(energy: Node, layer: Any, values: dict[str, Any], target: str, direction: Any, step: float = 1e-6) -> float:
    up, down = ({**values, target: values[target] + sign * step * direction} for sign in (1, -1))
    return float(evaluate(energy, layer, up) - evaluate(energy, layer, down)) / (2 * step)


def refuse(code: str, place: object, **values: object) -> None:
    pytest.fail(f"{code} {values}")


def assert_is_the_slope(energy: Energy, layer: Any, values: dict[str, Any]) -> None:
    found = gradient(energy, refuse)
    for target, node in found.items():
        computed = np.asarray(evaluate(node, layer, values))
        shape = np.shape(values[target])
        if computed.size != np.prod(shape):
            computed = layer.sum_to_units(computed)
        computed = np.broadcast_to(computed.reshape(shape) if computed.size == np.prod(shape) else computed, shape)
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=shape)
            expected = slope(energy.value, layer, values, target, direction)
            np.testing.assert_allclose(np.sum(computed * direction), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize(("op", "energy"), CASES)
def test_a_derivative_is_the_slope(op: str, energy: str, shape: str) -> None:
    found = checked(f"minimize {energy} over B, c")
    assert found.typed is not None
    (lowered,) = lower(found.typed).energies
    assert op in {node.op for node in walk(lowered.value)}
    assert_is_the_slope(lowered, LAYERS[shape], values_of(found, LAYERS[shape]))


def test_every_operation_with_a_derivative_has_an_energy() -> None:
    assert set(ENERGIES) | {"sum_all"} == {name for name, row in OPERATIONS.items() if row.derivative is not None}


@pytest.mark.parametrize("shape", LAYERS)
def test_a_sum_over_everything_has_its_slope_too(shape: str) -> None:
    """No rule writes `sum_all`; the derivative of a product with a scalar does."""
    value = make("add", make("sum_all", make("mul", W, W)), make("sum_all", make("mul", make("apply", W, x), b)))
    layer = LAYERS[shape]
    place = checked("").typed.phases["task"].place  # type: ignore[union-attr]
    assert_is_the_slope(Energy(("W", "b"), "task", value, place, "task"), layer, values_of(checked(""), layer))


def test_only_the_named_weights_vary() -> None:
    found = checked("minimize dot(B.T @ x, W @ x) over B")
    assert found.typed is not None
    (energy,) = lower(found.typed).energies
    assert set(gradient(energy, refuse)) == {"B"}


def test_an_energy_adds_to_the_pseudo_gradient_that_is_there() -> None:
    alone, energy = checked("grad B = outer(x, delta)"), checked("minimize sq(B) over B")
    both = checked("grad B = outer(x, delta)\nminimize sq(B) over B")
    layer = LAYERS["dense"]
    values = values_of(both, layer)

    def grad(found: Any) -> Any:
        (equation,) = [e for e in found.equations.equations if (e.role, e.target) == ("grad", "B")]
        return evaluate(equation.value, layer, values)

    np.testing.assert_allclose(grad(both), grad(alone) + grad(energy), rtol=1e-12)


def test_what_differentiation_makes_stands_where_the_term_stood() -> None:
    found = checked("minimize sq(B) + dot(B.T @ x, delta) over B")
    assert found.typed is not None
    (energy,) = lower(found.typed).energies
    for node in walk(*gradient(energy, refuse).values()):
        assert node.place is not None or node.op in ("const", "add")  # a sum of several terms stands nowhere
