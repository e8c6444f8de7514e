"""Rules on equal terms: the same network, data, seeds and settings for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from ruledsl.errors import UserError, need, suggest
from ruledsl.experiments.plot import draw
from ruledsl.rule import Rule
from ruledsl.training import Config, Listener, Run, TrainingDiverged
from ruledsl.training.run_folder import RunFolder
from ruledsl.training.train import load_dataset, load_rule, prepare_with, start


@dataclass
class Row:
    """One rule and its runs, one for each seed. `given` is how the call named it: a name or a path."""

    label: str
    given: str
    rule: Rule
    runs: list[Run] = field(default_factory=list)

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

    def curves(self) -> list[list[float]]:
        """Test error after each epoch (from 0), one list for each run."""
        return [[epoch.test.error for epoch in run.epochs] for run in self.runs]

    def record(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "rule": self.label,
            "verdict": self.rule.verdict,
            "parameters": dict(self.rule.parameters),
            "test_error": self.test_error,
            "spread": self.spread,
            "seconds_per_epoch": self.seconds_per_epoch,
            "runs": [
                {"seed": run.config.seed, "folder": run.folder.name, **run.summary(), "test_errors": curve}
                for run, curve in zip(self.runs, self.curves(), strict=True)
            ],
        }


@dataclass
class Comparison:
    """The rows in the order of the call, and the folder with the run folders, the plot and `results.json`."""

    folder: Path
    rows: list[Row]

    @property
    def plot(self) -> Path:
        """The picture."""
        return self.folder / "comparison.png"

    @property
    def results(self) -> Path:
        """The numbers."""
        return self.folder / "results.json"


def compare(config: Config, rules: Sequence[str], seeds: Sequence[int], listener: Listener | None = None) -> Comparison:
    """Train with each rule and seed; write a plot and the numbers.

    `config.parameters` go to those rules that have them. All rules are compiled before the first run. A run that
    diverges is counted as such and the others go on. Raises RuleError, UserError and Interrupted.
    """
    need("matplotlib.figure", "plots", "train")
    rows = _rows(config, rules)
    output = load_rule(config.output, {}) if config.output else None
    output_program = output.compile(config.backend) if output else None
    programs = [(row.rule.compile(config.backend), output_program) for row in rows]
    dataset = load_dataset(config)
    folder = None
    for row, pair in zip(rows, programs, strict=True):
        for seed in seeds:
            changing = {n: schedule for n, schedule in config.schedules.items() if n in row.rule.parameters}
            parameters = {**row.rule.parameters, **changing}
            one = config.model_copy(update={"seed": seed, "rule": row.given, "parameters": parameters})
            prepared = prepare_with(one, row.rule, output, pair, dataset)
            if folder is None:  # only now, when the first run is known to begin
                folder = RunFolder.create(config.out or Path("runs") / f"compare-{dataset.name}")
            place = folder.path / f"{row.label}-seed{seed}"
            try:
                row.runs.append(start(prepared.with_folder(place), listener or Listener()))
            except TrainingDiverged as diverged:
                row.runs.append(diverged.run)
                (listener or Listener()).note(f"{row.label}, seed {seed}: {diverged.message}")
            _write(folder, rows, config, dataset.name)
    if folder is None:
        raise UserError("there is nothing to compare: give at least one rule and one seed")
    return Comparison(folder.path, rows)


def _rows(config: Config, rules: Sequence[str]) -> list[Row]:
    """The rules, loaded, under labels that differ."""
    plain = [load_rule(name, {}) for name in rules]
    for parameter in config.parameters:
        if not any(parameter in rule.parameters for rule in plain):
            known = {name for rule in plain for name in rule.parameters}
            raise UserError(f"none of these rules has a parameter `{parameter}`", suggest(parameter, known))
    rows: list[Row] = []
    for name, rule in zip(rules, plain, strict=True):
        own = {key: value for key, value in config.first_parameters.items() if key in rule.parameters}
        taken = [row.rule.name for row in rows].count(rule.name)
        label = f"{rule.name}-{taken + 1}" if taken else rule.name
        rows.append(Row(label, name, load_rule(name, own) if own else rule))
    return rows


def _write(folder: RunFolder, rows: list[Row], config: Config, dataset: str) -> None:
    done = [row for row in rows if row.runs]
    folder.write_json("results.json", {"dataset": dataset, "rules": [row.record() for row in done]})
    folder.write_bytes("comparison.png", draw(done, dataset))
