"""`ruledsl compile`: a rule as source text."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

import ruledsl
from ruledsl.diagnostics import render
from ruledsl.errors import UserError
from ruledsl.writing import write_whole

MADE_BY = "Made by ruledsl"  # in the docstring of every module that is emitted


def command(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")],
    backend: Annotated[str | None, typer.Option("--backend", help="For whom: an installed backend.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write to a file.")] = None,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="One file that needs the framework alone, and says how it is used.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that ruledsl did not write.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter. May be repeated.")
    ] = None,
) -> None:
    """Print a rule as the code that learns by it, or write that to a file."""
    if out is not None:
        refuse_to_overwrite(out, force)
    loaded = ruledsl.load(rule, **values(settings or []))
    program = loaded.compile(backend, standalone=standalone)
    for warning in loaded.diagnostics:
        print(render(warning) + "\n", file=sys.stderr)
    if out is None:
        print(program.source, end="")
    else:
        write_whole(out, program.source)
        print(f"wrote {out}")


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """Raises UserError for a rule's file, and unless forced for any that ruledsl did not write."""
    if path.suffix == ".rule":
        raise UserError(f"{path} is a rule's file, and what is written is code", "give it another name: -o rule.py")
    if force or not path.is_file():
        return
    try:
        written = MADE_BY in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        written = False
    if not written and path.stat().st_size:
        raise UserError(f"{path} exists, and ruledsl did not write it", "--force writes over it")


def values(settings: list[str]) -> dict[str, float | bool]:
    """`["decay=0.1", "bias=true"]` as values of parameters. Raises UserError."""
    return dict(_setting(setting) for setting in settings)


def _setting(setting: str) -> tuple[str, float | bool]:
    name, equals, value = (part.strip() for part in setting.partition("="))
    if not name or not equals or not value:
        raise UserError(f"`{setting}` sets nothing", "write name=value, as in --set decay=0.1")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UserError(f"`{value}` is no value for {name}", "write a number, true or false")
    return name, number
