"""Keys by name, and streams on the host in their place: shapes and layouts of JAX, numbers of every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

import ruledsl
from ruledsl.streams import Streams
from ruledsl_jax import layouts, randomness
from ruledsl_jax.host import host_streams
from ruledsl_jax.linear import Convolution, Dense

KEY = jax.random.key(0)


def test_a_key_is_found_by_its_name_alone() -> None:
    B, again, M = (randomness.named(KEY, name) for name in ("B", "B", "M"))
    assert (jax.random.key_data(B) == jax.random.key_data(again)).all()
    assert (jax.random.key_data(B) != jax.random.key_data(M)).any()


def test_with_a_key_of_jax_draws_are_those_of_jax() -> None:
    np.testing.assert_array_equal(randomness.normal(KEY, (3, 4)), jax.random.normal(KEY, (3, 4)))
    uniform = jax.random.uniform(KEY, (3, 4), minval=-1.0, maxval=2.0)
    np.testing.assert_array_equal(randomness.uniform(KEY, -1.0, 2.0, (3, 4)), uniform)
    coins = jnp.where(jax.random.bernoulli(KEY, 0.2, (3, 4)), -1.0, 1.0)
    np.testing.assert_array_equal(randomness.signs(KEY, 0.2, (3, 4)), coins)
    orthogonal = jax.nn.initializers.orthogonal()(KEY, (3, 4))
    np.testing.assert_array_equal(randomness.orthogonal(KEY, (3, 4)), orthogonal)


def test_the_host_draws_in_the_layout_of_the_reference() -> None:
    module: Any = (program := ruledsl.load("feedback_alignment").compile("jax")).module
    layer, source = Convolution(4, 6, (3, 2), (5, 5), groups=2), Streams(1, "conv1")
    _, state = module.init(layer, host_streams(source, program, layer))
    drawn = source.of("B").normal((6, 2, 3, 2)).astype("float32") * np.sqrt(np.float32(1 / layer.fan_out))
    np.testing.assert_allclose(layouts.kernel_from_jax(np.asarray(state.B)), drawn, rtol=1e-6)


def test_layers_downstream_are_told_apart_by_their_paths() -> None:
    module: Any = (program := ruledsl.load("dense_feedback_alignment").compile("jax")).module
    layer, far = Dense(5, 4), [None, Dense(4, 3), Dense(3, 4)]
    source = Streams(1, "fc1")
    below = dict(zip(("fc2", "fc3", "fc4"), far, strict=True))
    _, state = module.init(layer, host_streams(source, program, layer, below), far)
    _, fewer = module.init(layer, host_streams(source, program, layer, {"fc4": far[2]}), far[2:])
    np.testing.assert_array_equal(state.D[2], fewer.D[0])
    assert state.D[0] is None and not np.isin(state.D[1], state.D[2]).any()


def test_noise_in_a_step_may_come_from_the_host() -> None:
    module: Any = (program := ruledsl.load("weight_mirror").compile("jax")).module
    layer = Dense(5, 4)
    streams = host_streams(Streams(1, "fc1"), program, layer)
    params, state = module.init(layer, streams)
    x = Streams(1, "fc1").of("x", "mirror").normal((32, 5)).astype("float32")
    after = module.mirror(layer, params, state, streams, 32)
    by_hand = module.next_B_mirror(layer, params.W, state.B, params.b, jnp.asarray(x))
    np.testing.assert_allclose(after.B, by_hand, rtol=1e-6)
