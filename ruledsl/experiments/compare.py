"""Rules on equal terms: the same network, data, seeds and settings for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from ruledsl.errors import UserError, need
from ruledsl.experiments.grid import Grid, rows_of
from ruledsl.experiments.plot import draw
from ruledsl.experiments.row import Row
from ruledsl.training import Config, Listener, TrainingDiverged
from ruledsl.training.engine import Diverged, Population, Score
from ruledsl.training.loop import Epoch
from ruledsl.training.population import Member, run_together
from ruledsl.training.run_folder import RunFolder
from ruledsl.training.schedule import Clock
from ruledsl.training.train import (
    Prepared,
    Recording,
    load_dataset,
    load_layers,
    load_rule,
    prepare_with,
    start,
)


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


def compare(
    config: Config,
    rules: Sequence[str],
    seeds: Sequence[int],
    listener: Listener | None = None,
    grid: Grid | None = None,
) -> Comparison:
    """Train with each rule, point of the grid and seed; write a plot and the numbers.

    grid  values by the name of a setting (`optimizer.lr`), or of a parameter of the rules

    `config.parameters`, and those of the grid, go to those rules that have them. All rules are compiled before the
    first run. Runs that differ in numbers alone go on at the same time, where the backend is faster then. A run that
    diverges is counted as such and the others go on. Raises RuleError, UserError and Interrupted.
    """
    need("matplotlib.figure", "plots", "train")
    if (config.processes or 1) > 1:
        raise UserError("a comparison runs in one process", "ruledsl train ... --set processes=2 shares one run")
    listener = _Once(listener or Listener())
    rows = rows_of(config, rules, grid or {})
    output = load_rule(config.output, {}) if config.output else None
    output_program = output.compile(config.backend) if output else None
    layers = load_layers(config)
    dataset = load_dataset(config)
    folder: RunFolder | None = None

    def prepared(row: Row, seed: int) -> Prepared:
        nonlocal folder
        programs = row.program, output_program
        one = prepare_with(row.config_of(seed), row.rule, output, programs, dataset, layers)
        if folder is None:  # only now, when the first run is known to begin
            folder = RunFolder.create(config.out or Path("runs") / f"compare-{dataset.name}")
        return one.with_folder(folder.path / f"{row.folder}-seed{seed}")

    try:
        for _, alike in groupby(rows, lambda row: row.given):
            for _ in _trained([(row, partial(prepared, row, seed)) for row in alike for seed in seeds], listener):
                assert folder is not None
                _write(folder, rows, dataset.name)
    finally:  # of an interrupted comparison, what was finished
        begun = [row for row in rows if any(run.epochs for run in row.runs)]
        if folder is not None and begun:
            folder.write_bytes("comparison.png", draw(begun, dataset.name))
    if folder is None:
        raise UserError("there is nothing to compare: give at least one rule and one seed")
    return Comparison(folder.path, rows)


Waiting = tuple[Row, Callable[[], Prepared]]


def _trained(waiting: Sequence[Waiting], listener: Listener) -> Iterator[None]:
    """Train all of these, and add them to their rows; each time that something has ended, once."""
    if not waiting:
        return
    one = waiting[0][1]()
    if one.engine.faster_together and len(waiting) > 1:
        rows, ready = [row for row, _ in waiting], [one, *(prepare() for _, prepare in waiting[1:])]
        population = one.engine.together([each.engine for each in ready[1:]])
        if population is not None:
            _train_together(population, rows, ready, listener)
            yield
            return
    for index, (row, prepare) in enumerate(waiting):
        try:
            row.runs.append(start(prepare() if index else one, listener))
        except TrainingDiverged as diverged:
            row.runs.append(diverged.run)
            listener.note(_said(row, diverged))
        yield


def _train_together(population: Population, rows: Sequence[Row], ready: Sequence[Prepared], listener: Listener) -> None:
    """Train the members of a population, and add them to their rows."""
    with ExitStack() as runs:
        records = [runs.enter_context(Recording(one, Listener())) for one in ready]
        _begin(ready, listener)
        runs.callback(listener.end)
        for row, record in zip(rows, records, strict=True):
            row.runs.append(record.result)
        members = [Member(one.engine, one.dataset, one.config, one.schedule) for one in ready]
        for came in run_together(population, members, listener):
            for row, record, each in zip(rows, records, came, strict=True):
                if isinstance(each, Diverged):
                    listener.note(_said(row, record.diverged(each)))
                elif each is not None:
                    record.add(each)


def _begin(ready: Sequence[Prepared], listener: Listener) -> None:
    """Tell of a population."""
    one = ready[0]
    title = f"{one.rule.name if one.rule else ''} on {one.dataset.name} ({one.architecture.name}, {len(ready)} runs)"
    listener.begin(title, one.config.epochs, one.dataset.train.batches_per_epoch(one.config.data.batch_size))
    for note in (*one.notes, "these runs go on at the same time"):
        listener.note(note)


class _Once(Listener):
    """A listener who hears each note once, however many runs give it."""

    def __init__(self, other: Listener) -> None:
        self.other = other
        self.said: set[str] = set()

    def begin(self, title: str, epochs: int, steps_per_epoch: int) -> None:
        self.other.begin(title, epochs, steps_per_epoch)

    def note(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.other.note(text)

    def step(self, clock: Clock, score: Score | None) -> None:
        self.other.step(clock, score)

    def epoch(self, epoch: Epoch) -> None:
        self.other.epoch(epoch)

    def end(self) -> None:
        self.other.end()


def _said(row: Row, diverged: TrainingDiverged) -> str:
    return f"{row.label}, seed {diverged.run.config.seed}: {diverged.message}"


def _write(folder: RunFolder, rows: list[Row], dataset: str) -> None:
    done = [row for row in rows if row.runs]
    folder.write_json("results.json", {"dataset": dataset, "rules": [row.record() for row in done]})
