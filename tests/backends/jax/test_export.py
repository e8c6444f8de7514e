"""The whole training step of every rule is lowered for a CPU, for CUDA and for a TPU, and computes what it computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax import export

import ruledsl
from ruledsl import data
from ruledsl.architectures import Architecture
from ruledsl.architectures.components import Conv, Dense, Flatten, Norm, Pool
from ruledsl.training import Config
from ruledsl.training.loop import steps_of
from ruledsl.training.preparation import resolved
from ruledsl_jax.engine import Engine

RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]
PLATFORMS = ("cpu", "cuda", "tpu")
LAYERS = (
    Conv("conv1", 4, 3, "relu", stride=2, norm=Norm("before")),
    Conv("conv2", 4, 3, "tanh", padding=1),
    Pool("max", 2, 2, ceil=True),
    Flatten(),
    Dense("fc1", 10),
)
NETWORK = Architecture("small", (1, 8, 8), 10, LAYERS)


@pytest.mark.parametrize("rule", RULES)
def test_a_training_step_is_exported_for_every_platform(rule: str) -> None:
    dataset = data.load("digits").limited(32, 16).standardized()
    program = ruledsl.load(rule).compile("jax")
    config = Config.model_validate({"backend": "jax", "data": {"batch_size": 8}, "epochs": 3})
    config = resolved(config, dataset, (program, None))
    engine = Engine()
    engine.init(NETWORK, program, None, config)
    run = steps_of(dataset, config, program.schedule, 2)
    told = jax.tree.map(lambda value: value[0], engine.told(run, slice(0, 1)))
    images = engine.on_device(run.split)
    leaves, structure = jax.tree.flatten((engine.carry, jax.tree.map(_data, engine.numbers), images, told))
    for kind, _ in enumerate(engine.programs.kinds):

        def step(*leaves: Any, kind: int = kind) -> list[Any]:
            carry, numbers, images, told = jax.tree.unflatten(structure, leaves)
            after, seen = engine.programs._step(engine.programs.kinds[kind], carry, _keys(numbers), images, told)
            return jax.tree.leaves((after, seen))

        exported = export.export(jax.jit(step), platforms=PLATFORMS)(*leaves)
        assert exported.platforms == PLATFORMS
        found = exported.call(*leaves)
        for one, other in zip(found, jax.jit(step)(*leaves), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def _data(value: Any) -> Any:
    """Random keys do not leave a program; what they are made of does."""
    return jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value


def _keys(numbers: Any) -> Any:
    return numbers._replace(keys=jax.tree.map(partial(jax.random.wrap_key_data, impl="threefry2x32"), numbers.keys))
