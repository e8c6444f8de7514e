"""One run, from a configuration, or from where it stopped, to a folder with everything that came of it."""

from __future__ import annotations

from pathlib import Path

from ruledsl.errors import UserError
from ruledsl.training.config import Config
from ruledsl.training.loop import Listener, run
from ruledsl.training.outcome import Run, found, last_sound
from ruledsl.training.preparation import Prepared, prepare
from ruledsl.training.recording import Recording, sources
from ruledsl.training.signals import Stops


def train(config: Config, listener: Listener | None = None) -> Run:
    """Train as `config` says, into a new folder.

    Raises RuleError for a rule with errors, UserError for anything else in the call, Interrupted and
    TrainingDiverged when the run stops early; its folder then holds what was finished.
    """
    with Stops() as stops:
        return start(prepare(config), listener or Listener(), stops)


def resume(folder: Path, listener: Listener | None = None) -> Run:
    """Go on with the run in this folder from its last checkpoint, or from its beginning where it has none.

    On a CPU with as many threads it ends bit-identical to a run that was never stopped. Raises like `train`, and
    UserError where the folder is none of a run, where another process writes it, and where a rule has changed since.
    """
    with Stops() as stops:
        before = found(folder)
        if before.status in ("finished", "diverged"):
            return before
        return go_on(prepare(before.config), listener or Listener(), stops)


def start(prepared: Prepared, listener: Listener, stops: Stops, go_on: str | None = None) -> Run:
    """Train what was prepared, into a new folder. Raises UserError, Interrupted, TrainingDiverged."""
    return _recorded(Recording(prepared, listener, stops, go_on=go_on))


def go_on(prepared: Prepared, listener: Listener, stops: Stops, how: str | None = None) -> Run:
    """Go on with a run that is in the folder `prepared.config.out`. Raises UserError, Interrupted, TrainingDiverged."""
    return _recorded(reopened(prepared, listener, stops, how))


def reopened(prepared: Prepared, listener: Listener, stops: Stops, how: str | None = None) -> Recording:
    """A run on the way into the folder that it has already."""
    folder = prepared.config.out
    assert folder is not None
    unchanged(prepared, folder)
    checkpoint, damaged = last_sound(folder)
    for each in damaged:
        listener.note(f"{each}; the one before it is used" if checkpoint else f"{each}; the run starts again")
    return Recording(prepared, listener, stops, checkpoint, again=True, go_on=how)


def unchanged(prepared: Prepared, folder: Path) -> None:
    """Raises UserError where a rule, or what it is compiled to, is no longer what it was when the run began."""
    for name, text in sources(prepared):
        kept = folder / name
        if kept.is_file() and kept.read_text("utf-8") != text:
            raise UserError(
                f"{kept} is no longer what the run would be: its rule, or the compiler, has changed since it began",
                "start a new run, or go on with the rule and the ruledsl that it began with",
            )


def _recorded(recording: Recording) -> Run:
    prepared = recording.prepared
    with recording as record:
        parts = prepared.engine, prepared.dataset, prepared.config, prepared.schedule
        for epoch in run(*parts, record.listener, record.position, record.pause):
            record.add(epoch)
    return recording.result
