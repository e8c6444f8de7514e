"""`python -m benchmarks [NAME ...]`: measure, print one table, write `benchmarks/results/latest.json`."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.targets import BENCHMARKS, OF_JAX, TARGETS, Measured, Target

ROOT = Path(__file__).parent.parent
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
PACKAGES = ("ruledsl", "torch", "jax", "numpy")
Results = dict[str, dict[str, Measured]]


def main() -> int:
    """1 where a benchmark did not come to an end; a number that falls short is shown, and no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)} (all)")
    parser.add_argument("--alone", action="store_true", help="measure in this process, print JSON and nothing else")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]}; there are: {', '.join(BENCHMARKS)}")
    names = tuple(options.names) or BENCHMARKS
    if options.alone:
        print(json.dumps({name: import_module(f"benchmarks.{name}").measure() for name in names}))
        return 0

    console = Console()
    results: Results = {}
    if find_spec("jax") is None:
        left_out = [name for name in names if name in OF_JAX]
        names = tuple(name for name in names if name not in OF_JAX)
        console.print(f"JAX is not installed; left out: {', '.join(left_out)}" if left_out else "")
    for name in names:
        with console.status(f"measuring: {name}"):
            start = time.perf_counter()
            found = measured_apart(name)
            console.print(f"{name}: {'did not end' if found is None else f'{time.perf_counter() - start:.0f} s'}")
        if found is not None:
            results[name] = found
    rows = [target for target in TARGETS if target.benchmark in names]
    console.print(table(rows, results))
    write(rows, results)
    console.print(f"written to {LATEST.relative_to(ROOT)}")
    return 0 if len(results) == len(names) else 1


def measured_apart(name: str) -> dict[str, Measured] | None:
    """One benchmark in a process of its own, so that none has the threads and caches of another; None if it fails."""
    command = [sys.executable, "-m", "benchmarks", "--alone", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])[name]
    return {key: Measured(*value) for key, value in found.items()}


def verdict(target: Target, results: Results) -> tuple[Measured | None, str]:
    """The number, and `pass`, `short` or `not measured`."""
    found = results.get(target.benchmark, {}).get(target.key)
    if found is None:
        return None, "not measured"
    return found, "pass" if found.value <= target.reach else "short"


def table(rows: list[Target], results: Results) -> Table:
    """What, reach, measured, verdict, and how it came about."""
    made = Table("what", "reach", "measured", "", "note")
    made.columns[1].justify = made.columns[2].justify = "right"
    made.columns[1].no_wrap = made.columns[2].no_wrap = True
    colours = {"pass": "green", "short": "red", "not measured": "yellow"}
    for target in rows:
        found, word = verdict(target, results)
        value = shown(found.value, target.unit) if found else "-"
        note = found.note if found else ""
        coloured = f"[{colours[word]}]{word}[/]"
        made.add_row(target.what, f"<= {shown(target.reach, target.unit)}", value, coloured, escape(note))
    return made


def shown(value: float, unit: str) -> str:
    """Three digits, deviations as powers of ten."""
    number = f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def write(rows: list[Target], results: Results) -> None:
    """Everything in the table, and where it was measured; complete or not at all."""
    entries = []
    for target in rows:
        found, word = verdict(target, results)
        value = found.value if found and math.isfinite(found.value) else None  # JSON has no infinity
        note = found.note if found else ""
        entries.append({**vars(target), "measured": value, "verdict": word, "note": note})
    report = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES if find_spec(name)},
        },
        "numbers": entries,
    }
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    unfinished = LATEST.with_suffix(".tmp")
    unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(LATEST)


if __name__ == "__main__":
    sys.exit(main())
