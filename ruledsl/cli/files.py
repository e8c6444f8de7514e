"""Files that commands read and write."""

from __future__ import annotations

import os
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
    """A path as seen from the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
