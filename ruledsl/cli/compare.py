"""`ruledsl compare`: several rules on equal terms."""

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

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ruledsl.experiments import Comparison


def command(
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="RULE...", help="Rules of the library, or paths.")
    ] = None,
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
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="How many runs of each rule; 3.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid", metavar="NAME=VALUES", help="Settings or parameters: optimizer.lr=0.01,0.1. May be repeated."
        ),
    ] = None,
    epochs: Epochs = None,
    resume: Resume = None,
) -> None:
    """Train with several rules and seeds on equal terms: one table, one plot."""
    given = locals().copy()

    from rich.console import Console

    from ruledsl.experiments import compare, parse_grid
    from ruledsl.experiments import resume as go_on
    from ruledsl.training.progress import ProgressBar

    console = Console()
    listener = ProgressBar(console, epoch_lines=False)
    if asks_to_resume(given):
        tell(go_on(given["resume"], listener), console)
        return
    flags: dict[str, Any] = {"preset": preset, "backend": backend, "out": out, "seed": seed, "epochs": epochs}
    flags |= {"constraints": constraints or None, "layers": layers}
    chosen = configuration(config, settings, model=model, data=data, data_dir=data_dir, optimizer=optimizer, **flags)
    numbers = range(chosen.seed, chosen.seed + (seeds or 3))
    tell(compare(chosen, rules or (), numbers, listener, parse_grid(grid or ())), console)


def tell(comparison: Comparison, console: Console) -> None:
    """What came of it."""
    console.print(table(comparison))
    typer.echo(f"plot     {comparison.plot}\nnumbers  {comparison.results}\nruns     {comparison.folder}")
    if any(row.failures for row in comparison.rows):
        raise typer.Exit(1)


def table(comparison: Comparison) -> Table:
    """The comparison for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD)
    words = [len(word) for row in comparison.rows for word in row.label.split()]
    shown.add_column("rule", min_width=max(words, default=0))
    for title in ("test error", "spread", "seconds/epoch"):
        shown.add_column(title, justify="right", no_wrap=True)
    shown.add_column("verdict")
    for row in comparison.rows:
        diverged = sum(run.status == "diverged" for run in row.runs)
        error = f"{100 * row.test_error:.2f} %" if row.test_error is not None else ""
        spread = f"± {100 * row.spread:.2f}" if row.spread is not None else ""
        seconds = f"{row.seconds_per_epoch:.3f}" if row.seconds_per_epoch is not None else ""
        verdict = row.verdict + (f", {diverged} of {len(row.runs)} diverged" if diverged else "")
        verdict += f", {len(row.failures)} failed" if row.failures else ""
        shown.add_row(row.label, error, spread, seconds, verdict)
    return shown
