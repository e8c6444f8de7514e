"""What the probes of a run cost at the default interval, as a share of its time: a LeNet on MNIST, on one thread.

python -m benchmarks.probes [--epochs 5]
"""

from __future__ import annotations

import argparse
import time

from benchmarks.targets import Measured
from ruledsl import data
from ruledsl.training import Config, Listener
from ruledsl.training.loop import run
from ruledsl.training.preparation import load_compiled, prepare_with


def share(backend: str, epochs: int) -> Measured:
    """The time in `Engine.probe`, over that of the whole run with its evaluations."""
    dataset = data.load("mnist").standardized()
    settings = {"model": {"name": "liao_mnist"}, "data": {"name": "mnist", "batch_size": 128}, "threads": 1}
    config = Config.model_validate({"rule": "kolen_pollack", "backend": backend, "epochs": epochs, **settings})
    rule, program = load_compiled(config.rule, {}, backend)
    ready = prepare_with(config, rule, None, (program, None), dataset)
    taken: list[float] = []
    probe = ready.engine.probe

    def timed(held_out: data.Split) -> dict[str, float]:
        start = time.perf_counter()
        found = probe(held_out)
        taken.append(time.perf_counter() - start)
        return found

    ready.engine.probe = timed  # type: ignore[method-assign]
    start = time.perf_counter()
    for _ in run(ready.engine, dataset, ready.config, ready.schedule, Listener()):
        pass
    whole = time.perf_counter() - start
    return Measured(sum(taken) / whole, f"{sum(taken):.2f} s of {whole:.1f} s, {len(taken)} probes")


def measure(epochs: int = 5) -> dict[str, Measured]:
    """Both backends."""
    return {backend: share(backend, epochs) for backend in ("torch", "jax")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    for key, found in measure(parser.parse_args().epochs).items():
        print(f"{key:12} {found.value:.4f}   {found.note}")


if __name__ == "__main__":
    main()
