"""The options that `train` and `compare` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruledsl.errors import UserError

if TYPE_CHECKING:
    from ruledsl.training import Config

Model = Annotated[str | None, typer.Option("--model", help="The network, such as liao_mnist or mlp.")]
Data = Annotated[str | None, typer.Option("--data", help="The dataset: digits, mnist, fashion_mnist, synthetic.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where its files are, before $RULEDSL_DATA.")]
Backend = Annotated[str | None, typer.Option("--backend", help="Who computes: an installed backend.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, such as optimizer.lr=0.1. May be repeated.")
]
Optimizer = Annotated[str | None, typer.Option("--optimizer", help="sgd, adam, another one of the library, or a path.")]
Constraints = Annotated[
    list[str] | None, typer.Option("--constraint", help="What holds after each step. May be repeated.")
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="PATTERN=RULE",
        help="Another rule for layers by name: 'head=backprop', 'conv*=none'. May be repeated; the first fit counts.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="Settings that ship, such as moskovitz_mnist: see ruledsl list --presets."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The folder for the results; never overwritten.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Determines all that is random.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="FOLDER", help="Go on with the run in this folder. Takes no other option."),
]


def asks_to_resume(given: Mapping[str, Any]) -> bool:
    """Whether a command was asked to go on with what is in a folder. Raises UserError where it was told more."""
    others = [name for name, value in given.items() if name != "resume" and value is not None and value != []]
    if given["resume"] is None:
        for name in ("rule", "rules"):
            if name in given and name not in others:
                raise UserError("which rule?", "`ruledsl list` shows them; --resume FOLDER goes on with a run")
        return False
    if others:
        raise UserError(
            f"--resume goes on with the settings that the run has: leave out {', '.join(others)}",
            "they are in its config.toml; a run with others is a new one",
        )
    return True


def configuration(
    file: Path | None,
    settings: list[str] | None,
    *,
    model: str | None,
    data: str | None,
    data_dir: Path | None,
    optimizer: str | None = None,
    layers: list[str] | None = None,
    preset: str | None = None,
    **flags: Any,
) -> Config:
    """That of a preset, then of a file, then what the flags say, then the single settings. Raises UserError."""
    from ruledsl.training import read_config

    nested: dict[str, dict[str, Any]] = {
        "model": {"name": model},
        "data": {"name": data, "folder": data_dir},
        "optimizer": {"name": optimizer},
    }
    for section, fields in nested.items():
        flags[section] = {name: value for name, value in fields.items() if value is not None} or None
    if flags.get("out") is not None and not flags["out"].name:
        raise UserError("--out needs the name of a folder", "left out, it is a new one below runs/")
    flags["layers"] = dict(map(_layer, layers or ())) or None
    return read_config(file, settings or (), preset, **flags)


def _layer(text: str) -> tuple[str, dict[str, str]]:
    pattern, equals, rule = (part.strip() for part in text.partition("="))
    if not (pattern and equals and rule):
        raise UserError(f"cannot read the layers `{text}`", "write it as --layer 'conv*=feedback_alignment'")
    return pattern, {"rule": rule}
