"""A run on its way into its folder: what it is, what comes of each epoch, checkpoints, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Protocol, Self

from ruledsl.data.dataset import ReadersEnded
from ruledsl.emit.backend import backend
from ruledsl.errors import UserError, need
from ruledsl.training.checkpoints import Checkpoint, Checkpoints
from ruledsl.training.config import Config
from ruledsl.training.engine import Diverged, weights
from ruledsl.training.loop import BEGINNING, Epoch, Listener, Position
from ruledsl.training.outcome import CONFIGURATION, SUMMARY, Interrupted, Run, TrainingDiverged
from ruledsl.training.preparation import Prepared
from ruledsl.training.run_folder import RunFolder, environment, shown
from ruledsl.training.settings import anchored, to_toml
from ruledsl.training.signals import Stops

PROBES = "probes."
"""How the names of what probes remember begin in a checkpoint."""


class Recording:
    """A run on its way into its folder, as a context: what ends it early is raised as Interrupted, TrainingDiverged
    or, with what has become of the run, as UserError.

    stops    who asks to stop
    since    the checkpoint that it goes on from, in the folder that `prepared.config.out` names
    go_on    the command that goes on with it when it has stopped; left out, that of this run alone

    Of several processes that share a run, one keeps its folder and says what there is to say.
    """

    def __init__(
        self,
        prepared: Prepared,
        listener: Listener,
        stops: Stops,
        since: Checkpoint | None = None,
        again: bool = False,
        go_on: str | None = None,
    ) -> None:
        self.prepared, self.leads, self.stops = prepared, prepared.engine.leads, stops
        self.listener = listener if self.leads else Listener()
        where = prepared.config.out or Path("runs") / _folder_name(prepared)
        if not self.leads:
            self.folder = RunFolder.create(Path(mkdtemp()) / "run")
        else:
            self.folder = RunFolder.open(where) if again else RunFolder.create(where)
        path = self.folder.path
        self.checkpoints = Checkpoints(path)
        self.result = Run(anchored(prepared.config.model_copy(update={"out": path})), path)
        self.result.verdict = prepared.experiment.verdict
        self.go_on = go_on or f"ruledsl train --resume {shown(path)}"
        self.position = BEGINNING
        self.saved = time.perf_counter()
        if since is not None:
            probes = {name: value for name, value in since.state.items() if name.startswith(PROBES)}
            prepared.engine.load_state({name: value for name, value in since.state.items() if name not in probes})
            prepared.engine.probes.load_state({name.removeprefix(PROBES): value for name, value in probes.items()})
            self.position = since.position
            self.result.epochs = list(since.epochs)
            self.checkpoints.discard_after(since.position)

    def __enter__(self) -> Self:
        prepared, config = self.prepared, self.prepared.config
        self.folder.hold()
        if self.position is BEGINNING:
            _describe(self.folder, prepared, self.result.config)
        self.folder.write_metrics([epoch.record() for epoch in self.result.epochs])
        self.summarize()
        self.events = _events(self.folder, len(self.result.epochs)) if config.tensorboard else None
        per_epoch = prepared.dataset.train.batches_per_epoch(config.data.batch_size)
        self.listener.begin(
            prepared.title, config.epochs, per_epoch, max(0, self.position.epoch) * per_epoch + self.position.step
        )
        for note in prepared.notes:
            self.listener.note(note)
        return self

    def add(self, epoch: Epoch) -> None:
        """An epoch is done. Raises as `pause` does."""
        self.took(epoch)
        if epoch.epoch < self.prepared.config.epochs:
            self.pause(Position(epoch.epoch))

    def took(self, epoch: Epoch) -> None:
        """An epoch is done; the last one is saved."""
        self.result.epochs.append(epoch)
        record = epoch.record()
        self.folder.add_metrics(record)
        self.folder.write_weights(weights(self.prepared.engine.state()))
        if epoch.probes:
            self.folder.write_arrays("feedback.safetensors", self.prepared.engine.probes.pairs)
        for name, value in record.items():
            if self.events and value is not None and name != "epoch":
                self.events.add_scalar(name, value, epoch.epoch)
        self.listener.epoch(epoch)
        if epoch.epoch == self.prepared.config.epochs:
            self.save(Position(epoch.epoch))

    def pause(self, position: Position) -> None:
        """Between two steps: save, if it is time to. Raises Interrupted after saving where somebody asked to stop."""
        self.saved_if_due(position)
        if self.asked():
            self.stop(position)

    def asked(self) -> bool:
        """Whether somebody asked one of the processes that share the run to stop."""
        return self.prepared.engine.agreed(float(self.stops.asked is not None)) > 0

    def saved_if_due(self, position: Position) -> None:
        """Save if it is time to."""
        every = self.prepared.config.checkpoint_every
        if every is not None and time.perf_counter() - self.saved >= every:
            self.save(position)

    def save(self, position: Position) -> None:
        """Write a checkpoint. Raises UserError."""
        if self.leads and position != self.position:
            engine = self.prepared.engine
            probes = {f"{PROBES}{name}": value for name, value in engine.probes.state().items()}
            state = {**engine.state(), **probes}
            self.checkpoints.save(Checkpoint(position, tuple(self.result.epochs), state, to_toml(self.result.config)))
        self.position, self.saved = position, time.perf_counter()

    def stop(self, position: Position) -> None:
        """Save and raise Interrupted."""
        self.save(position)
        if self.leads:
            self.folder.write_weights(weights(self.prepared.engine.state()))
        raise self._interrupted()

    def diverged(self, error: Diverged) -> TrainingDiverged:
        """The run has come to its end in this way."""
        self.result.status = "diverged"
        told = _explained(error, self.result)
        self.result.message = told.message
        return told

    def summarize(self) -> None:
        """Write down where the run is."""
        self.folder.write_json(SUMMARY, self.result.summary())

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        raised = self._ended(error)
        self.listener.end()
        if self.events:
            self.events.close()
        try:
            self.summarize()
        except UserError:
            if error is None:
                raise
        finally:
            self.folder.release()
            if not self.leads:
                rmtree(self.folder.path.parent)
        if raised is not None:
            raise raised from None

    def _ended(self, error: BaseException | None) -> UserError | None:
        """Note how the run ended; what is to be raised instead of an error."""
        result = self.result
        if result.status != "running":  # it is known already
            return None
        if error is None:
            result.status = "finished"
            result.message = self.prepared.untaught
            return None
        if isinstance(error, Diverged):
            return self.diverged(error)
        met_too = self.stops.asked is not None and isinstance(error, ReadersEnded)  # by a signal to all processes
        if isinstance(error, KeyboardInterrupt | Interrupted) or met_too:
            result.status = "interrupted"
            told = error if isinstance(error, Interrupted) else self._interrupted()
            result.message = told.message
            return told
        result.status = "failed"
        result.message = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if isinstance(error, UserError):
            return UserError(error.message, "\n  ".join(filter(None, [error.help, self._how_to_go_on()])))
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            return UserError(
                f"the memory is not enough: {error}",
                f"try a smaller batch (data.batch_size={result.config.data.batch_size})",
            )
        return None

    def _interrupted(self) -> Interrupted:
        epochs = self.result.config.epochs
        asked = self.stops.asked
        by = f" by {asked.name}" if asked else ""
        told = Interrupted(
            f"interrupted{by} in epoch {min(epochs, max(0, len(self.result.epochs)))} of {epochs}",
            self._how_to_go_on() or f"what was finished before it is in {self.result.folder}",
            self.result,
        )
        told.signal = asked
        return told

    def _how_to_go_on(self) -> str | None:
        return f"go on with: {self.go_on}" if self.position is not BEGINNING else None


class Events(Protocol):
    """The part of a TensorBoard writer that a run uses."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
        """Record a number."""

    def close(self) -> None:
        """Write what is left."""


