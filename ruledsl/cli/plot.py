"""`ruledsl plot`: pictures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of train, or of compare.")],
    what: Annotated[
        Literal["curves", "angles", "delta_angles", "norms", "scatter", "flips", "gradients"],
        typer.Option("--what", help="Test errors, a probe of every layer, W against feedback, or gradient ratios."),
    ] = "curves",
    bands: Annotated[
        Literal["range", "sem", "std"],
        typer.Option("--bands", help="Over seeds: best to worst, standard error, or standard deviation."),
    ] = "range",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The picture: .png, .svg or .pdf. Left out: WHAT.png in the first run's folder."),
    ] = None,
) -> None:
    """Draw error curves, angles, norm ratios, sign flips or gradient ratios of runs."""
    from ruledsl.experiments.plot import picture, read_runs
    from ruledsl.writing import write_whole

    place = out or runs[0] / f"{what}.png"
    drawn = picture(read_runs(runs), what, bands, place.suffix.removeprefix("."))
    write_whole(place, drawn, "choose another file with --out")
    typer.echo(f"plot     {place}")
