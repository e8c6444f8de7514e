"""Run as a program, with names of rules: the engine learns on four devices what it learns on one."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"

from typing import Any

import numpy as np

import ruledsl
from ruledsl import data
from ruledsl.architectures import Architecture
from ruledsl.architectures.components import Conv, Dense, Flatten, Norm
from ruledsl.training import Config
from ruledsl.training.loop import steps_of
from ruledsl.training.preparation import resolved
from ruledsl_jax.engine import Engine

LAYERS = (Conv("conv1", 4, 3, "relu", stride=2, norm=Norm("before")), Flatten(), Dense("fc1", 10))
NETWORK = Architecture("small", (1, 8, 8), 10, LAYERS)
LR = {"oja": 1e-4, "oja_subspace": 1e-4}


def learnt(rule: str, devices: int) -> tuple[list[float], dict[str, Any]]:
    """Losses and the last state."""
    dataset = data.load("digits").limited(96, 32).standardized()
    program = ruledsl.load(rule).compile("jax")
    epochs = 1 + int(sum(count for count, _ in program.schedule.first))
    settings = {"rule": rule, "backend": "jax", "devices": devices, "epochs": epochs, "data": {"batch_size": 16}}
    sgd = {"name": "sgd", "lr": LR.get(rule, 0.01), "momentum": 0.9}
    config = resolved(Config.model_validate({**settings, "optimizer": sgd}), dataset, (program, None))
    engine = Engine()
    engine.init(NETWORK, program, None, config)
    scores = [s for epoch in range(epochs) for s in engine.steps(steps_of(dataset, config, program.schedule, epoch))]
    losses = [score.loss for score in scores if score] + [engine.evaluate(dataset.test, 32).loss]
    return losses, engine.state()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        (losses, state), (expected, alone) = learnt(name, 4), learnt(name, 1)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=name)
        for key, value in alone.items():
            np.testing.assert_allclose(state[key], value, rtol=1e-4, atol=1e-5, err_msg=f"{name}: {key}")
        print(name, "the same on 4 devices", flush=True)
