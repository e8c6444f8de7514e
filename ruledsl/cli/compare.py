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
    Seed,
    Settings,
    configuration,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ruledsl.experiments import Comparison


def command(
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help="Rules of the library, or paths.")],
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
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many runs of each rule.")] = 3,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid", metavar="NAME=VALUES", help="Settings or parameters: optimizer.lr=0.01,0.1. May be repeated."
        ),
    ] = None,
    epochs: Epochs = None,
) -> None:
    """Train with several rules and seeds on equal terms: one table, one plot."""
    flags: dict[str, Any] = {"backend": backend, "out": out, "seed": seed, "epochs": epochs}
    flags |= {"constraints": constraints or None, "layers": layers}
    chosen = configuration(config, settings, model=model, data=data, data_dir=data_dir, optimizer=optimizer, **flags)

    from rich.console import Console

    from ruledsl.experiments import compare, parse_grid
    from ruledsl.training.progress import ProgressBar

    console = Console()
    numbers = range(chosen.seed, chosen.seed + seeds)
    comparison = compare(chosen, rules, numbers, ProgressBar(console, epoch_lines=False), parse_grid(grid or ()))
    console.print(table(comparison))
    typer.echo(f"plot     {comparison.plot}\nnumbers  {comparison.results}\nruns     {comparison.folder}")


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
        shown.add_row(row.label, error, spread, seconds, verdict)
    return shown
