"""How fast `ruledsl train` is with JAX, relative to PyTorch: images per second, epoch by epoch, on one thread.

    python -m benchmarks.trainers [--epochs 10]

Both engines take turns in one process, an epoch each, in the trainer's own loop. The epochs in which something is
compiled are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.targets import Measured
from benchmarks.turns import ratio
from ruledsl import data
from ruledsl.data import Dataset
from ruledsl.training import Config, Listener
from ruledsl.training.loop import Epoch, run
from ruledsl.training.preparation import load_compiled, prepare_with

LEFT_OUT = 2
CASES: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"name": "mlp"}, "data": {"name": "mnist", "batch_size": 32, "train_images": 9600}},
    "lenet": {"model": {"name": "liao_mnist"}, "data": {"name": "mnist", "batch_size": 32, "train_images": 3200}},
}
"""By key: 784-256-10 and the LeNet of Liao et al., on the first images of MNIST."""


def epochs_of(case: str, backend: str, dataset: Dataset, epochs: int) -> Iterator[Epoch]:
    """A run of feedback alignment, with the settings of `ruledsl train` where a case has none."""
    settings = {"rule": "feedback_alignment", "backend": backend, "threads": 1, "epochs": epochs, **CASES[case]}
    config = Config.model_validate(settings)
    rule, program = load_compiled(config.rule, {}, backend)
    ready = prepare_with(config, rule, None, (program, None), dataset)
    return run(ready.engine, dataset, ready.config, ready.schedule, Listener())


def compared(case: str, epochs: int) -> Measured:
    """The time of an epoch in JAX, relative to the one in PyTorch, median over epochs."""
    dataset = data.load("mnist").limited(CASES[case]["data"]["train_images"], 100).standardized()
    runs = zip(*(epochs_of(case, backend, dataset, epochs) for backend in ("jax", "torch")), strict=True)
    pairs = list(runs)[1 + LEFT_OUT :]
    ours, theirs = ([epoch.seconds for epoch in each] for each in zip(*pairs, strict=True))
    speeds = (f"{len(dataset.train) / median(each):,.0f}" for each in (ours, theirs))
    return Measured(ratio(ours, theirs).value, "{} images/s to {}".format(*speeds))


def measure(epochs: int = 10) -> dict[str, Measured]:
    """All cases."""
    return {case: compared(case, epochs) for case in CASES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    for key, found in measure(parser.parse_args().epochs).items():
        print(f"{key:12} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
