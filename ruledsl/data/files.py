"""Files of published datasets: where they are looked for, and whether they are what was published."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ruledsl.errors import UserError
from ruledsl.folders import cache_folder
from ruledsl.writing import write_whole

BLOCK = 2**20


def roots(data_dir: Path | None) -> list[Path]:
    """Where data is looked for: in `data_dir` alone if it is given, else in $RULEDSL_DATA and the cache folder."""
    given = os.environ.get("RULEDSL_DATA")
    if data_dir:
        return [data_dir]
    return [Path(given), cache_folder()] if given else [cache_folder()]


def folders(name: str, data_dir: Path | None) -> list[Path]:
    """Where the files of a dataset are looked for, in order: in the subfolders called like it, then in the folders.

    MNIST and Fashion-MNIST have files of the same names; a folder that says it is the other one is left out.
    """
    fashion = name == "fashion_mnist"
    return [
        folder
        for root in roots(data_dir)
        for folder in (root / name, root)
        if folder.name == name or ("fashion" in folder.name.lower()) == fashion
    ]


def find(names: Sequence[str], searched: Sequence[Path]) -> Path | None:
    """The first of these files or folders that is there."""
    return next((path for folder in searched for name in names if (path := folder / name).exists()), None)


def missing(name: str, file: str, searched: Sequence[Path], published: str) -> UserError:
    """What to say of a file that is nowhere."""
    places = ", ".join(str(folder) for folder in searched)
    return UserError(
        f"the file {file} of {name} is missing; looked in: {places}",
        f"it is published as {published}; put it into one of these folders, or say where it is with --data-dir or "
        "$RULEDSL_DATA",
    )


def broken(path: Path | str, problem: str) -> UserError:
    """What to say of a file that is not what it should be."""
    return UserError(f"{path} cannot be used: {problem}", "fetch the file again")


def verified(path: Path, md5: str, verify: bool = True, unzipped: bool = False) -> Path:
    """The path, of a file that has the published checksum. Raises UserError for another one.

    unzipped  whether it is that of what is in a gzipped file, however that was packed

    A file that was right is not read again for this as long as its size and its time stay the same.
    """
    if not verify:
        return path
    try:
        there = path.stat()
        mark = [str(path.resolve()), there.st_size, there.st_mtime_ns, md5]
        remembered = _remembered()
        if mark in remembered:
            return path
        digest = hashlib.md5(usedforsecurity=False)
        with gzip.open(path) if unzipped and path.suffix == ".gz" else path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return path  # whoever reads it says what is wrong
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if digest.hexdigest() != md5:
        raise UserError(
            f"{path} is not the published file: its MD5 checksum is {digest.hexdigest()}, and not {md5}",
            "fetch it again; --set data.options.verify=false uses it all the same",
        )
    _remember([*remembered, mark][-100:])
    return path


def contents(path: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """Files of a folder, or of an archive in which they are below `folder`. Raises UserError."""
    if path.is_dir():
        try:
            return {name: (path / name).read_bytes() for name in names}
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for name in names:
                member = archive.extractfile(f"{folder}/{name}")
                if member is None:
                    raise broken(path, f"{name} is no file")
                found[name] = member.read()
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise broken(path, str(error)) from None
    return found


def _memory() -> Path:
    return cache_folder() / "checksums.json"


def _remembered() -> list[list[object]]:
    try:
        marks = json.loads(_memory().read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return marks if isinstance(marks, list) else []


def _remember(marks: list[list[object]]) -> None:
    try:
        _memory().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_memory(), json.dumps(marks))
    except (OSError, UserError):
        return
