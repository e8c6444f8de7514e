"""When a run is lost although every number in it is finite: losses that no network comes back from."""

from __future__ import annotations

import numpy as np

from ruledsl.training.engine import Diverged, Engine, Score

LOST = 1e5
"""A mean loss of so many times that of guessing."""


class Watch:
    """Looks at every loss of a run. `guessing`: that of a network that knows nothing, ln(classes)."""

    def __init__(self, guessing: float) -> None:
        self.guessing = guessing

    def look(self, score: Score | None, engine: Engine, step: int) -> None:
        """Raises Diverged for a loss that is too large, with the layer whose parameters are the largest."""
        if score is not None and score.loss > LOST * self.guessing:
            raise Diverged(score.loss, largest(engine), step)


def largest(engine: Engine) -> str:
    """The tensor of the network with the largest entry."""
    sizes = {
        name.removeprefix("network."): float(np.abs(value).max())
        for name, value in engine.state().items()
        if name.startswith("network.") and value.size and np.issubdtype(value.dtype, np.floating)
    }
    name = max(sizes, key=lambda name: sizes[name])
    layer, _, tensor = name.rpartition(".")
    return f"layer {layer}: its {tensor}, with entries up to {sizes[name]:.1e}"
