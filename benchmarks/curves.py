"""How far two loss curves are apart, JAX's and PyTorch's: 200 steps of a LeNet on MNIST, every rule.

    python -m benchmarks.curves [RULE ...] [--steps 200]

Both begin with the same weights, see the same batches, and draw in every step what JAX draws. Reported is the largest
distance of two losses of the same step, relative to the loss in PyTorch. The LeNet has tanh and averages, as it first
had: where a ReLU or a maximum stands at its kink, rounding decides where an error goes, and two curves part.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import ruledsl
from benchmarks.targets import Measured
from ruledsl import data
from ruledsl.architectures import Architecture
from ruledsl.architectures.components import Conv, Dense, Flatten, Pool
from ruledsl.training.engine import Diverged

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from backends.both import both

STEPS, BATCH = 200, 16
RULES = tuple(name for name in ruledsl.names() if ruledsl.load(name).kind == "rule")
LENET = Architecture(
    "lenet5",
    (1, 28, 28),
    10,
    (
        Conv("conv1", 6, 5, "tanh", padding=2),
        Pool("average", 2, 2),
        Conv("conv2", 16, 5, "tanh"),
        Pool("average", 2, 2),
        Flatten(),
        Dense("fc1", 120, "tanh"),
        Dense("fc2", 84, "tanh"),
        Dense("fc3", 10),
    ),
)
RATE, MOMENTUM = 2e-3, 0.9
RATES = dict.fromkeys(("brsf", "brsf_p", "frsf", "frsf_p", "usf"), 2e-5)
"""Of rules that send signs without a norm: their errors grow from layer to layer, and with `RATE` a run of them goes
astray, from rounding on."""


def distance(rule: str, steps: int = STEPS) -> float:
    """The largest relative distance of two losses; infinite where one of them is no number."""
    schedule = ruledsl.load(rule).compile("jax").schedule
    # Epochs before the first one with the task, in which no losses may be seen, come on top.
    epochs = 1 + sum(count for count, _ in schedule.first)
    optimizer = {"name": "sgd", "lr": RATES.get(rule, RATE), "momentum": MOMENTUM}
    dataset = data.load("mnist").limited(steps * BATCH, 100).standardized()
    ours, theirs = both(rule, LENET, dataset, epochs=epochs, data={"batch_size": BATCH}, optimizer=optimizer)
    try:
        found, expected = ours.losses()[-steps:], theirs.losses()[-steps:]
    except Diverged:
        return float("inf")
    seen = np.isfinite(expected)
    if not np.array_equal(seen, np.isfinite(found)) or not seen.any():
        return float("inf")
    return float(np.max(np.abs(found[seen] / expected[seen] - 1)))


def measure(rules: Sequence[str] = RULES, steps: int = STEPS) -> dict[str, Measured]:
    """The largest distance of all rules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {rule: distance(rule, steps) for rule in rules}
    worst = max(found, key=found.__getitem__)
    short = [rule for rule in found if found[rule] > 1e-3]
    note = f"{len(found)} rules, worst: {worst}" + (f"; above 1e-3: {', '.join(short)}" if short else "")
    return {"torch": Measured(found[worst], note)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", default=list(RULES))
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    for rule in options.rules:
        print(f"{rule:28} {measure([rule], options.steps)['torch'].value:.1e}", flush=True)


if __name__ == "__main__":
    main()
