"""What the training loop costs beside the steps: a LeNet on MNIST, batches of 128, data in memory.

python -m benchmarks.overhead
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.targets import Measured
from ruledsl.training import Listener, read_config
from ruledsl.training.engine import Steps
from ruledsl.training.preparation import prepare
from ruledsl.training.signals import Stops
from ruledsl.training.train import start

SETTINGS = ["data.name=mnist", "model.name=liao_mnist", "data.batch_size=128", "epochs=1", "probe_every=0", "threads=1"]


def measure() -> dict[str, Measured]:
    """The share of an epoch's time that is spent outside of its steps: batches, checkpoints, listeners, pauses."""
    with TemporaryDirectory() as folder, Stops() as stops:
        ready = prepare(read_config(settings=[*SETTINGS, f"out={folder}/run"], rule="feedback_alignment"))
        inside, real = [0.0], ready.engine.step  # type: ignore[attr-defined]

        def timed(*given: Any) -> Any:
            begun = time.perf_counter()
            score = real(*given)
            inside[0] += time.perf_counter() - begun
            return score

        around, steps = [0.0, 0.0], ready.engine.steps
        ready.engine.step = timed  # type: ignore[attr-defined]

        def parts(run: Steps) -> Iterator[Any]:
            around[0] = around[0] or time.perf_counter()
            yield from steps(run)
            around[1] = time.perf_counter()

        ready.engine.steps = parts  # type: ignore[method-assign]
        start(ready, Listener(), stops)
        whole = around[1] - around[0]
        return {"share": Measured(1 - inside[0] / whole, f"{whole - inside[0]:.2f} s of {whole:.1f} s")}


if __name__ == "__main__":
    for key, found in measure().items():
        print(f"{key:12} {found.value:.4f}   {found.note}")
