"""What the user got wrong in a call, and optional packages that are not there: one clear message, no traceback."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """A call that cannot be carried out. `message` says what is wrong, `help` what to do; the exit status is 2."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help

    def __str__(self) -> str:
        return f"{self.message}\n  help: {self.help}" if self.help else self.message


class RuleWarning(UserWarning):
    """What happens is not what a user of a network would expect, and why; said once, with the line that mends it."""


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence for a name that is not among `known`: the nearest one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"there are: {', '.join(names)}" if names else "there are none"


def choose(kind: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`; raises UserError with a suggestion."""
    if name not in table:
        raise UserError(f"there is no {kind} called `{name}`", suggest(name, table))
    return table[name]


def need(module: str, purpose: str, extra: str) -> ModuleType:
    """Import a package of an optional extra; raises UserError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(
            f"{purpose} needs the package `{missing.name}`, which is not installed",
            f'install it with: pip install "ruledsl[{extra}]"',
        ) from None
