"""When what happens: the learning rate of a step, and the phases of a step."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from ruledsl.program import Schedule
from ruledsl.training.config import ScheduleConfig


@dataclass(frozen=True)
class Clock:
    """The time of one training step. `epoch` counts from 0; `progress` runs from 0 to 1 over the whole run."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        """The epoch that this step belongs to."""
        return self.step // self.steps_per_epoch

    @property
    def epochs_passed(self) -> float:
        """The time in epochs, fractions included."""
        return self.step / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The part of the run that is over."""
        return self.step / (self.steps_per_epoch * self.epochs)


def rate_factor(config: ScheduleConfig, clock: Clock, first: float = 0.0) -> float:
    """What the learning rate of a step is multiplied by; the schedule begins after `first` epochs.

    In a warm-up of n steps, step k (from 0) has the factor (k + 1) / n, so that the first step moves already.
    """
    step = max(0.0, clock.step - first * clock.steps_per_epoch)
    passed = [end for end in config.at if end * clock.steps_per_epoch <= step]
    drops = len(passed) if config.at else int(step // (config.every * clock.steps_per_epoch)) if config.every else 0
    warm = min(1.0, (step + 1) / (config.warmup * clock.steps_per_epoch)) if config.warmup else 1.0
    if config.cosine:
        begins, ends = first + config.warmup, clock.epochs
        way = (clock.epochs_passed - begins) / max(ends - begins, 1e-9)
        warm *= (1 + cos(pi * min(1.0, max(0.0, way)))) / 2
    return float(warm * config.factor**drops)


def first_epochs(schedule: Schedule) -> float:
    """How many epochs the `first` phases take; the learning rate's schedule starts behind them."""
    return sum(epochs for epochs, _ in schedule.first)
