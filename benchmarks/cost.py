"""What the cost model predicts for a step of every rule, relative to backprop, against what a step takes.

    python -m benchmarks.cost [RULE ...] [--rounds 6]

On ResNet-18 as in `benchmarks.steps`; on a network of dense layers where a rule has a map for every pair of layers,
which no convolutional network can hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import ruledsl
from benchmarks import steps
from benchmarks.targets import Measured
from ruledsl.architectures import Architecture, get
from ruledsl.explain.cost import relative_time
from ruledsl.explain.explanation import layer_sizes

DENSE = get("mlp", (1, 28, 28), steps.CLASSES, hidden=[1024, 1024, 1024])
DENSE_BATCH = 256
TOGETHER = 6  # rules that are measured in one go, and in memory at the same time


def rules() -> list[str]:
    """Every rule of the library that teaches a network."""
    return [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]


def compared(names: Sequence[str], rounds: int) -> Iterator[tuple[str, float, Measured]]:
    """(rule, predicted, measured), the time of a turn relative to plain backprop."""
    dense = [name for name in names if _has_families(name)]
    others = [name for name in names if name not in dense]
    for group, network, batch in ((others, steps.RESNET, steps.BATCH), (dense, DENSE, DENSE_BATCH)):
        for first in range(0, len(group), TOGETHER):
            some = group[first : first + TOGETHER]
            for name, measured in steps.measure(some, network=network, rounds=rounds, batch=batch).items():
                yield name, predicted(name, network, batch), measured


def _has_families(name: str) -> bool:
    return any("[" in str(tensor.type) for tensor in ruledsl.load(name).equations.tensors.values())


def predicted(name: str, network: Architecture, batch: int) -> float:
    """The time of a turn: of all phases of a schedule that alternates."""
    equations = ruledsl.load(name).equations
    return relative_time(equations, layer_sizes(network), batch) * max(1, len(equations.schedule.alternate))


def measure() -> dict[str, Measured]:
    """The largest share by which a prediction is wrong."""
    errors = {name: (p / m.value - 1, p, m.value) for name, p, m in compared(rules(), 6)}
    worst = max(errors, key=lambda name: abs(errors[name][0]))
    error, guess, found = errors[worst]
    return {"error": Measured(abs(error), f"{len(errors)} rules, worst: {worst}, {guess:.2f} for {found:.2f}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", default=rules())
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    for name, guess, found in compared(options.rules, options.rounds):
        print(f"{name:30} predicted {guess:.3f}  measured {found.value:.3f}  {100 * (guess / found.value - 1):+.0f} %")


if __name__ == "__main__":
    main()
