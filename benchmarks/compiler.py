"""How long one waits for the compiler: for a rule in a process that runs, and for `ruledsl check` in a new one."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import ruledsl
from benchmarks.rules import emitted
from benchmarks.targets import Measured
from ruledsl import library

REPEATS, COLD_REPEATS = 9, 7
FRAMEWORKS = ("torch", "jax")
CHECK = "import sys; from ruledsl.cli.main import main; sys.exit(main(['check', *sys.argv[1:]]))"


def measure() -> dict[str, Measured]:
    """Milliseconds to compile a rule, seconds to check the whole library."""
    return {"compile": compile_times(), "check": cold_check()}


def compile_times() -> Measured:
    """The median over the library's rules of the median over repeats, from the file to the source text."""
    medians: dict[str, float] = {}
    for name in emitted("torch"):  # which also loads everything that is loaded once
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            ruledsl.load(name).compile("torch")
            times.append(1000 * (time.perf_counter() - start))
        medians[name] = statistics.median(times)
    slowest = max(medians, key=medians.__getitem__)
    note = f"{len(medians)} rules, slowest {slowest} {medians[slowest]:.1f} ms"
    return Measured(statistics.median(medians.values()), note)


def cold_check() -> Measured:
    """The median over processes. Raises AssertionError if one of them imports a framework."""
    files = sorted(str(path) for path in library.folder().glob("*.rule"))
    imports = _check(["-X", "importtime"], files).stderr
    loaded = {line.rpartition("|")[2].strip() for line in imports.splitlines() if line.startswith("import time:")}
    assert "ruledsl.cli.check" in loaded, "the import log is not what it was"
    assert not loaded.intersection(FRAMEWORKS), "`ruledsl check` imports a framework"
    times = []
    for _ in range(COLD_REPEATS):
        start = time.perf_counter()
        _check([], files)
        times.append(time.perf_counter() - start)
    return Measured(statistics.median(times), f"{len(files)} files, {min(times):.2f} to {max(times):.2f} s")


def _check(options: list[str], files: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", CHECK, *files]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
