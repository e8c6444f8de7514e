"""Compare four rules on equal terms: the same network, the same images, the same seeds."""

from __future__ import annotations

from rich.console import Console

from ruledsl.cli.compare import table
from ruledsl.experiments import compare
from ruledsl.training import read_config

RULES = ("backprop", "feedback_alignment", "usf_init", "frsf")

if __name__ == "__main__":
    config = read_config(None, ("data.name=digits", "model.name=mlp", "epochs=5", "optimizer.lr=0.003"))
    comparison = compare(config, RULES, seeds=(0, 1))
    Console().print(table(comparison))
    print(f"plot: {comparison.plot}")
