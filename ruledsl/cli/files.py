"""Files that commands read and write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ruledsl import library
from ruledsl.analysis.names import suggestion
from ruledsl.errors import UserError


def rule_file(argument: str) -> Path:
    """The file that an argument means: a path, or the name of a rule of the library. Raises UserError."""
    path = Path(argument)
    if path.suffix == library.SUFFIX or path.parent != Path(".") or os.path.exists(path):
        return path
    if argument not in library.names():
        help = suggestion(argument, library.names()) or "`ruledsl list` shows the rules of the library"
        raise UserError(f"there is no file and no rule called `{argument}`", help)
    return near(library.folder() / f"{argument}{library.SUFFIX}")


def near(path: Path) -> Path:
    """The same path, seen from the current folder where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def write_text(path: Path, text: str) -> None:
    """Write all of a file or nothing: under a temporary name beside it, then renamed. Raises UserError.

    A link stays a link, and a file keeps its permissions.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, "it is write-protected")
        try:
            temporary.write_text(text, encoding="utf-8", newline="\n")
            if path.exists():
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
