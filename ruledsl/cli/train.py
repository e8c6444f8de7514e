"""`ruledsl train`: teach a network by a rule."""

from __future__ import annotations

from typing import Annotated

import typer

from ruledsl.cli.run_options import (
    Backend,
    ConfigFile,
    Data,
    DataDir,
    Epochs,
    Model,
    Out,
    Seed,
    Settings,
    configuration,
)


def command(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")],
    model: Model = None,
    data: Data = None,
    data_dir: DataDir = None,
    backend: Backend = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = None,
    epochs: Epochs = None,
) -> None:
    """Teach a network by a rule; everything that comes of it goes into a run folder."""
    flags = {"rule": rule, "backend": backend, "out": out, "seed": seed, "epochs": epochs}
    chosen = configuration(config, settings, model=model, data=data, data_dir=data_dir, **flags)

    from rich.console import Console

    from ruledsl.training import train
    from ruledsl.training.progress import ProgressBar

    run = train(chosen, ProgressBar(Console()))
    typer.echo(f"test error {100 * run.test_error:.2f} % after {chosen.epochs} epochs; the run is in {run.folder}")
