"""Every rule of the library learns in every transformation of JAX what it learns without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
from backends.jax import alone, on_a_mesh
from jax import numpy as jnp

import ruledsl

OTHERS = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule" and name not in alone.KINDS]


def same(found: Any, wanted: Any) -> None:
    """Trees of equal structure whose leaves agree."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1.0, float(np.abs(b).max(initial=0))))


@pytest.mark.parametrize("name", [*alone.KINDS, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_a_step_is_the_same_in_every_transformation(name: str) -> None:
    with jax.enable_x64(True):
        init, loss, step = alone.network(ruledsl.load(name).compile("jax").module)
        keys, data = jax.random.split(jax.random.key(0), 2), alone.batch()
        start = init(keys[0])
        gradient = jax.jit(jax.grad(loss))
        wanted = gradient(*start, *data)
        same(jax.jit(jax.grad(jax.checkpoint(loss)))(*start, *data), wanted)
        same(jax.grad(jax.jit(loss))(*start, *data), wanted)
        together = jax.jit(jax.vmap(lambda key: step(*init(key), key, *data)))(keys)
        once = jax.jit(step)(*start, keys[0], *data)
        same(jax.tree.map(lambda leaf: leaf[0], together), once)
        twice = jax.jit(step)(*once, keys[1], *data)
        same(
            jax.jit(lambda start: jax.lax.scan(lambda s, key: (step(*s, key, *data), None), start, keys)[0])(start),
            twice,
        )


@pytest.mark.parametrize("names", [alone.KINDS, pytest.param(OTHERS, marks=pytest.mark.long)], ids=["kinds", "others"])
def test_a_mesh_of_devices_learns_what_one_device_learns(names: Sequence[str]) -> None:
    """In a process of its own, since the number of devices is fixed when JAX starts."""
    place = Path(on_a_mesh.__file__)
    tests, root = place.parents[2], place.parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tests, root, root / "backends")))}
    done = subprocess.run([sys.executable, place, *names], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same on 4 devices\n"


def test_what_a_layer_needs_is_required_by_name() -> None:
    module: Any = ruledsl.load("drtp").compile("jax").module
    layer = module.Linear.__args__[0](5, 4)
    params, state = module.init(layer, jax.random.key(0), classes=3)
    with pytest.raises(TypeError, match="target"):
        module.apply(layer, params, state, jnp.ones((2, 5)))


def test_hyperparameters_may_change_in_time() -> None:
    module: Any = ruledsl.load("kolen_pollack").compile("jax").module
    layer = module.Linear.__args__[0](5, 4)
    params, state = module.init(layer, jax.random.key(0))

    def gradient(**told: Any) -> Any:
        return jax.grad(lambda p: module.apply(layer, p, state, jnp.ones((2, 5)), **told).sum())(params)

    strong = jax.jit(lambda decay: gradient(decay=decay))(0.5)
    np.testing.assert_allclose(strong.W - gradient(decay=0.0).W, 0.5 * params.W, rtol=1e-4, atol=1e-6)
    many = jax.vmap(lambda decay: gradient(decay=decay))(jnp.asarray([0.0, 0.5]))
    np.testing.assert_allclose(many.B[1], strong.B, rtol=1e-6)
