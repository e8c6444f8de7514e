"""Checkpoints: everything that a run needs to go on as if nothing had happened, in files that execute nothing.

A checkpoint is one safetensors file. Its name says where the run was and what the file's checksum is, so that it is
there as a whole or not at all, and a damaged one is found out:

    checkpoints/epoch3-step17-9f86d081884c7d65.safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ruledsl.errors import UserError, need
from ruledsl.training.loop import Epoch, Position
from ruledsl.writing import write_whole

KEPT = 2
"""So many are kept: the one before stays usable while the next one is written, and if that is damaged later."""
DIGITS = 16
NAME = re.compile(rf"epoch(\d+)-step(\d+)-([0-9a-f]{{{DIGITS}}})\.safetensors")
PROGRESS = "progress"
"""The tensor that holds what is no tensor: JSON, as bytes."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run was, the epochs that were over, its engine's state, and its configuration as it then was."""

    position: Position
    epochs: tuple[Epoch, ...]
    state: Mapping[str, NDArray[Any]]
    configuration: str = ""


class Checkpoints:
    """Those of one run, in a folder of their own."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write it, then throw away all but the one before. Raises UserError, with those untouched."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.folder}: {error.strerror}") from None
        content = _packed(checkpoint)
        at, checksum = checkpoint.position, _checksum(content)
        path = self.folder / f"epoch{at.epoch}-step{at.step}-{checksum}.safetensors"
        write_whole(path, content, "the checkpoints that are there already can be used", durable=True)
        for old in self._paths()[KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def discard_after(self, position: Position) -> None:
        """Throw away those of later positions: a run that goes on from an earlier one writes its own."""
        for path in self._paths():
            if _place(path) > (position.epoch, position.step):
                path.unlink(missing_ok=True)

    def positions(self) -> list[tuple[int, int]]:
        """(epoch, step) of those that are there, the last one first; whether they are sound is not looked at."""
        return [_place(path) for path in self._paths()]

    def sound(self) -> Iterator[Checkpoint | str]:
        """Those that can be used, the last one first; for each that cannot, what is wrong with it."""
        for path in self._paths():
            try:
                content = path.read_bytes()
            except OSError as error:
                yield f"{path} cannot be read: {error.strerror}"
                continue
            if _checksum(content) == _match(path)[3]:
                yield _unpacked(content)
            else:
                yield f"{path} is damaged: its checksum is not the one in its name"

    def _paths(self) -> list[Path]:
        found = [path for path in self.folder.glob("*.safetensors") if NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: (*_place(path), path.stat().st_mtime_ns), reverse=True)


def _packed(checkpoint: Checkpoint) -> bytes:
    progress = {
        "position": asdict(checkpoint.position),
        "epochs": [asdict(epoch) for epoch in checkpoint.epochs],
        "configuration": checkpoint.configuration,
    }
    content = np.frombuffer(json.dumps(progress).encode(), np.uint8)
    save = need("safetensors.numpy", "saving checkpoints", "train").save
    arrays = {name: np.array(value, order="C") for name, value in checkpoint.state.items()}
    packed: bytes = save({**arrays, PROGRESS: content})
    return packed


def _unpacked(content: bytes) -> Checkpoint:
    state = need("safetensors.numpy", "reading checkpoints", "train").load(content)
    progress = json.loads(state.pop(PROGRESS).tobytes())
    epochs = tuple(map(Epoch.of_record, progress["epochs"]))
    return Checkpoint(Position.of_record(progress["position"]), epochs, state, progress.get("configuration", ""))


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _match(path: Path) -> re.Match[str]:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return match


def _place(path: Path) -> tuple[int, int]:
    match = _match(path)
    return int(match[1]), int(match[2])
