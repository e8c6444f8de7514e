"""The picture of a comparison: test error over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np

from ruledsl.experiments.row import Row

# Okabe & Ito's palette, told apart with every kind of colour vision; its yellow is too faint for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARKS_PER_LINE = 10


def draw(rows: Sequence[Row], dataset: str) -> bytes:
    """A PNG: for each rule a line, the mean over seeds, and a band from the best to the worst seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest = 1.0
    for index, row in enumerate(rows):
        errors = _matrix(row.curves())
        epochs = np.arange(errors.shape[1])
        mean = np.nanmean(errors, axis=0)
        lowest = min(lowest, float(np.nanmin(errors)))
        colour = COLOURS[index % len(COLOURS)]
        axes.fill_between(epochs, np.nanmin(errors, 0), np.nanmax(errors, 0), color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            epochs,
            mean,
            color=colour,
            linestyle=LINES[index // len(COLOURS) % len(LINES)],
            marker=MARKERS[index % len(MARKERS)],
            markevery=(index % 3, max(1, len(epochs) // MARKS_PER_LINE)),
            markersize=4.5,
            linewidth=1.6,
            label=_label(row),
        )
    if lowest > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(PercentFormatter(1, decimals=None))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("test error (% of images)")
    most = max((len(row.runs) for row in rows), default=0)
    over = f"mean of {most} seeds, band from best to worst" if most > 1 else "one seed"
    axes.set_title(f"{dataset}: {over}", fontsize=11, loc="left")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _matrix(curves: Sequence[Sequence[float]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """[runs, epochs], NaN where a run had ended already."""
    errors = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(errors, curves, strict=True):
        row[: len(curve)] = curve
    return errors


def _label(row: Row) -> str:
    if row.test_error is None:
        return f"{row.label} ({row.verdict})\ndiverged"
    spread = f" ± {100 * row.spread:.1f}" if row.spread is not None else ""
    return f"{row.label} ({row.verdict})\n{100 * row.test_error:.1f}{spread} %"
