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


def command(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")],
    backend: Annotated[str, typer.Option("--backend", help="For whom: torch or jax.")] = "torch",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write to a file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter. May be repeated.")
    ] = None,
) -> None:
    """Print a rule as PyTorch or JAX source, which needs no ruledsl to run; or write it to a file."""
    loaded = ruledsl.load(rule, **values(settings or []))
    program = loaded.compile(backend)
    for warning in loaded.diagnostics:
        print(render(warning) + "\n", file=sys.stderr)
    if out is None:
        print(program.source, end="")
    else:
        write_whole(out, program.source)
        print(f"wrote {out}")


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
