"""Presets: configurations that ship, one TOML file each, with where every number is from."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruledsl.errors import UserError, suggest

FOLDER = Path(__file__).parent.parent / "presets"


@lru_cache
def names() -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def text(name: str) -> str:
    """The file of a preset. Raises UserError where there is none of that name."""
    if name not in names():
        raise UserError(f"there is no preset called `{name}`", suggest(name, names()))
    return (FOLDER / f"{name}.toml").read_text("utf-8")


def title(name: str) -> str:
    """What it is: its first line."""
    return text(name).partition("\n")[0].lstrip("# ")


def values(name: str) -> dict[str, Any]:
    """Its settings. Raises UserError."""
    return tomllib.loads(text(name))
