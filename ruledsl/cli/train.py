"""`ruledsl train`: teach a network by a rule."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ruledsl.cli.run_options import (
    Backend,
    ConfigFile,
    Constraints,
    Data,
    DataDir,
    Epochs,
    Layers,
    Model,
    Optimizer,
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
    optimizer: Optimizer = None,
    constraints: Constraints = None,
    layers: Layers = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = None,
    epochs: Epochs = None,
) -> None:
    """Teach a network by a rule; everything that comes of it goes into a run folder."""
    flags: dict[str, Any] = {"rule": rule, "backend": backend, "out": out, "seed": seed, "epochs": epochs}
    flags |= {"constraints": constraints or None, "layers": layers}
    chosen = configuration(config, settings, model=model, data=data, data_dir=data_dir, optimizer=optimizer, **flags)

    from rich.console import Console

    from ruledsl.training import train
    from ruledsl.training.progress import ProgressBar

    run = train(chosen, ProgressBar(Console()))
    if run.folder.exists():  # this process keeps it
        typer.echo(f"test error {100 * run.test_error:.2f} % after {chosen.epochs} epochs; the run is in {run.folder}")
