"""The import lines of an emitted module: of the names that it may use, those that its code reads."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping

PROJECT = "ruledsl"
_READ = re.compile(r'"""[\s\S]*?"""|"[^"\n]*"|#.*|\.\s*\w+|^ *\w+ = |\w+=(?!=)|(\w+)', re.MULTILINE)
"""The names that code reads: no text, no comment, no attribute, no assigned name, no keyword."""


def imported(*names: str, of: str) -> dict[str, str]:
    """By name, the statement that imports it from a module."""
    return {name: f"from {of} import {name}" for name in names}


def imports(code: str, statements: Mapping[str, str], also: Iterable[str] = ()) -> str:
    """The import lines of a module's code, of `statements` by name; `also`: statements for what it offers besides."""
    read = set(_READ.findall(code))
    return import_lines([line for name, line in statements.items() if name in read] + [*also])


def import_lines(statements: Iterable[str]) -> str:
    """The imports of a file, sorted: the standard library's, other packages', the project's own.

    Several names of one module stand in one line.
    """
    plain, named = set(), dict[str, set[str]]()
    for line in statements:
        if line.startswith("from "):
            module, _, names = line.removeprefix("from ").partition(" import ")
            named.setdefault(module, set()).update(name.strip() for name in names.split(","))
        else:
            plain.add(line)
    lines = sorted(plain) + [
        f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(named.items())
    ]
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for line in lines:
        package = line.split()[1].partition(".")[0]
        groups[0 if package in sys.stdlib_module_names else 2 if is_own(package) else 1].append(line)
    return "\n\n".join("\n".join(group) for group in groups.values() if group)


def is_own(module: str | None) -> bool:
    """Whether a module is one of this project: its compiler's, or a backend's."""
    return module is not None and module.partition(".")[0].partition("_")[0] == PROJECT
