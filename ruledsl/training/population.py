"""The training loop for many runs at once: what comes of each is what would come of it alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ruledsl.data import Dataset
from ruledsl.program import Schedule
from ruledsl.training.config import Config
from ruledsl.training.engine import Diverged, Engine, Population, Score
from ruledsl.training.loop import Epoch, Listener, Total, evaluated, steps_of

Came = Epoch | Diverged | None
"""What came of an epoch for a member: its record; how it diverged, said once; or None, after that."""


@dataclass
class Member:
    """What `loop.run` is given, for one member of a population; `ended`: how it diverged."""

    engine: Engine
    dataset: Dataset
    config: Config
    schedule: Schedule
    ended: Diverged | None = None


def run_together(population: Population, members: Sequence[Member], listener: Listener) -> Iterator[list[Came]]:
    """Train epoch by epoch, the first being that of the untrained networks; what came of it for each member.

    A member that diverges is left behind, and the others go on. The time of the steps is shared out evenly.
    """
    for epoch in range(members[0].config.epochs + 1):
        before = [member.ended for member in members]
        runs = [steps_of(one.dataset, one.config, one.schedule, epoch - 1) for one in members] if epoch else []
        start = time.perf_counter()
        totals = [Total() for _ in members]
        for index, scores in enumerate(population.steps(runs) if runs else ()):
            for member, total, score in zip(members, totals, scores, strict=True):
                if isinstance(score, Score):
                    total.add(score)
                elif score is not None:
                    member.ended = member.ended or score
            listener.step(runs[0].clocks[index], next((one for one in scores if isinstance(one, Score)), None))
        seconds = (time.perf_counter() - start) / len(members) if runs else 0.0
        rates = [run.rates[-1] for run in runs] or [1.0] * len(members)
        came = [
            _epoch(member, epoch, total.score(), seconds, rate)
            for member, total, rate in zip(members, totals, rates, strict=True)
        ]
        yield [None if ended else each for ended, each in zip(before, came, strict=True)]


def _epoch(member: Member, epoch: int, train: Score | None, seconds: float, rate: float) -> Epoch | Diverged:
    if member.ended is None:
        try:
            return evaluated(member.engine, member.dataset, member.config, epoch, train, seconds, rate)
        except Diverged as diverged:
            member.ended = diverged
    return member.ended
