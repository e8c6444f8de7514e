"""Rules on equal terms: the same network, data, seeds and settings for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from ruledsl.errors import UserError, need
from ruledsl.experiments.grid import Grid, rows_of
from ruledsl.experiments.plot import draw
from ruledsl.experiments.row import Row
from ruledsl.training import Config, Listener, TrainingDiverged, read_config
from ruledsl.training.checkpoints import Checkpoint, Checkpoints
from ruledsl.training.engine import Diverged, Population, Score
from ruledsl.training.loop import Epoch, Position
from ruledsl.training.outcome import COMPARISON, CONFIGURATION, Interrupted, found
from ruledsl.training.population import Member, run_together
from ruledsl.training.preparation import Prepared, check_optimizers, load_dataset, load_layers, load_rule, prepare_with
from ruledsl.training.recording import Recording
from ruledsl.training.run_folder import RunFolder, shown
from ruledsl.training.schedule import Clock
from ruledsl.training.settings import anchored, from_root, to_toml
from ruledsl.training.signals import Stops
from ruledsl.training.train import go_on, start, unchanged


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
    diverges or fails is counted as such and the others go on. Raises RuleError and Interrupted, and UserError where
    no run was possible.
    """
    return _compared(_Call(config, tuple(rules), tuple(seeds), dict(grid or {})), None, listener)


def resume(folder: Path, listener: Listener | None = None) -> Comparison:
    """Go on with the comparison in this folder: what is finished stays, and the rest is run. Raises like `compare`."""
    return _compared(_Call.read(folder), RunFolder.open(folder), listener)


