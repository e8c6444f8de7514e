"""Trains every rule of the library for about fifty steps, in as many processes as `torchrun` starts.

python -m torch.distributed.run --nproc-per-node=2 tests/training/every_rule.py FOLDER
"""

from __future__ import annotations

import sys
import warnings

import ruledsl
from ruledsl.training import read_config, train

# Images for 25 steps an epoch; smooth, since a maximum or a threshold may part what rounding has made different.
SETTINGS = [
    "epochs=2",
    "data.train_images=400",
    "data.batch_size=16",
    "threads=1",
    "model.name=mlp",
    "model.options={activation='tanh', hidden=[24, 16]}",
    "optimizer={name='sgd', lr=0.01, momentum=0.9}",
]
RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]


def run(folder: str) -> None:
    """One run for each rule, in a folder of its name."""
    for name in RULES:
        first = sum(epochs for epochs, _ in ruledsl.load(name).compile("torch").schedule.first)
        longer = [f"epochs={2 + first}"] if first else []
        train(read_config(settings=[*SETTINGS, *longer, f"rule={name}", f"out={folder}/{name}"]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(sys.argv[1])
