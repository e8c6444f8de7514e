"""Writing a file: all of it or nothing; what is no regular file is written to, and never replaced."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from ruledsl.errors import UserError


def write_whole(path: Path, content: str | bytes, help: str | None = None, *, durable: bool = False) -> None:
    """Write a file under a temporary name beside `path`, then rename it. Raises UserError, with `help`.

    durable  whether it also survives that the machine is switched off right afterwards

    A link stays a link, and a file keeps its permissions. A device or a pipe is written straight through. Text is
    written as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if _is_special(path):
            path.write_bytes(data)
        else:
            _write_and_rename(Path(os.path.realpath(path)), data, durable)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", help) from None


def _is_special(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket, or another name of an open file, as /dev/stdout is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.absolute().parts[1:2] in (("dev",), ("proc",))


def _write_and_rename(path: Path, data: bytes, durable: bool) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.is_dir():
        raise IsADirectoryError(0, "it is a folder")
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(0, "it is write-protected")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
