"""The folder of a run. A file appears under its final name only when all of it is written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ruledsl.errors import UserError, need
from ruledsl.writing import write_whole

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None  # type: ignore[assignment]

ANOTHER_FOLDER = "choose another folder with --out"
PACKAGES = ("ruledsl", "numpy", "scikit-learn", "safetensors")


class RunFolder:
    """A folder that this run made. Raises UserError where nothing can be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: list[str] = []
        self._held: int | None = None

    @classmethod
    def create(cls, wanted: Path) -> RunFolder:
        """A new folder: `wanted`, or `wanted-2`, `wanted-3` ... where a run is there already."""
        wanted = wanted.absolute()
        number, path = 1, wanted
        if not wanted.name:
            raise UserError(f"{wanted} cannot be a run folder", "choose another folder with --out")
        try:
            wanted.parent.mkdir(parents=True, exist_ok=True)
            while not _made(path):
                number += 1
                path = wanted.with_name(f"{wanted.name}-{number}")
        except OSError as error:
            raise _unwritable(path, error) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that is there."""
        return cls(path.absolute())

    def hold(self) -> None:
        """Keep other processes from writing it, until `release` or the end of this one. Raises UserError."""
        if fcntl is None:  # on Windows
            return
        self._held = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise UserError(
                f"another process is writing {self.path}", "wait for it, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            self.release()

    def release(self) -> None:
        """Let others write it."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        write_whole(self.path / name, content, ANOTHER_FOLDER)

    def write_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.jsonl`, a line for each. NaN and infinity, which JSON lacks, are written as null."""
        self._metrics = [json.dumps({name: _finite(value) for name, value in one.items()}) for one in records]
        self.write_text("metrics.jsonl", "".join(f"{line}\n" for line in self._metrics))

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        self._metrics.append(json.dumps({name: _finite(value) for name, value in record.items()}))
        self.write_text("metrics.jsonl", "".join(f"{line}\n" for line in self._metrics))

    def write_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Write `weights.safetensors`."""
        self.write_arrays("weights.safetensors", weights)

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a file of arrays by name."""
        save = need("safetensors.numpy", "saving weights", "train").save
        self.write_bytes(name, save(dict(arrays)))


def shown(path: Path) -> str:
    """A path as one types it here."""
    path = path.absolute()
    return shlex.quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


def environment(frameworks: Sequence[str]) -> dict[str, Any]:
    """What the run ran on: versions of packages, the backend's among them, machine and command."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "command": sys.argv,
        "packages": {name: found for name in (*PACKAGES, *frameworks) if (found := _version(name))},
    }


def _made(path: Path) -> bool:
    """Whether `path` is a new folder now, or was there and empty. Raises OSError where it is a file."""
    try:
        path.mkdir()
    except FileExistsError:
        return not any(path.iterdir())
    return True


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror}", ANOTHER_FOLDER)
