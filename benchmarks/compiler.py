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
CHECK = "import sys; from ruledsl.cli.main import main; status = main(['check', *sys.argv[1:]])"
EXIT = "; sys.exit(status)"
NAME_FRAMEWORKS = f"; print(*sys.modules.keys() & {set(FRAMEWORKS)}, file=sys.stderr)"


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
    loaded = _run(CHECK + NAME_FRAMEWORKS + EXIT, files).strip()
    assert not loaded, f"`ruledsl check` imports {loaded}, or complains"
    times = []
    for _ in range(COLD_REPEATS):
        start = time.perf_counter()
        _run(CHECK + EXIT, files)
        times.append(time.perf_counter() - start)
    return Measured(statistics.median(times), f"{len(files)} files, {min(times):.2f} to {max(times):.2f} s")


def _run(code: str, arguments: list[str]) -> str:
    """What a new process prints to stderr. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stderr
