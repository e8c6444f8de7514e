"""What comes of a run, and the ways in which one can end early."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruledsl.errors import UserError
from ruledsl.training.checkpoints import Checkpoint, Checkpoints
from ruledsl.training.config import Config
from ruledsl.training.loop import Epoch
from ruledsl.training.run_folder import shown
from ruledsl.training.settings import flat, read_config

SUMMARY, CONFIGURATION, COMPARISON = "summary.json", "config.toml", "comparison.json"


class Stopped(UserError):
    """A run that did not reach its end; `run` is what it left."""

    def __init__(self, message: str, help: str | None, run: Run) -> None:
        super().__init__(message, help)
        self.run = run


class Interrupted(Stopped):
    """The user pressed Ctrl-C, or the system asked the process to end. `signal` is its number, where there was one."""

    signal: int | None = None


class TrainingDiverged(Stopped):
    """The loss became NaN, infinite or far too large."""


@dataclass
class Run:
    """A run. `status` is running, finished, interrupted, diverged or failed; `message`: what to say of its end."""

    config: Config
    folder: Path
    status: str = "running"
    epochs: list[Epoch] = field(default_factory=list)
    verdict: str | None = None
    message: str | None = None

    @property
    def test_error(self) -> float:
        """The share of test images that the network has wrong after the last epoch."""
        return self.epochs[-1].test.error

    @property
    def seconds_per_epoch(self) -> float | None:
        """Training time, without evaluation, averaged; None if no epoch was finished."""
        trained = [epoch.seconds for epoch in self.epochs if epoch.epoch]
        return sum(trained) / len(trained) if trained else None

    def summary(self) -> dict[str, Any]:
        """What `summary.json` says."""
        finished = len(self.epochs) - 1
        return {
            "status": self.status,
            **({"message": self.message} if self.message else {}),
            "verdict": self.verdict,
            "epochs": max(0, finished),
            "test_error": self.test_error if self.epochs else None,
            "seconds_per_epoch": self.seconds_per_epoch,
        }


def found(folder: Path) -> Run:
    """What is in the folder of a run, with the status that it left. Raises UserError where it is none."""
    if not (folder / CONFIGURATION).is_file():
        raise UserError(
            f"{folder} is no run folder: it has no {CONFIGURATION}", "ruledsl train names its run folder at the end"
        )
    if (folder / COMPARISON).is_file():
        raise UserError(f"{folder} is the folder of a comparison", f"ruledsl compare --resume {shown(folder)}")
    config = read_config(folder / CONFIGURATION).model_copy(update={"out": folder})
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    except (OSError, ValueError):
        summary = None
    summary = summary if isinstance(summary, dict) else {}
    checkpoint, _ = last_sound(folder)
    if checkpoint is not None:
        unchanged_settings(folder, checkpoint)
    epochs: Sequence[Epoch] = checkpoint.epochs if checkpoint else ()
    status = summary.get("status", "running")
    if status == "finished" and checkpoint is None:  # what it had come to is lost
        status = "running"
    return Run(config, folder, status, list(epochs), summary.get("verdict"), summary.get("message"))


FREE = frozenset(
    """
    out threads device processes devices checkpoint_every probe_every tensorboard data.folder data.workers
    data.test_batch_size
    """.split()  # noqa: SIM905
)
"""What may be another when a run goes on: nothing that it comes to depends on these, rounding aside."""


def unchanged_settings(folder: Path, checkpoint: Checkpoint) -> None:
    """Raises UserError where the configuration in a run's folder is no longer that of its checkpoint."""
    if not checkpoint.configuration:
        return
    path = folder / CONFIGURATION
    before, now = (
        dict(flat(tomllib.loads(text))) for text in (checkpoint.configuration, path.read_text(encoding="utf-8"))
    )
    for name in sorted({*before, *now} - FREE):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{path} says {name} = {now.get(name)}, and until its last checkpoint the run had {before.get(name)}",
                "a run goes on as it began: put it back, or start another one with ruledsl train --config",
            )


def last_sound(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint of a run that can be used, and what is wrong with those after it."""
    damaged: list[str] = []
    for one in Checkpoints(folder).sound():
        if isinstance(one, Checkpoint):
            return one, damaged
        damaged.append(one)
    return None, damaged
