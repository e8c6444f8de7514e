"""Pictures of runs: what run folders hold, for print, all kinds of colour vision, and 30 rules at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ruledsl.errors import UserError, need, suggest
from ruledsl.experiments.row import Row
from ruledsl.training.settings import flat

# Okabe & Ito's palette, told apart with every kind of colour vision; its yellow is too faint for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""Of 7 colours, 4 lines and 9 markers, the first 28 curves differ in colour or line, and the first 252 somewhere."""
MARKS_PER_LINE = 10
IN_A_COLUMN = 15
PANEL = 4.0, 3.2
"""Inches of one of several panels."""

Bands = Literal["range", "sem", "std"]
Values = NDArray[np.float64]
BANDS: Mapping[Bands, str] = {
    "range": "band from best to worst",
    "sem": "band of one standard error",
    "std": "band of one standard deviation",
}
FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Style:
    """How the curve of this number looks."""

    index: int

    def options(self, epochs: int) -> dict[str, Any]:
        """For matplotlib's `plot`."""
        i = self.index
        return {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
            "marker": MARKERS[i % len(MARKERS)],
            "markevery": (i % 3, max(1, epochs // MARKS_PER_LINE)) if epochs > MARKS_PER_LINE else 1,
            "markersize": 4.5,
            "linewidth": 1.6,
        }


@dataclass
class Curves:
    """The runs of one rule: of each, its records by epoch; `pairs`: of each, by layer W and its effective feedback."""

    label: str
    records: list[list[dict[str, Any]]]
    dataset: str = ""
    pairs: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    def matrix(self, key: str) -> Values:
        """[runs, epochs], NaN where a run had ended already, and where it has no such number."""
        ends = [max((int(line["epoch"]) for line in run), default=0) for run in self.records]
        values = np.full((len(self.records), max(ends, default=0) + 1), np.nan)
        for row, run in zip(values, self.records, strict=True):
            for line in run:
                value = line.get(key)
                row[int(line["epoch"])] = np.nan if value is None else value
        return values

    def layers(self, probe: str) -> list[str]:
        """The layers of which there is a probe, in the network's order."""
        names = dict.fromkeys(name for run in self.records for line in run for name in line)
        return [name.removeprefix(f"{probe}/") for name in names if name.startswith(f"{probe}/")]


@dataclass(frozen=True)
class Picture:
    """What is drawn of a probe over epochs, a panel for each rule and a line for each layer."""

    probe: str
    label: str
    limits: tuple[float, float] | None = None
    log: bool = False


PICTURES: Mapping[str, Picture] = {
    "angles": Picture("angle", "angle between W.T and the feedback (degrees)", (0, 125)),
    "delta_angles": Picture("delta_angle", "angle between delta and backprop's (degrees)", (0, 125)),
    "norms": Picture("norm_ratio", "norm of the feedback over that of W", log=True),
    "flips": Picture("sign_changes", "share of weights with another sign than at the start", None),
}
WHAT = ("curves", *PICTURES, "scatter", "gradients")


def read_runs(paths: Sequence[Path]) -> list[Curves]:
    """The runs of these folders, of `train` or of `compare`, brought together by rule. Raises UserError."""
    folders: dict[Path, str] = {}
    for path in paths:
        folders |= {folder.resolve(): label for label, folder in _folders(path)}
    settings = {folder: _settings(folder) for folder in folders}
    found: dict[tuple[str, str], Curves] = {}
    for folder, label in folders.items():
        # Seeds of one experiment are one curve, and what differs otherwise is another one.
        mine = json.dumps({name: value for name, value in settings[folder].items() if name not in ALIKE}, default=str)
        one = found.setdefault((label, mine), Curves(label, [], _dataset(settings[folder])))
        one.records.append(_records(folder / "metrics.jsonl"))
        one.pairs.append(_pairs(folder / "feedback.safetensors"))
    _tell_apart(found)
    return list(found.values())


ALIKE = frozenset(("seed", "out", "threads", "checkpoint_every", "tensorboard", "device"))
"""Settings in which the runs of one curve may differ."""
SHOWN = 3  # settings in a label


def _settings(folder: Path) -> dict[str, Any]:
    """Of a run, by their paths in its configuration."""
    return dict(flat(_read(folder / "config.toml", tomllib.loads)))


def _dataset(settings: Mapping[str, Any]) -> str:
    """Its name; of arrays, that of their file."""
    name = str(settings.get("data.name", "digits"))
    return Path(str(settings.get("data.options.file", name))).stem if name == "npz" else name


def _tell_apart(found: Mapping[tuple[str, str], Curves]) -> None:
    """Curves of one rule get the settings in which they differ as a part of their labels."""
    by_label: dict[str, list[tuple[dict[str, Any], Curves]]] = {}
    for (label, text), curves in found.items():
        by_label.setdefault(label, []).append((json.loads(text), curves))
    for label, some in by_label.items():
        names = list(dict.fromkeys(name for settings, _ in some for name in settings))
        differing = [name for name in names if len({repr(settings.get(name)) for settings, _ in some}) > 1]
        for settings, curves in some if len(some) > 1 else ():
            words = [f"{name.split('.')[-1]}={settings.get(name)}" for name in differing[:SHOWN]]
            curves.label = f"{label} ({', '.join(words)})"


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, each with its epoch."""
    found = [_parsed(line, path, json.loads) for line in _text(path).splitlines() if line.strip()]
    for number, record in enumerate(found, 1):
        if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
            raise UserError(f"{path}:{number} is no record of an epoch")
    return found


def _folders(path: Path) -> list[tuple[str, Path]]:
    """The run folders that a path means, with the names of their rules."""
    if not path.is_dir():
        raise UserError(f"there is no run folder {path}", "`ruledsl train` and `ruledsl compare` say where theirs are")
    results = path / "results.json"
    if results.is_file():
        try:
            rows = _read(results, json.loads)["rules"]
            runs = [(row["rule"], path / run["folder"]) for row in rows for run in row["runs"]]
        except (KeyError, TypeError):
            raise UserError(f"{results} is not what ruledsl compare writes") from None
        return [(rule, folder) for rule, folder in runs if (folder / "metrics.jsonl").is_file()]
    if (path / "metrics.jsonl").is_file():
        rule = _read(path / "config.toml", tomllib.loads).get("rule", "backprop")
        return [(Path(str(rule)).stem, path)]
    inside = sorted(child for child in path.iterdir() if (child / "metrics.jsonl").is_file())
    if not inside:
        raise UserError(f"{path} holds no metrics.jsonl: no epoch of a run was finished there")
    return [one for child in inside for one in _folders(child)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    return _parsed(_text(path), path, parse)


def _parsed(text: str, path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _pairs(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        return {}
    load = need("safetensors.numpy", "reading weights", "train").load
    broken = need("safetensors", "reading weights", "train").SafetensorError
    try:
        arrays: dict[str, NDArray[Any]] = load(path.read_bytes())
    except (OSError, broken) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if any(value.ndim < 1 or len(value) != 2 for value in arrays.values()):
        raise UserError(f"{path} does not hold W and its effective feedback, layer by layer")
    return arrays


def draw(rows: Sequence[Row], dataset: str) -> bytes:
    """A PNG of a comparison: for each rule a line, the mean over seeds, and a band from the best to the worst seed."""
    curves = [
        Curves(_label(row), [[epoch.record() for epoch in run.epochs] for run in row.runs], dataset) for row in rows
    ]
    return picture(curves)


def picture(runs: Sequence[Curves], what: str = "curves", bands: Bands = "range", format: str = "png") -> bytes:
    """A figure as PNG, SVG or PDF; `what` is one of `WHAT`. Raises UserError where the runs hold nothing of it."""
    need("matplotlib.figure", "plots", "train")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if what not in WHAT:
        raise UserError(f"there is no picture {what!r}", suggest(what, WHAT))
    if format not in FORMATS:
        raise UserError(f"there are no pictures of the kind {format!r}", f"there are {', '.join(FORMATS)}")
    figure = Figure(dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if what == "curves":
        _curves(figure, runs, bands)
    elif what == "scatter":
        _scatter(figure, runs)
    elif what == "gradients":
        _gradients(figure, runs, bands)
    else:
        _layers(figure, runs, PICTURES[what], bands)
    content = BytesIO()
    with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "ruledsl"}):
        figure.savefig(content, format=format)
    return content.getvalue()


def _band(values: Values, bands: Bands) -> tuple[Values, Values, Values]:
    """Mean, lower and upper end over runs [runs, epochs]; NaN where there is no run any more."""
    count = np.isfinite(values).sum(0)
    some = np.where(count, values, 0.0)
    mean = np.where(count, np.nansum(some, 0) / np.maximum(count, 1), np.nan)
    if bands == "range":
        low, high = np.fmin.reduce(values, 0), np.fmax.reduce(values, 0)
        return mean, low, high
    spread = np.sqrt(np.nansum((some - mean) ** 2, 0) / np.maximum(count - 1, 1))
    spread = spread / np.sqrt(np.maximum(count, 1)) if bands == "sem" else spread
    return mean, mean - spread, mean + spread


def _line(axes: Any, x: Any, values: Values, index: int, label: str, bands: Bands, floor: float = -np.inf) -> None:
    style = Style(index).options(values.shape[1])
    mean, low, high = _band(values, bands)
    if len(values) > 1:
        axes.fill_between(x, np.maximum(low, floor), high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, mean, label=label, **style)


def _curves(figure: Any, runs: Sequence[Curves], bands: Bands) -> None:
    """Test errors over epochs."""
    from matplotlib.ticker import LogLocator, PercentFormatter

    columns = -(-len(runs) // IN_A_COLUMN)
    figure.set_size_inches(6 + 2.3 * columns, max(4.8, 0.34 * min(len(runs), IN_A_COLUMN)))
    axes = figure.add_subplot()
    errors = [run.matrix("test_error") for run in runs]
    known = [each[np.isfinite(each)] for each in errors]
    if not any(len(each) for each in known):
        raise UserError("no epoch of these runs was finished: there is nothing to plot")
    lowest = min(float(each.min()) for each in known if len(each))
    for index, (run, values) in enumerate(zip(runs, errors, strict=True)):
        _line(axes, np.arange(values.shape[1]), values, index, run.label, bands, floor=lowest)
    if lowest > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(PercentFormatter(1, decimals=None))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    most = max((len(run.records) for run in runs), default=0)
    over = f"mean of {most} seeds, {BANDS[bands]}" if most > 1 else "one seed"
    axes.set_title(f"{', '.join(dict.fromkeys(run.dataset for run in runs))}: {over}", fontsize=11, loc="left")
    _epochs(axes)
    axes.set_ylabel("test error (% of images)")
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, fontsize=9, ncols=columns, handlelength=3)


def _layers(figure: Any, runs: Sequence[Curves], shown: Picture, bands: Bands) -> None:
    """A panel for each rule, a line for each layer, over epochs."""
    runs = _with(runs, shown.probe)
    layers = list(dict.fromkeys(layer for run in runs for layer in run.layers(shown.probe)))
    for axes, run in zip(_panels(figure, len(runs)), runs, strict=False):
        for layer in run.layers(shown.probe):
            values = run.matrix(f"{shown.probe}/{layer}")
            probed = np.flatnonzero(np.isfinite(values).any(0))
            _line(axes, probed, values[:, probed], layers.index(layer), layer, bands)
        axes.set_title(run.label, fontsize=9, loc="left")
        _epochs(axes)
        if shown.limits:
            axes.set_ylim(shown.limits)
            axes.axhline(90, color="grey", linewidth=0.8, linestyle=":")
        elif shown.log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    figure.supylabel(shown.label, fontsize=10)
    _legend(figure)


def _gradients(figure: Any, runs: Sequence[Curves], bands: Bands) -> None:
    """The gradient ratio over depth, before the training and at the last probe (Moskovitz et al. 2018, Figure 2)."""
    runs = _with(runs, "gradient_ratio")
    layers = list(dict.fromkeys(layer for run in runs for layer in run.layers("gradient_ratio")))
    for axes, title, at in zip(_panels(figure, 2), ("at the first probe", "at the last probe"), (0, -1), strict=False):
        for index, run in enumerate(runs):
            own = [run.matrix(f"gradient_ratio/{layer}") for layer in layers]
            ends = np.stack([[_end(row, at) for row in values] for values in own], axis=1)
            _line(axes, np.arange(len(layers)), ends, index, run.label, bands)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_yscale("log")
        axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right", fontsize=8)
        _plain(axes)
    figure.supylabel("norm of the pseudo-gradient over backprop's", fontsize=10)
    _legend(figure)


def _end(row: Values, at: int) -> float:
    known = row[np.isfinite(row)]
    return float(known[at]) if len(known) else float("nan")


def _scatter(figure: Any, runs: Sequence[Curves]) -> None:
    """W against its effective feedback, a panel for each rule and layer (Kunin et al. 2020, Figure S3)."""
    found = [
        (run.label, layer, pairs[layer])
        for run in runs
        for pairs in [next(filter(None, run.pairs), {})]
        for layer in sorted(pairs, key=[*run.layers("angle"), *sorted(pairs)].index)
    ]
    if not found:
        raise UserError(
            "these runs hold no weights beside their effective feedback",
            "it is measured with --set probe_every=1, of rules that send errors through a map",
        )
    for axes, (label, layer, (weights, feedback)) in zip(_panels(figure, len(found)), found, strict=False):
        axes.scatter(weights, feedback, s=3, alpha=0.35, color=COLOURS[0], linewidths=0, rasterized=True)
        for line in (axes.axhline, axes.axvline):
            line(0, color="grey", linewidth=0.6)
        axes.axline((0, 0), slope=1, color=COLOURS[1], linewidth=1, linestyle="--")
        axes.set_title(f"{label}, {layer}", fontsize=9, loc="left")
        _plain(axes)
    figure.supxlabel("W, or what is downstream; dashed: the same", fontsize=10)
    figure.supylabel("effective feedback", fontsize=10)


def _with(runs: Sequence[Curves], probe: str) -> list[Curves]:
    """Those of the runs that hold a probe."""
    known = [run for run in runs if run.layers(probe)]
    if not known:
        raise UserError(f"these runs hold no probe `{probe}`", "it is measured with --set probe_every=1")
    return known


def _panels(figure: Any, count: int) -> list[Any]:
    columns = min(count, 6 if count > 12 else 4 if count > 3 else 3)
    rows = -(-count // columns)
    scale = 0.7 if count > 6 else 1.0
    figure.set_size_inches(max(5.0, PANEL[0] * scale * columns) + 1.2, PANEL[1] * scale * rows + 0.6)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    return panels[:count]


def _legend(figure: Any) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = -(-len(handles) // (2 * IN_A_COLUMN))
    options = {"frameon": False, "fontsize": 8, "ncols": columns, "handlelength": 3}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", **options)


def _epochs(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=0)
    axes.set_xlabel("epoch")
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _label(row: Row) -> str:
    if row.test_error is None:
        return f"{row.label} ({row.verdict})\ndiverged"
    spread = f" ± {100 * row.spread:.1f}" if row.spread is not None else ""
    return f"{row.label} ({row.verdict})\n{100 * row.test_error:.1f}{spread} %"
