"""How long one waits for commands with JAX: for the first step of `train`, and for all of `compare --seeds 8`.

    python -m benchmarks.starts [--repeats 3]

The first step has been taken when its loss is in Python's hands; the clock starts before the process. All commands have
a cache folder of their own, empty at first: what `train` is for the first time, and for the second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.targets import Measured

SEEDS = 8
USUAL = ("feedback_alignment", "--backend", "jax")
COMMAND = """
import sys
from ruledsl.cli.main import main
sys.exit(main())
"""
TELLING = """
import sys, time
from ruledsl.training import loop

def add(total, score, add=loop.Total.add):
    if not total.images:
        print("FIRST", time.monotonic(), file=sys.stderr)
    add(total, score)

loop.Total.add = add
"""
"""Before the command: whoever adds up the scores of an epoch is told that of the first step first."""


def called(arguments: list[str], cache: Path, before: str = "") -> str:
    """What a command of ruledsl prints to stderr. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-c", before + COMMAND, *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr


def until_first_step(cache: Path, out: Path) -> float:
    """Seconds from the command to its first step: feedback alignment, the LeNet for digits."""
    start = time.monotonic()
    said = called(["train", *USUAL, "--epochs", "1", "--out", str(out)], cache, TELLING)
    first = next(line for line in said.splitlines() if line.startswith("FIRST"))
    return float(first.split()[1]) - start


def starts(repeats: int) -> dict[str, Measured]:
    """The first time and the second time, median over new cache folders."""
    found: list[tuple[float, float]] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder, "cache")
            first, second = (until_first_step(cache, Path(folder, name)) for name in ("first", "second"))
            found.append((first, second))
    firsts, seconds = zip(*found, strict=True)
    return {
        key: Measured(median(times), f"{repeats} times, {min(times):.2f} to {max(times):.2f} s")
        for key, times in (("first", firsts), ("second", seconds))
    }


def compared(repeats: int) -> Measured:
    """`compare --seeds 8` relative to 8 `train`, the least of each."""
    by_compare: list[float] = []
    by_train: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            out = str(Path(folder, "all"))
            called(["compare", *USUAL, "--seeds", str(SEEDS), "--out", out], Path(folder, "one"))
            by_compare.append(time.monotonic() - start)
            start = time.monotonic()
            for seed in range(SEEDS):
                out = str(Path(folder, f"{seed}"))
                called(["train", *USUAL, "--seed", str(seed), "--out", out], Path(folder, "other"))
            by_train.append(time.monotonic() - start)
    ours, theirs = min(by_compare), min(by_train)
    return Measured(ours / theirs, f"{ours:.1f} s to {theirs:.1f} s")


def measure(repeats: int = 3) -> dict[str, Measured]:
    """Seconds, and the ratio."""
    return {**starts(repeats), "compare": compared(max(1, repeats - 1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    for key, found in measure(parser.parse_args().repeats).items():
        print(f"{key:12} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