@dataclass(frozen=True)
class _Call:
    """What `compare` was asked."""

    config: Config
    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    grid: dict[str, Sequence[Any]]

    def write(self, folder: RunFolder) -> None:
        folder.write_text(CONFIGURATION, to_toml(anchored(self.config.model_copy(update={"out": folder.path}))))
        rules = list(map(from_root, self.rules))
        folder.write_json(COMPARISON, {"rules": rules, "seeds": self.seeds, "grid": self.grid})

    @classmethod
    def read(cls, folder: Path) -> _Call:
        """Raises UserError."""
        path = folder / COMPARISON
        try:
            call = json.loads(path.read_text("utf-8"))
            rules, seeds, grid = tuple(map(str, call["rules"])), tuple(map(int, call["seeds"])), dict(call["grid"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}", "start the comparison again, in another folder") from None
        except OSError:
            help = None
            if (folder / CONFIGURATION).is_file():
                help = f"it is the folder of one run: ruledsl train --resume {shown(folder)}"
            raise UserError(f"{folder} is no folder of a comparison: it has no {COMPARISON}", help) from None
        return cls(read_config(folder / CONFIGURATION), rules, seeds, grid)


def _compared(call: _Call, folder: RunFolder | None, listener: Listener | None) -> Comparison:
    need("matplotlib.figure", "plots", "train")
    config = call.config
    if (config.processes or 1) > 1:
        raise UserError("a comparison runs in one process", "ruledsl train ... --set processes=2 shares one run")
    rows = rows_of(config, call.rules, call.grid)
    output = load_rule(config.output, {}) if config.output else None
    output_program = output.compile(config.backend) if output else None
    layers = load_layers(config)
    check_optimizers(
        config, (*(row.program for row in rows), output_program, *(one[1] for one in layers.values() if one))
    )
    dataset = load_dataset(config)
    if folder is not None:
        folder.hold()

    def prepared(row: Row, seed: int) -> Prepared:
        nonlocal folder
        programs = row.program, output_program
        one = prepare_with(row.config_of(seed), row.rule, output, programs, dataset, layers)
        if folder is None:  # only now, when the first run is known to begin
            folder = RunFolder.create(config.out or Path("runs") / f"compare-{dataset.name}")
            folder.hold()
            call.write(folder)
            work.how = f"ruledsl compare --resume {shown(folder.path)}"
        return one.with_folder(folder.path / row.run_folder(seed))

    how = f"ruledsl compare --resume {shown(folder.path)}" if folder else ""
    try:
        with Stops() as stops:
            work = _Work(_Once(listener or Listener()), stops, how)
            for _, alike in groupby(rows, lambda row: (row.given, row.rhythm)):
                waiting = [_Waiting(row, seed, partial(prepared, row, seed)) for row in alike for seed in call.seeds]
                for _ in work.train([one for one in waiting if not (folder and one.was_finished(folder.path))]):
                    if folder is not None:
                        _write(folder, rows, dataset.name)
    finally:  # of an interrupted comparison, what was finished
        begun = [row for row in rows if any(run.epochs for run in row.runs)]
        if folder is not None:
            if begun:
                folder.write_bytes("comparison.png", draw(begun, dataset.name))
            folder.release()
    if work.failed and not any(row.runs for row in rows):
        raise work.failed[0]
    if folder is None:
        raise UserError("there is nothing to compare: give at least one rule and one seed")
    _write(folder, rows, dataset.name)
    return Comparison(folder.path, rows)


@dataclass(frozen=True)
class _Waiting:
    """A run that has not begun, or not ended."""

    row: Row
    seed: int
    prepare: Callable[[], Prepared]

    def was_finished(self, folder: Path) -> bool:
        """Whether it has ended before: then it is added to its row."""
        mine = folder / self.row.run_folder(self.seed)
        before = found(mine) if (mine / CONFIGURATION).is_file() else None
        if before is None or before.status not in ("finished", "diverged"):
            return False
        self.row.runs.append(before)
        return True


@dataclass
class _Work:
    """The runs of a comparison, one after the other or at the same time. `how`: the command that goes on with it."""

    listener: Listener
    stops: Stops
    how: str
    failed: list[UserError] = field(default_factory=list)

    def train(self, waiting: Sequence[_Waiting]) -> Iterator[None]:
        """Train all of these, and add them to their rows; each time that something has ended, once."""
        ready = [one for each in waiting[:1] if (one := self.prepare(each)) is not None]
        if ready and ready[0].engine.faster_together and ready[0].dataset.train.resident and len(waiting) > 1:
            both = [(waiting[0], ready[0])]
            both += [(each, one) for each in waiting[1:] if (one := self.prepare(each)) is not None]
            population = ready[0].engine.together([one.engine for _, one in both[1:]])
            members = [one for _, one in both]
            start = _common(members)
            if population is not None and start is not None:
                self.together(population, [each.row for each, _ in both], members, start)
                yield
                return
        for index, each in enumerate(waiting):
            one = (ready[0] if ready else None) if index == 0 else self.prepare(each)
            if one is not None:
                self.alone(each, one)
                yield

    def prepare(self, waiting: _Waiting) -> Prepared | None:
        """A run before its first step; None where that is not possible, which is said."""
        try:
            return waiting.prepare()
        except UserError as error:
            self.failure(waiting, error)
            return None

    def failure(self, waiting: _Waiting, error: UserError) -> None:
        """A run that was not possible."""
        self.failed.append(error)
        waiting.row.failures.append(error.message)
        self.listener.note(f"{waiting.row.label} failed: {error.message}")

    def alone(self, waiting: _Waiting, one: Prepared) -> None:
        """Train one, and add it to its row. Raises Interrupted."""
        row = waiting.row
        try:
            begun = one.config.out is not None and (one.config.out / CONFIGURATION).is_file()
            row.runs.append((go_on if begun else start)(one, self.listener, self.stops, self.how))
        except TrainingDiverged as diverged:
            row.runs.append(diverged.run)
            self.listener.note(_said(row, diverged))
        except Interrupted:
            raise
        except UserError as error:
            self.failure(waiting, error)

    def together(
        self, population: Population, rows: Sequence[Row], ready: Sequence[Prepared], since: Sequence[Checkpoint | None]
    ) -> None:
        """Train the members of a population, and add them to their rows."""
        with ExitStack() as runs:
            records = [
                runs.enter_context(Recording(one, Listener(), self.stops, start, start is not None, self.how))
                for one, start in zip(ready, since, strict=True)
            ]
            _begin(ready, self.listener)
            runs.callback(self.listener.end)
            for row, record in zip(rows, records, strict=True):
                row.runs.append(record.result)
            members = [
                Member(one.engine, one.dataset, one.config, one.schedule, record.position)
                for one, record in zip(ready, records, strict=True)
            ]

            def pause(positions: Sequence[Position]) -> None:
                going = [(r, at) for r, at in zip(records, positions, strict=True) if r.result.status == "running"]
                for record, at in going:
                    record.saved_if_due(at)
                if self.stops.asked and going:
                    for record, at in going:
                        record.save(at)
                    going[0][0].stop(going[0][1])

            for came in run_together(population, members, self.listener, pause):
                for row, record, each in zip(rows, records, came, strict=True):
                    if isinstance(each, Diverged):
                        self.listener.note(_said(row, record.diverged(each)))
                    elif each is not None:
                        record.took(each)
                over = max(len(record.result.epochs) for record in records) - 1
                if over < ready[0].config.epochs:  # only now: whoever is asked to stop saves all of them
                    pause([Position(over)] * len(records))


def _common(ready: Sequence[Prepared]) -> Sequence[Checkpoint | None] | None:
    """For each of these runs the checkpoint that it goes on from, all at one step; None for those that begin.

    None instead of all where they have no step in common.
    """
    folders = [one.config.out for one in ready]
    begun = [folder for folder in folders if folder is not None and (folder / CONFIGURATION).is_file()]
    if not begun:
        return [None] * len(ready)
    if len(begun) < len(ready):
        return None
    for one, folder in zip(ready, begun, strict=True):
        unchanged(one, folder)
    places = set.intersection(*(set(Checkpoints(folder).positions()) for folder in begun))
    for place in sorted(places, reverse=True):
        since = [_at(folder, place) for folder in begun]
        if None not in since:
            return since
    return None


def _at(folder: Path, place: tuple[int, int]) -> Checkpoint | None:
    sound = (one for one in Checkpoints(folder).sound() if isinstance(one, Checkpoint))
    return next((one for one in sound if (one.position.epoch, one.position.step) == place), None)


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

    def begin(self, title: str, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self.other.begin(title, epochs, steps_per_epoch, done)

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
    done = [row for row in rows if row.runs or row.failures]
    folder.write_json("results.json", {"dataset": dataset, "rules": [row.record() for row in done]})
