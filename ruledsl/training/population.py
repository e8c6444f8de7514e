"""The training loop for many runs at once: what comes of each is what would come of it alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log

from ruledsl.data import Dataset
from ruledsl.program import Schedule
from ruledsl.training.config import Config
from ruledsl.training.divergence import Watch
from ruledsl.training.engine import Diverged, Engine, Population, Score
from ruledsl.training.loop import BEGINNING, Epoch, Listener, Pace, Position, Total, evaluated, steps_of

Came = Epoch | Diverged | None
"""What came of an epoch for a member: its record; how it diverged, said once; or None, after that."""
Pauses = Callable[[Sequence[Position]], None]
"""Called between steps with the position of each member, as `loop.Pause` is."""


def no_pauses(positions: Sequence[Position]) -> None:
    """Nobody wants to do anything."""


@dataclass
class Member:
    """What `loop.run` is given, for one member; all start at the same step. `ended`: how it diverged."""

    engine: Engine
    dataset: Dataset
    config: Config
    schedule: Schedule
    start: Position = BEGINNING
    ended: Diverged | None = None
    total: Total = field(default_factory=Total)
    seconds: float = 0.0

    def add(self, score: Score | Diverged | None, watch: Watch, step: int) -> None:
        """What came of a step."""
        if isinstance(score, Diverged):
            score.step = step if score.step is None else score.step
            self.ended = self.ended or score
        elif score is not None and self.ended is None:
            self.total.add(score)
            try:
                watch.look(score, self.engine, step)
            except Diverged as lost:
                self.ended = lost


def run_together(
    population: Population, members: Sequence[Member], listener: Listener, pause: Pauses = no_pauses
) -> Iterator[list[Came]]:
    """Train epoch by epoch, the first being that of the untrained networks; what came of it for each member.

    A member that diverges is left behind, and the others go on. The time of the steps is shared out evenly.
    """
    first = members[0].start
    if first.epoch < 0:
        yield [_epoch(member, 0, None, 1.0) for member in members]
    watch, pace = Watch(log(members[0].dataset.classes)), Pace(members[0].engine)
    for epoch in range(max(0, first.epoch), members[0].config.epochs):
        before = [member.ended for member in members]
        runs = [steps_of(one.dataset, one.config, one.schedule, epoch) for one in members]
        done = first.step if epoch == first.epoch else 0
        for member in members:
            member.total = Total(**vars(member.start.total)) if done else Total()
            member.seconds = member.start.seconds if done else 0.0
        while done < len(runs[0]):
            parts = [each.part(done, done + pace.steps) for each in runs]
            begun = time.perf_counter()
            for clock, scores in zip(parts[0].clocks, population.steps(parts), strict=True):
                for member, score in zip(members, scores, strict=True):
                    member.add(score, watch, clock.step)
                listener.step(clock, next((one for one in scores if isinstance(one, Score)), None))
            took = time.perf_counter() - begun
            pace.took(took)
            done += len(parts[0])
            for member in members:
                member.seconds += took / len(members)
            if done < len(runs[0]):
                pause([Position(epoch, done, Total(**vars(one.total)), one.seconds) for one in members])
        came = [
            _epoch(one, epoch + 1, one.total.score(), run.rates[-1]) for one, run in zip(members, runs, strict=True)
        ]
        yield [None if ended else each for ended, each in zip(before, came, strict=True)]


def _epoch(member: Member, epoch: int, train: Score | None, rate: float) -> Epoch | Diverged:
    if member.ended is None:
        try:
            seconds = member.seconds if epoch else 0.0
            return evaluated(member.engine, member.dataset, member.config, epoch, train, seconds, rate)
        except Diverged as diverged:
            member.ended = diverged
    return member.ended
