"""The training loop: one for all backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import log
from typing import Any

from ruledsl.data import Dataset
from ruledsl.program import TASK, Schedule
from ruledsl.training.config import Config
from ruledsl.training.divergence import Watch
from ruledsl.training.engine import Diverged, Engine, Score, Steps
from ruledsl.training.schedule import Clock, first_epochs, rate_factor

BETWEEN_PAUSES = 1.0
"""Seconds of steps, about, after which a run looks up: whether to stop, and whether to save."""


@dataclass(frozen=True)
class Epoch:
    """What is known after `epoch` epochs; the record of epoch 0 is that of the untrained network.

    train     score of the epoch's steps, each before it learnt from its batch; None in epoch 0, and where no step of
              the epoch saw its batch, as in a mirror phase
    test      score on the test images after the epoch
    seconds   time that the steps took, without evaluation
    rate      the factor on the learning rate in the last step
    probes    measurements such as `angle/fc1`, see `ruledsl.training.probes`
    """

    epoch: int
    train: Score | None
    test: Score
    seconds: float
    rate: float
    probes: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Epoch:
        """The inverse of `dataclasses.asdict`."""
        train, test = (each and Score(**each) for each in (record["train"], record["test"]))
        return cls(**{**record, "train": train, "test": test})

    def record(self) -> dict[str, float | int | None]:
        """The line of `metrics.jsonl`."""
        train = self.train
        return {
            "epoch": self.epoch,
            "train_loss": train.loss if train else None,
            "train_error": train.error if train else None,
            "test_loss": self.test.loss,
            "test_error": self.test.error,
            "seconds": self.seconds,
            "images_per_second": train.images / self.seconds if train else None,
            "rate": self.rate,
            **self.probes,
        }


class Listener:
    """Who wants to know how a run goes on; this one does not."""

    def begin(self, title: str, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        """A run is about to start, or to go on when so many steps are done."""

    def note(self, text: str) -> None:
        """Something that the user should know about the run."""

    def step(self, clock: Clock, score: Score | None) -> None:
        """A step is done; it has a score if one of its phases saw the batch."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done and evaluated."""

    def end(self) -> None:
        """The run is over, whatever the reason."""


@dataclass
class Total:
    """Scores, summed up."""

    loss: float = 0.0
    wrong: int = 0
    images: int = 0

    def add(self, score: Score) -> None:
        """Count the images of `score`."""
        self.loss += score.loss * score.images
        self.wrong += score.wrong
        self.images += score.images

    def score(self) -> Score | None:
        """Of all images so far; None if there were none."""
        return Score(self.loss / self.images, self.wrong, self.images) if self.images else None


@dataclass(frozen=True)
class Position:
    """Where a run is between two steps.

    epoch    how many epochs are over and evaluated; -1: the untrained network isn't either
    step     how many steps of the next one are done
    total    what they scored
    seconds  how long they took
    """

    epoch: int = -1
    step: int = 0
    total: Total = field(default_factory=Total)
    seconds: float = 0.0

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Position:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**record, "total": Total(**record["total"])})


BEGINNING = Position()
Pause = Callable[[Position], None]
"""Called between steps, about once a second. It may save the engine's state, and ends the run by raising."""


def no_pause(position: Position) -> None:
    """Nobody wants to do anything."""


def run(
    engine: Engine,
    dataset: Dataset,
    config: Config,
    schedule: Schedule,
    listener: Listener,
    start: Position = BEGINNING,
    pause: Pause = no_pause,
) -> Iterator[Epoch]:
    """Train epoch by epoch from a position on, yielding what came of each. Raises Diverged.

    The score of a step is that of the last of its phases that sees the batch; a mirror phase does not.
    """
    watch = Watch(log(dataset.classes))
    if start.epoch < 0:
        yield evaluated(engine, dataset, config, 0, None, 0.0, 1.0)
        start = Position(0)
    pace = Pace(engine)
    for epoch in range(start.epoch, config.epochs):
        here = start if epoch == start.epoch else Position(epoch)
        total, done, seconds = Total(**vars(here.total)), here.step, here.seconds
        steps = steps_of(dataset, config, schedule, epoch)
        while done < len(steps):
            part = steps.part(done, done + pace.steps)
            begun = time.perf_counter()
            for clock, score in zip(part.clocks, _watched(engine.steps(part), part, watch, engine), strict=True):
                if score is not None:
                    total.add(score)
                listener.step(clock, score)
            took = time.perf_counter() - begun
            seconds, done = seconds + took, done + len(part)
            pace.took(took)
            if done < len(steps):
                pause(Position(epoch, done, Total(**vars(total)), seconds))
        came = evaluated(engine, dataset, config, epoch + 1, total.score(), seconds, steps.rates[-1])
        watch.look(came.test, engine, steps.clocks[-1].step)
        yield came


def _watched(scores: Iterator[Score | None], steps: Steps, watch: Watch, engine: Engine) -> Iterator[Score | None]:
    """The scores of steps, as long as they are sound. Raises Diverged, which knows the step."""
    clocks = iter(steps.clocks)
    while True:
        clock = next(clocks, None)
        try:
            score = next(scores)
        except StopIteration:
            return
        except Diverged as diverged:
            assert clock is not None
            diverged.step = clock.step
            raise
        assert clock is not None
        watch.look(score, engine, clock.step)
        yield score


class Pace:
    """How many steps lie between two pauses: as many as take about `BETWEEN_PAUSES`, the same in all processes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.steps = 1

    def took(self, seconds: float) -> None:
        """So long did the last ones take."""
        share = BETWEEN_PAUSES / max(1e-9, self.engine.agreed(seconds))
        self.steps = max(1, int(self.steps * min(4.0, max(0.25, share))))


def steps_of(dataset: Dataset, config: Config, schedule: Schedule, epoch: int) -> Steps:
    """The steps of an epoch."""
    rows = dataset.train.order(config.data.size_in(epoch), config.seed, epoch)
    first = sum(dataset.train.batches_per_epoch(config.data.size_in(each)) for each in range(epoch))
    begun = (epoch, first) if config.data.batch_size_after else None
    clocks = [Clock(first + index, len(rows), config.epochs, begun) for index in range(len(rows))]
    rates = [rate_factor(config.schedule, clock, first_epochs(schedule)) for clock in clocks]
    apart = {name: one.schedule for name, one in {TASK: config.optimizer, **config.optimizers}.items() if one.schedule}
    own = {name: [rate_factor(schedule, clock) for clock in clocks] for name, schedule in apart.items()}
    return Steps(dataset.train, rows, rates, clocks, own, rows, 0, config.seed)


def evaluated(
    engine: Engine, dataset: Dataset, config: Config, epoch: int, train: Score | None, seconds: float, rate: float
) -> Epoch:
    """The record of an epoch whose steps are done. Raises Diverged."""
    test = engine.evaluate(dataset.test, config.data.test_batch_size)
    every = config.probe_every
    probes = engine.probe(dataset.test) if every and (epoch % every == 0 or epoch == config.epochs) else {}
    return Epoch(epoch, train, test, seconds, rate, probes)