def _events(folder: RunFolder, since: int) -> Events:
    made = need("tensorboardX", "TensorBoard events", "train").SummaryWriter
    writer: Events = made(str(folder.path / "tensorboard"), purge_step=since or None)
    return writer


def _folder_name(prepared: Prepared) -> str:
    rule = prepared.rule.name if prepared.rule else "autograd"
    return f"{rule}-{prepared.architecture.name}-{prepared.dataset.name}-seed{prepared.config.seed}"


def _describe(folder: RunFolder, prepared: Prepared, config: Config) -> None:
    folder.write_text(CONFIGURATION, to_toml(config))
    folder.write_json("environment.json", environment(backend(config.backend).packages))
    for name, text in sources(prepared):
        folder.write_text(name, text)
    folder.write_json("ledger.json", prepared.experiment.record())


def sources(prepared: Prepared) -> Sequence[tuple[str, str]]:
    """The rules of a run and the code that was emitted for them, by names of files."""
    texts: dict[str, str] = {}
    for rule, program in zip((prepared.rule, prepared.output), prepared.programs, strict=True):
        if program is not None:  # with the values of this run
            source = rule.compile(program.backend).source if rule else program.source
            texts[f"{program.rule}_{program.backend}.py"] = source
        if rule is not None:
            prefix = "" if rule is prepared.rule else "output_"
            texts[f"{prefix}{rule.name}.rule"] = rule.text
    for number, one in enumerate(prepared.layers.values(), 1):
        if one is not None:
            named, taught = one
            texts[f"layers{number}_{taught.rule}_{taught.backend}.py"] = taught.source
            texts[f"layers{number}_{named.name}.rule"] = named.text
    for constraint, emitted in prepared.constraints:
        texts[f"{constraint.name}.rule"] = constraint.text
        texts[f"{constraint.name}_{emitted.backend}.py"] = emitted.source
    return list(texts.items())


def _explained(diverged: Diverged, result: Run) -> TrainingDiverged:
    config = result.config
    tries = [f"a smaller learning rate (optimizer.lr is {config.optimizer.lr:g})"]
    if not config.schedule.warmup:
        tries.append("a warm-up (schedule.warmup=1)")
    tries.append("a rule whose feedback is normalised, such as nusf or usf_sn")
    at = "" if diverged.step is None else f", step {diverged.step + 1}"
    lost = abs(diverged.loss) < float("inf")
    seen = (
        "no network comes back from that, and what grew the most is" if lost else "and such a number appeared first in"
    )
    return TrainingDiverged(
        f"the run diverged in epoch {len(result.epochs)}{at}: the loss is {diverged.loss:.3g}, {seen} {diverged.where}",
        f"try {', '.join(tries)}; what was finished before is in {result.folder}",
        result,
    )
