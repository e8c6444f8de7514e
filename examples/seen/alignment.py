"""How far does feedback learn to follow the forward weights? (Akrout et al. 2019, Figure 4; Kunin et al., Figure S4)

Trains an MLP with one hidden layer and a LeNet with BatchNorm on MNIST, both under the same settings, and draws the
angle between B and W.T in every layer that passes an error on, epoch by epoch. Needs MNIST in $RULEDSL_DATA.

    python alignment.py                                             # both networks, about 12 minutes on one core
    python alignment.py liao_mnist optimizer.lr=0.001 epochs=6      # another network, other settings
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ruledsl.experiments import Row, compare
from ruledsl.experiments.plot import COLOURS, MARKERS
from ruledsl.training import read_config

RULES = ("feedback_alignment", "kolen_pollack", "weight_mirror", "symmetric_alignment", "activation_alignment")
BELOW = {"kolen_pollack": 20, "weight_mirror": 20, "symmetric_alignment": 10}
"""The degrees below which a rule brings every layer, and keeps it."""
MODELS = ("mlp", "liao_mnist_bn")
SETTINGS = (
    "data.name=mnist",
    "data.train_images=20000",
    "data.batch_size=64",
    "epochs=10",
    "threads=1",
    "optimizer.name=sgd",
    "optimizer.lr=0.01",
    "optimizer.momentum=0.9",
    # The random B of the last layer is some ten times as long as W, and so are the steps of all layers below it until
    # B has changed (Kunin et al. warm up for five epochs, and have BatchNorm).
    "schedule.warmup=1",
    # Kolen-Pollack forgets the start at the rate lr * decay: at the paper's 1e-4 that takes its 90 epochs of ImageNet.
    "parameters.decay=0.03",
    # The paper averages about 4,000 noise examples (batches of 2048, decay 0.5); this is an average of 64 / 0.005 =
    # 12,800. The ratio to the rate sets the size of B: at 2, with half of the ReLUs open, B nears W.T.
    "parameters.decay_B=0.005",
    "parameters.eta_B=0.01",
    # Adam moves a weight by about its rate per step, and those of the last layer's B have to come down from 0.3: the
    # paper's 0.001 takes an epoch for that, while the task goes on.
    "optimizers.align.lr=0.003",
)


def angles(row: Row) -> dict[str, list[float]]:
    """Layer -> degrees between B and W.T, before the training and after each epoch."""
    epochs = row.runs[0].epochs
    names = [name for name in epochs[0].probes if name.startswith("angle/")]
    return {name.removeprefix("angle/"): [epoch.probes[name] for epoch in epochs] for name in names}


def stays_below(degrees: list[float], bound: float) -> int | None:
    """The first epoch from which on the angle is below the bound to the end; None if it is not at the end."""
    above = [epoch for epoch, angle in enumerate(degrees) if not angle < bound]
    first = above[-1] + 1 if above else 0
    return first if first < len(degrees) else None


def report(row: Row) -> str:
    """Angles at the end, test error, and how the promised bound was met."""
    last = ", ".join(f"{layer} {degrees[-1]:5.1f}" for layer, degrees in angles(row).items())
    error = "diverged" if row.test_error is None else f"{100 * row.test_error:.1f} %"
    line = f"  {row.label:22} {last}   {error}"
    if row.label not in BELOW:
        return line
    bound = BELOW[row.label]
    since = [stays_below(degrees, bound) for degrees in angles(row).values()]
    reached = [epoch for epoch in since if epoch is not None]
    met = f"below {bound} from epoch {max(reached)} on" if len(reached) == len(since) else f"not below {bound}"
    return f"{line}   {met}"


def picture(model: str, rows: list[Row], path: Path) -> None:
    """One panel for each rule, one line for each layer; a dotted line where the rule promises to come below it."""
    figure = Figure(figsize=(2.6 * len(rows), 4.4), layout="constrained")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, row in zip(panels, rows, strict=True):
        for (layer, degrees), colour, marker in zip(angles(row).items(), COLOURS, MARKERS, strict=False):
            axes.plot(degrees, color=colour, marker=marker, markersize=4, label=f"{layer}: {degrees[-1]:.0f}")
        if row.label in BELOW:
            axes.axhline(BELOW[row.label], color="grey", linewidth=1, linestyle=":")
        axes.set_title(row.label, fontsize="medium")
        axes.set(xlabel="epoch", ylim=(0, 105))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        legend = axes.legend(title="degrees at the end", fontsize="small", frameon=False)
        legend.set_loc("upper center")  # below the panel, for the lines may be anywhere in it
        legend.set_bbox_to_anchor((0.5, -0.16), axes.transAxes)
    panels[0].set_ylabel("angle between B and W.T (degrees)")
    figure.suptitle(f"{model} on MNIST; epoch 0 is before the training")
    figure.savefig(path, dpi=130)


def main(models: list[str], settings: list[str]) -> None:
    """Train, print the angles of the last epoch, and draw all of them."""
    for model in models:
        config = read_config(None, (*SETTINGS, f"model.name={model}", *settings))
        config = config.model_copy(update={"out": config.out or Path("runs") / "seen" / model})
        comparison = compare(config, RULES, seeds=(0,))
        print(f"\n{model}: degrees between B and W.T after {config.epochs} epochs, and test error")
        for row in comparison.rows:
            print(report(row))
        path = comparison.folder / "angles.png"
        picture(model, comparison.rows, path)
        print(f"  plot: {path}", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    changes = [argument for argument in arguments if "=" in argument]
    main([argument for argument in arguments if argument not in changes] or list(MODELS), changes)
