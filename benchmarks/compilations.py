"""What a run in JAX compiles after its first epoch: nothing, or every later step may wait.

    python -m benchmarks.compilations

Counted is every program that JAX compiles or reads from its cache, from one epoch's end to the end of the run, with
everything that `train` does: steps, evaluation, probes, saving weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax

from benchmarks.targets import Measured
from ruledsl.training import Config, Listener, train
from ruledsl.training.loop import Epoch

EVENT = "/jax/core/compile/backend_compile_duration"
EPOCHS = 3
RULES: dict[str, dict[str, Any]] = {
    "feedback_alignment": {},
    "weight_mirror": {},  # phases, some of which come later
    "backprop_noise": {},  # fresh draws
    "kolen_pollack": {"parameters": {"decay": {"start": 0.1, "end": 0.001}}, "schedule": {"warmup": 0.5}},
    "direct_feedback_alignment": {},
    "dense_feedback_alignment": {},
}
MODELS = ("digits_lenet", "mlp")


class Count(Listener):
    """How many programs have been compiled, and at the end of the first epoch."""

    def __init__(self) -> None:
        self.all = self.first = 0
        jax.monitoring.register_event_duration_secs_listener(self.heard)

    def heard(self, event: str, duration: float, **more: Any) -> None:
        """Something took its time."""
        self.all += event == EVENT

    def epoch(self, epoch: Epoch) -> None:
        if epoch.epoch == 1:
            self.first = self.all


def measure() -> dict[str, Measured]:
    """The sum over rules and networks."""
    count = Count()
    later: dict[str, int] = {}
    firsts: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for rule, settings in RULES.items():
                jax.clear_caches()
                count.all = 0
                own = {"rule": rule, "backend": "jax", "epochs": EPOCHS, "model": {"name": model}, **settings}
                train(Config.model_validate({**own, "out": Path(folder, f"{rule}-{model}")}), count)
                firsts.append(count.first)
                later[f"{rule} on {model}"] = count.all - count.first
    late = ", ".join(f"{name} {number}" for name, number in later.items() if number)
    note = f"{len(later)} runs, {min(firsts)} to {max(firsts)} programs before{': ' if late else ''}{late}"
    return {"later": Measured(sum(later.values()), note)}


if __name__ == "__main__":
    for key, found in measure().items():
        print(f"{key:12} {found.value:.3g}   {found.note}")
