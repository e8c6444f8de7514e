"""When what happens: the learning rate of a step, and the phases of a step."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from ruledsl.program import Schedule
from ruledsl.training.config import ScheduleConfig


@dataclass(frozen=True)
class Clock:
    """The time of one training step, which counts from 0, as epochs do; `progress` runs from 0 to 1 over the run.

    steps_per_epoch  of the epoch that the step belongs to
    begun            that epoch and its first step; left out, all epochs are as long as this one
    """

    step: int
    steps_per_epoch: int
    epochs: int
    begun: tuple[int, int] | None = None

    @property
    def epoch(self) -> int:
        """The epoch that this step belongs to."""
        return self.step // self.steps_per_epoch if self.begun is None else self.begun[0]

    @property
    def epochs_passed(self) -> float:
        """The time in epochs, fractions included."""
        if self.begun is None:
            return self.step / self.steps_per_epoch
        epoch, first = self.begun
        return epoch + (self.step - first) / self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The part of the run that is over."""
        return self.epochs_passed / self.epochs


def rate_factor(config: ScheduleConfig, clock: Clock, first: float = 0.0) -> float:
    """What the learning rate of a step is multiplied by; the schedule begins after `first` epochs.

    In a warm-up of n steps, step k (from 0) has the factor (k + 1) / n, so that the first step moves already.
    """
    passed = max(0.0, clock.epochs_passed - first)
    over = [end for end in config.at if end <= passed]
    drops = len(over) if config.at else int(passed // config.every) if config.every else 0
    warm = min(1.0, (passed + 1 / clock.steps_per_epoch) / config.warmup) if config.warmup else 1.0
    if config.cosine:
        begins, ends = first + config.warmup, clock.epochs
        way = (clock.epochs_passed - begins) / max(ends - begins, 1e-9)
        warm *= (1 + cos(pi * min(1.0, max(0.0, way)))) / 2
    return float(warm * config.factor**drops)


def first_epochs(schedule: Schedule) -> float:
    """How many epochs the `first` phases take; the learning rate's schedule starts behind them."""
    return sum(epochs for epochs, _ in schedule.first)
