"""What comes of a run, and the ways in which one can end early."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruledsl.errors import UserError
from ruledsl.training.checkpoints import Checkpoint, Checkpoints
from ruledsl.training.config import Config
from ruledsl.training.loop import Epoch
from ruledsl.training.settings import read_config

SUMMARY, CONFIGURATION = "summary.json", "config.toml"


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
    config = read_config(folder / CONFIGURATION).model_copy(update={"out": folder})
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    except (OSError, ValueError):
        summary = {}
    checkpoint, _ = last_sound(folder)
    epochs: Sequence[Epoch] = checkpoint.epochs if checkpoint else ()
    status = summary.get("status", "running")
    return Run(config, folder, status, list(epochs), summary.get("verdict"), summary.get("message"))


def last_sound(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint of a run that can be used, and what is wrong with those after it."""
    damaged: list[str] = []
    for one in Checkpoints(folder).sound():
        if isinstance(one, Checkpoint):
            return one, damaged
        damaged.append(one)
    return None, damaged
