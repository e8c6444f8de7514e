"""What a population costs beside its members one after the other, in one process: 8 seeds of feedback alignment.

    python -m benchmarks.populations [--epochs 6]

Measured is what `compare` does: where it lets the members go on at the same time, an epoch of all of them in one
program stands between two in which they take turns. Where it trains one after the other, there is nothing to lose; the
note says what the other way would have cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from benchmarks.targets import Measured
from benchmarks.turns import beside
from ruledsl import data
from ruledsl.data import Dataset
from ruledsl.training import Config, Listener
from ruledsl.training.loop import run
from ruledsl.training.population import Member, run_together
from ruledsl.training.preparation import load_compiled, prepare_with

SEEDS = range(8)
CASES: dict[str, dict[str, Any]] = {
    "small mlp": {"model": {"name": "mlp", "options": {"hidden": [32]}}, "data": {"name": "digits"}},
    "mlp": {"model": {"name": "mlp"}, "data": {"name": "mnist", "train_images": 3200}},
    "lenet": {"model": {"name": "digits_lenet"}, "data": {"name": "digits"}},
}
"""By key: 64-32-10, 784-256-10, and the LeNet for digits."""


def members(case: str, dataset: Dataset, epochs: int) -> list[Member]:
    """Ready to learn, a new engine each."""
    ready: list[Member] = []
    for seed in SEEDS:
        settings = {"rule": "feedback_alignment", "backend": "jax", "seed": seed, "epochs": epochs, **CASES[case]}
        config = Config.model_validate(settings)
        rule, program = load_compiled(config.rule, {}, config.backend)
        one = prepare_with(config, rule, None, (program, None), dataset)
        ready.append(Member(one.engine, dataset, one.config, one.schedule))
    return ready


def in_turn(some: list[Member]) -> Iterator[object]:
    """An epoch of every member, one after the other."""
    runs = [run(one.engine, one.dataset, one.config, one.schedule, Listener()) for one in some]
    return zip(*runs, strict=True)


def together(some: list[Member]) -> Iterator[object]:
    """An epoch of every member, in one program."""
    population = some[0].engine.together([one.engine for one in some[1:]])
    assert population is not None
    return run_together(population, some, Listener())


def compared(case: str, epochs: int) -> Measured:
    """The time of an epoch, with its evaluation, median over epochs."""
    chosen = CASES[case]["data"]
    dataset = data.load(chosen["name"]).limited(chosen.get("train_images"), None).standardized()
    ours, theirs = members(case, dataset, 100), members(case, dataset, 1000)
    one, other = together(ours), in_turn(theirs)
    found = beside(lambda: next(other), {case: lambda: next(one)}, epochs)[case]
    if ours[0].engine.faster_together:
        return found
    return Measured(1.0, f"one after the other; together {found.value:.2f}, {found.note}")


def measure(epochs: int = 6) -> dict[str, Measured]:
    """All cases."""
    return {case: compared(case, epochs) for case in CASES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    for key, found in measure(parser.parse_args().epochs).items():
        print(f"{key:12} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
