"""Finding rules: by name in the library that ships with ruledsl, by path, or in a text."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from ruledsl.analysis.names import suggestion
from ruledsl.analysis.resolve import Found
from ruledsl.checked import Checked
from ruledsl.diagnostics import Diagnostic, RuleError, report
from ruledsl.errors import UserError
from ruledsl.language.parser import parse as parse_text
from ruledsl.language.tree import File
from ruledsl.pipeline import Lookup, check_text, checked_rule
from ruledsl.rule import Rule
from ruledsl.source import Source, Span

SUFFIX = ".rule"
LARGEST_FILE = 4_000_000  # bytes; the parser has a limit of its own, in characters


def folder() -> Path:
    """The folder of the standard library's `.rule` files."""
    package = Path(__file__).parent
    inside = package / "rules"
    return inside if inside.is_dir() else package.parent / "rules"


@lru_cache
def names() -> list[str]:
    """The names of the library: rules, optimizers and constraints."""
    return sorted(path.stem for path in folder().glob(f"*{SUFFIX}"))


def load(name: str | Path, /, **values: float | bool) -> Rule:
    """A rule of the library by its name, or one of your own by its path; `values` set parameters, static ones too.

    Raises RuleError with every diagnostic when the rule has errors, UserError when there is no such rule.
    """
    path = Path(name)
    if isinstance(name, Path) or path.suffix == SUFFIX or path.parent != Path("."):
        return checked_rule(read(path), path.stem, values, _lookup(path.parent), names)
    if name not in names():
        help = suggestion(str(name), names()) or "`ruledsl list` shows them"
        raise UserError(f"there is no rule called {name!r}", help)
    return checked_rule(read(folder() / f"{name}{SUFFIX}"), str(name), values, _lookup(None), names)


def parse(text: str, name: str = "<text>", **values: float | bool) -> Rule:
    """The rule in a text (the last definition, where there are several). Raises RuleError."""
    return checked_rule(Source(text, name), None, values, _lookup(None), names)


def check_file(path: Path) -> tuple[list[Checked], list[Diagnostic]]:
    """Every definition of a file, checked, and the diagnostics of its grammar. Raises UserError if it can't be read."""
    return check_all(read(path), path.parent)


def check_all(text: Source, beside: Path | None = None) -> tuple[list[Checked], list[Diagnostic]]:
    """Every definition of a text, checked; it may use the library and the definitions in the folder `beside`."""
    return check_text(text, _lookup(beside), names)


def read(path: Path) -> Source:
    """A file as text. Raises UserError when it can't be read, RuleError when it isn't UTF-8 text."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            place, size = Source("", str(path)), path.stat().st_size
            raise RuleError([report("E0107", Span(1, 1, 1, 1), text=place, size=size, limit=LARGEST_FILE)])
        return Source(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"), str(path))
    except UnicodeDecodeError as error:
        raise RuleError([report("E0109", Span(1, 1, 1, 1), text=Source("", str(path)))]) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _lookup(beside: Path | None) -> Lookup:
    """Definitions outside the file: first files beside it, then the library."""

    def find(name: str) -> Found | None:
        for place in ([beside] if beside else []) + [folder()]:
            path = place / f"{name}{SUFFIX}"
            if os.path.isfile(path):  # False, too, where no file can have such a name
                found = {d.name.id: d for d in _file(path, path.stat().st_mtime_ns)[0].definitions}
                if name in found:
                    return Found(found[name], _file(path, path.stat().st_mtime_ns)[1])
        return None

    return find


@lru_cache(maxsize=256)
def _file(path: Path, changed: int) -> tuple[File, Source]:
    text = read(path)
    file, syntax = parse_text(text)
    if any(d.severity == "error" for d in syntax):
        raise RuleError(syntax)
    return file, text
