"""Taking turns: how long something takes beside something else, on a machine that has other things to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.targets import Measured

Step = Callable[[], object]


def seconds(step: Step) -> float:
    """Of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def beside(plain: Step, turns: Mapping[str, Step], rounds: int, warm: int = 2) -> dict[str, Measured]:
    """The ratio of each turn to the plain step, median over rounds.

    Every turn stands between two plain steps and is divided by their mean: a load on the machine that lasts longer than
    these leaves the ratio as it is.
    """
    for _ in range(warm):
        for step in (plain, *turns.values()):
            step()
    own: dict[str, list[float]] = {name: [] for name in turns}
    other: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        before = seconds(plain)
        for name, step in turns.items():
            own[name].append(seconds(step))
            after = seconds(plain)
            other[name].append((before + after) / 2)
            before = after
    return {name: ratio(own[name], other[name]) for name in turns}


def ratio(own: list[float], plain: list[float]) -> Measured:
    """The median of the ratios, with their quartiles."""
    ratios = [mine / other for mine, other in zip(own, plain, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    note = f"quartiles {low:.3f} to {high:.3f}, {1000 * statistics.median(own):.3g} ms"
    return Measured(statistics.median(ratios), note)
