"""How far does feedback learn to follow the forward weights? (Akrout et al. 2019, Figure 4; Kunin et al., Figure S4)

Trains an MLP with one hidden layer and a LeNet on MNIST, and draws the angle between B and W.T in every layer that
passes an error on, epoch by epoch. Needs MNIST in $RULEDSL_DATA; takes about ten minutes on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from ruledsl.experiments import Row, compare
from ruledsl.experiments.plot import COLOURS, MARKERS
from ruledsl.training import read_config

RULES = ("feedback_alignment", "kolen_pollack", "weight_mirror", "symmetric_alignment", "activation_alignment")
SETTINGS = (
    "data.name=mnist",
    "data.train_images=20000",
    "data.batch_size=64",
    "optimizer.name=sgd",
    "optimizer.momentum=0.9",
    # While B is still random, large steps can blow up a network whose feedback is about to change (Kunin et al. warm up
    # for five epochs).
    "schedule.warmup=1",
    # The paper averages about 4,000 noise examples (batches of 2048, decay 0.5); with batches of 64 that is a decay of
    # 1/64, here half of it. Its ratio to the rate sets the size of B: at 2, with half of the ReLUs open, B nears W.T.
    "parameters.decay_B=0.0078",
    "parameters.eta_B=0.0156",
)
MODELS = {
    # Kolen-Pollack forgets the start at the rate lr * decay: at the paper's 1e-4 that takes its 90 epochs of ImageNet.
    "mlp": ("epochs=10", "optimizer.lr=0.02", "parameters.decay=0.01"),
    "liao_mnist": ("epochs=8", "optimizer.lr=0.005", "parameters.decay=0.03"),
}


def angles(row: Row) -> dict[str, list[float]]:
    """Layer -> degrees between B and W.T, before the training and after each epoch."""
    epochs = row.runs[0].epochs
    names = [name for name in epochs[0].probes if name.startswith("angle/")]
    return {name.removeprefix("angle/").removesuffix(".B"): [epoch.probes[name] for epoch in epochs] for name in names}


def picture(model: str, rows: list[Row], path: Path) -> None:
    """One panel for each rule, one line for each layer."""
    figure = Figure(figsize=(3 * len(rows), 3.4), layout="constrained")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, row in zip(panels, rows, strict=True):
        for (layer, degrees), colour, marker in zip(angles(row).items(), COLOURS, MARKERS, strict=False):
            axes.plot(degrees, color=colour, marker=marker, label=f"{layer}: {degrees[-1]:.0f}")
        axes.axhline(20, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=row.label, xlabel="epoch", ylim=(0, 100))
        axes.legend(frameon=False, title="at the end", fontsize="small")
    panels[0].set_ylabel("angle between B and W.T (degrees)")
    figure.suptitle(f"{model} on MNIST")
    figure.savefig(path, dpi=130)


def main(models: list[str]) -> None:
    """Train, print the angles of the last epoch, and draw all of them."""
    for model in models:
        config = read_config(None, (*SETTINGS, f"model.name={model}", *MODELS[model]))
        config = config.model_copy(update={"out": Path("runs") / "seen" / model})
        comparison = compare(config, RULES, seeds=(0,))
        print(f"\n{model}: degrees between B and W.T after {config.epochs} epochs, and test error")
        for row in comparison.rows:
            last = ", ".join(f"{layer} {degrees[-1]:5.1f}" for layer, degrees in angles(row).items())
            error = "diverged" if row.test_error is None else f"{100 * row.test_error:.1f} %"
            print(f"  {row.label:22} {last}   {error}")
        path = comparison.folder / "angles.png"
        picture(model, comparison.rows, path)
        print(f"  plot: {path}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
