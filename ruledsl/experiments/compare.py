"""Rules on equal terms: the same network, data, seeds and settings for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruledsl.errors import UserError, need, suggest
from ruledsl.experiments.plot import draw
from ruledsl.experiments.row import Row
from ruledsl.training import Config, Listener, TrainingDiverged
from ruledsl.training.run_folder import RunFolder
from ruledsl.training.train import load_dataset, load_layers, load_rule, prepare_with, start


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
    layers = load_layers(config)
    programs = [(row.rule.compile(config.backend), output_program) for row in rows]
    dataset = load_dataset(config)
    folder = None
    for row, pair in zip(rows, programs, strict=True):
        for seed in seeds:
            changing = {n: schedule for n, schedule in config.schedules.items() if n in row.rule.parameters}
            parameters = {**row.rule.parameters, **changing}
            one = config.model_copy(update={"seed": seed, "rule": row.given, "parameters": parameters})
            prepared = prepare_with(one, row.rule, output, pair, dataset, layers)
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
