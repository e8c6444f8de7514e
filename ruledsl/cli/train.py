"""`ruledsl train`: teach a network by a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
    Preset,
    Resume,
    Seed,
    Settings,
    asks_to_resume,
    configuration,
)
from ruledsl.errors import UserError

if TYPE_CHECKING:
    from ruledsl.training import Run


def command(
    rule: Annotated[str | None, typer.Argument(metavar="RULE", help="A rule of the library, or a path.")] = None,
    model: Model = None,
    data: Data = None,
    data_dir: DataDir = None,
    backend: Backend = None,
    config: ConfigFile = None,
    preset: Preset = None,
    optimizer: Optimizer = None,
    constraints: Constraints = None,
    layers: Layers = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = None,
    epochs: Epochs = None,
    resume: Resume = None,
) -> None:
    """Teach a network by a rule; everything that comes of it goes into a run folder."""
    given = locals().copy()

    from rich.console import Console

    from ruledsl.training import resume as go_on
    from ruledsl.training import train
    from ruledsl.training.progress import ProgressBar
    from ruledsl.training.settings import parse_setting

    listener = ProgressBar(Console())
    if asks_to_resume(given):
        _tell(go_on(given["resume"], listener))
        return
    for setting in settings or ():
        if parse_setting(setting).get("rule", rule) != rule:
            raise UserError(f"two rules were asked for: {rule}, and {setting} by --set", "leave out one of them")
    flags: dict[str, Any] = {
        "preset": preset,
        "rule": rule,
        "backend": backend,
        "out": out,
        "seed": seed,
        "epochs": epochs,
    }
    flags |= {"constraints": constraints or None, "layers": layers}
    chosen = configuration(config, settings, model=model, data=data, data_dir=data_dir, optimizer=optimizer, **flags)
    _tell(train(chosen, listener))


def _tell(run: Run) -> None:
    """What came of it."""
    if not run.folder.exists():  # another process keeps it
        return
    if run.status == "diverged":
        raise UserError(run.message or "the run diverged", f"what was finished before is in {run.folder}")
    if run.message:
        typer.echo(f"note: {run.message}")
    epochs = run.config.epochs
    typer.echo(f"test error {100 * run.test_error:.2f} % after {epochs} epochs; the run is in {run.folder}")
