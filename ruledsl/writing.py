"""Writing a file: all of it or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ruledsl.errors import UserError


def write_whole(path: Path, content: str | bytes, help: str | None = None) -> None:
    """Write a file under a temporary name beside `path`, then rename it. Raises UserError, with `help`.

    A link stays a link, and a file keeps its permissions. Text is written as UTF-8.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, "it is write-protected")
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            if path.exists():
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", help) from None
