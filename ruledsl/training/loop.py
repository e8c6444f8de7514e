"""The training loop: one for all backends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ruledsl.data import Dataset
from ruledsl.program import Schedule
from ruledsl.training.config import Config
from ruledsl.training.engine import Engine, Score, Steps
from ruledsl.training.schedule import Clock, first_epochs, rate_factor


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

    def begin(self, title: str, epochs: int, steps_per_epoch: int) -> None:
        """A run is about to start."""

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


def run(engine: Engine, dataset: Dataset, config: Config, schedule: Schedule, listener: Listener) -> Iterator[Epoch]:
    """Train epoch by epoch, yielding what came of each. Raises Diverged from the engine.

    The score of a step is that of the last of its phases that sees the batch; a mirror phase does not.
    """
    yield evaluated(engine, dataset, config, 0, None, 0.0, 1.0)
    for epoch in range(config.epochs):
        total = Total()
        start = time.perf_counter()
        steps = steps_of(dataset, config, schedule, epoch)
        for clock, score in zip(steps.clocks, engine.steps(steps), strict=True):
            if score is not None:
                total.add(score)
            listener.step(clock, score)
        seconds = time.perf_counter() - start
        yield evaluated(engine, dataset, config, epoch + 1, total.score(), seconds, steps.rates[-1])


def steps_of(dataset: Dataset, config: Config, schedule: Schedule, epoch: int) -> Steps:
    """The steps of an epoch."""
    rows = dataset.train.order(config.data.batch_size, config.seed, epoch)
    clocks = [Clock(epoch * len(rows) + index, len(rows), config.epochs) for index in range(len(rows))]
    rates = [rate_factor(config.schedule, clock, first_epochs(schedule)) for clock in clocks]
    return Steps(dataset.train, rows, rates, clocks)


def evaluated(
    engine: Engine, dataset: Dataset, config: Config, epoch: int, train: Score | None, seconds: float, rate: float
) -> Epoch:
    """The record of an epoch whose steps are done. Raises Diverged."""
    test = engine.evaluate(dataset.test, config.data.test_batch_size)
    every = config.probe_every
    probes = engine.probe(dataset.test) if every and (epoch % every == 0 or epoch == config.epochs) else {}
    return Epoch(epoch, train, test, seconds, rate, probes)
