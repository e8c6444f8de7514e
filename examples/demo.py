"""Five rules from text to trained networks: check, compile, train, compare. `make demo` runs this.

Trains a small LeNet on the 8x8 digits that come with scikit-learn, with three seeds for each rule.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

import ruledsl
from ruledsl.cli.check import report
from ruledsl.cli.compare import table
from ruledsl.cli.main import guarded
from ruledsl.experiments import compare
from ruledsl.library import folder
from ruledsl.training import read_config
from ruledsl.training.progress import ProgressBar
from ruledsl.training.run_folder import RunFolder

RULES = ("backprop", "feedback_alignment", "usf_sn", "kolen_pollack", "direct_feedback_alignment")
SETTINGS = (
    "model.name=digits_lenet",
    "data.name=digits",
    "data.batch_size=16",
    "epochs=12",
    "optimizer.name=sgd",
    "optimizer.lr=0.02",
    "optimizer.momentum=0.9",
    "parameters.decay=0.001",
)
SEEDS = (0, 1, 2)


def main() -> int:
    """Print what is found, write everything into a new folder below runs/, and name it."""
    console = Console()
    config = read_config(None, SETTINGS)

    console.rule("1. check: what would every synapse have to know?")
    for name in RULES:
        report(folder() / f"{name}.rule")

    console.rule("2. compile: the same mathematics in PyTorch and JAX")
    place = RunFolder.create(Path("runs") / "demo").path
    compiled = place / "compiled"
    compiled.mkdir()
    for name in RULES:
        for backend in ("torch", "jax"):
            (compiled / f"{name}_{backend}.py").write_text(ruledsl.load(name).compile(backend).source)
    console.print(f"{2 * len(RULES)} modules in {compiled}")

    console.rule("3. train and compare, in PyTorch")
    chosen = config.model_copy(update={"out": place / "training"})
    comparison = compare(chosen, RULES, SEEDS, ProgressBar(console, epoch_lines=False))
    console.print(table(comparison))
    for what, where in (("plot", comparison.plot), ("numbers", comparison.results), ("run folders", comparison.folder)):
        print(f"{what:12} {where}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
