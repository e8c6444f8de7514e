"""One rule of a comparison, and its runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any

from ruledsl.program import Program
from ruledsl.rule import Rule
from ruledsl.training import Config, Run


@dataclass
class Row:
    """One rule and its runs, one for each seed, all else being equal.

    given    how the call named it: a name or a path
    program  of the rule
    config   of all runs, but for their seed
    failures why runs were not possible
    """

    label: str
    given: str
    rule: Rule
    program: Program
    config: Config
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def config_of(self, seed: int) -> Config:
        """Of one run."""
        return self.config.model_copy(update={"seed": seed})

    @property
    def rhythm(self) -> tuple[Any, ...]:
        """What runs that go on at the same time have in common: their epochs, steps and measurements."""
        config = self.config
        return config.epochs, config.probe_every, config.data.batch_size, tuple(config.data.batch_size_after.items())

    @property
    def folder(self) -> str:
        """What its folders are called."""
        return re.sub(r"[^\w.=+-]+", "-", self.label).strip("-")

    def run_folder(self, seed: int) -> str:
        """What the folder of one run is called."""
        return f"{self.folder}-seed{seed}"

    @property
    def finished(self) -> list[Run]:
        """The runs that reached their end."""
        return [run for run in self.runs if run.status == "finished"]

    @property
    def test_error(self) -> float | None:
        """Mean share of wrong answers after the last epoch, over the finished runs."""
        return fmean(run.test_error for run in self.finished) if self.finished else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of that share over the seeds; None for fewer than two runs."""
        return stdev(run.test_error for run in self.finished) if len(self.finished) > 1 else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Median training time of an epoch, without evaluation."""
        seconds = [epoch.seconds for run in self.runs for epoch in run.epochs if epoch.epoch]
        return median(seconds) if seconds else None

    @property
    def verdict(self) -> str:
        """That of everything that trains the network; of the rule alone before the first run."""
        return next((run.verdict for run in self.runs if run.verdict), self.rule.verdict)

    def curves(self) -> list[list[float]]:
        """Test error after each epoch (from 0), one list for each run."""
        return [[epoch.test.error for epoch in run.epochs] for run in self.runs]

    def record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "rule": self.label,
            "verdict": self.verdict,
            "parameters": dict(self.rule.parameters),
            "test_error": self.test_error,
            "spread": self.spread,
            "seconds_per_epoch": self.seconds_per_epoch,
            **({"failures": self.failures} if self.failures else {}),
            "runs": [
                {"seed": run.config.seed, "folder": run.folder.name, **run.summary(), "test_errors": curve}
                for run, curve in zip(self.runs, self.curves(), strict=True)
            ],
        }
