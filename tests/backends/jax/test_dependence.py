"""What depends on what, through computations inside of computations; no value is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from ruledsl_jax.dependence import MARK, Dependence


def reached(function: Callable[..., Any], *names: str) -> list[str]:
    """Of each output, the arguments that it depends on."""
    jaxpr = jax.make_jaxpr(function)(*(jnp.ones(3) for _ in names)).jaxpr
    found = Dependence().through(jaxpr, [frozenset({name}) for name in names])
    return ["".join(sorted(sources)) for sources in found]


def test_calls_are_followed_inside() -> None:
    for wrapped in (jax.jit, jax.checkpoint, lambda f: jax.jit(jax.jit(f))):
        assert reached(lambda x, y, w=wrapped: w(lambda x, y: (x + 1, y * x))(x, y), "x", "y") == ["x", "xy"]


def test_a_product_with_zero_and_a_choice_that_is_never_made_are_dependences() -> None:
    assert reached(lambda x, y: x + 0 * y, "x", "y") == ["xy"]
    assert reached(lambda x, y: jnp.where(x > 1e30, y, x), "x", "y") == ["xy"]
    assert reached(lambda x, y: lax.stop_gradient(y) * x, "x", "y") == ["xy"]


def test_shapes_and_types_are_no_data() -> None:
    assert reached(lambda x, y: jnp.zeros(y.shape, y.dtype) + x, "x", "y") == ["x"]


def test_the_predicate_of_a_branch_reaches_what_it_decides() -> None:
    def branch(x: Any, y: Any, z: Any) -> Any:
        return lax.cond(y[0] > 2, lambda x, z: (x, z), lambda x, z: (x + 1, x), x, z)

    assert reached(branch, "x", "y", "z") == ["xy", "xyz"]


def test_loops_carry_what_reaches_them_later() -> None:
    def scan(x: Any, y: Any, z: Any) -> Any:
        return lax.scan(lambda carry, row: ((carry[1], carry[2] + row, carry[2]), carry[0]), (x, x, z), y)

    assert reached(scan, "x", "y", "z") == ["xyz", "xyz", "z", "xyz"]  # or what they began with

    def until(x: Any, y: Any, z: Any) -> Any:
        return lax.while_loop(lambda at: at[0][0] < y[0], lambda at: (at[0] + 1, 2 * at[1]), (x, z))

    assert reached(until, "x", "y", "z") == ["xy", "xyz"]


def test_marks_are_met_inside_of_anything() -> None:
    def marked(x: Any, y: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            return checkpoint_name(checkpoint_name(carry, MARK + "in") * y, MARK + "out"), None

        return jax.checkpoint(lambda x: lax.scan(body, x, None, 2)[0])(x)

    dependence = Dependence(["out"])
    jaxpr = jax.make_jaxpr(marked)(jnp.ones(3), jnp.ones(3)).jaxpr
    (found,) = dependence.through(jaxpr, [frozenset({"x"}), frozenset({"y"})])
    assert found == {"x", "y", "out"}
    assert dependence.met["in"] == {"x", "y", "out"}
