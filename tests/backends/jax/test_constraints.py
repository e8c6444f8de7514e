"""An emitted constraint holds after a step what the rule says, whatever the layer's own rule is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from jax import numpy as jnp  # noqa: E402

import ruledsl  # noqa: E402
from ruledsl_jax.linear import Dense  # noqa: E402

LAYER = Dense(5, 4)


def started(name: str, rule: str = "kolen_pollack") -> tuple[Any, Any, Any]:
    """The module of a constraint, params of a layer, and what the constraint keeps of it."""
    module, own = (ruledsl.load(each).compile("jax").module for each in (name, rule))
    params, _ = own.init(LAYER, jax.random.key(0))
    return module, params, module.init(LAYER, params)


def test_weights_keep_their_norm() -> None:
    module, params, state = started("constant_norm")
    moved = params._replace(W=3 * params.W)
    after, kept = jax.jit(lambda p, s: module.after_step(LAYER, p, s))(moved, state)
    np.testing.assert_allclose(after.W, params.W, rtol=1e-6)
    np.testing.assert_array_equal(after.B, params.B)
    assert kept == state


def test_signs_are_frozen_from_a_point_on() -> None:
    module, params, state = started("frozen_signs", "feedback_alignment")
    flipped = params._replace(W=-params.W)

    @jax.jit
    def enforced(progress: Any) -> Any:
        return module.after_step(LAYER, flipped, state, progress=progress, at=0.5)

    early, seen = enforced(0.4)
    np.testing.assert_array_equal(early.W, flipped.W)
    np.testing.assert_array_equal(seen.s, jnp.sign(flipped.W))
    late, seen = enforced(0.6)
    np.testing.assert_array_equal(jnp.sign(late.W), jnp.sign(params.W))
    np.testing.assert_array_equal(seen.s, state.s)


def test_a_constraint_may_read_the_bias_and_a_layer_may_lack_one() -> None:
    text = "constraint recalled { state m : post = b  after step { b <- 0.5 * b  m <- m + b } }"
    module: Any = ruledsl.parse(text).compile("jax").module
    own: Any = ruledsl.load("feedback_alignment").compile("jax").module
    params, _ = own.init(LAYER, jax.random.key(0), b=jnp.ones(4), W=jnp.ones((5, 4)))
    after, state = module.after_step(LAYER, params, module.init(LAYER, params))
    np.testing.assert_array_equal(after.b, 0.5 * jnp.ones(4))
    np.testing.assert_array_equal(state.m, 2 * jnp.ones(4))
    without = params._replace(b=None)
    after, state = module.after_step(LAYER, without, module.init(LAYER, without))
    assert after.b is None
    np.testing.assert_array_equal(state.m, jnp.zeros(4))
