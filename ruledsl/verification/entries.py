"""Entries: whether an optimizer's emitted code moves each entry of a parameter by what is known there alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ruledsl.analysis.typed import Interval
from ruledsl.ir.equations import Equations
from ruledsl.program import Program
from ruledsl.verification.cases import random_values, reference_layer, varied
from ruledsl.verification.executor import Executor, python_names, renamed
from ruledsl.verification.machine import DENSE

SIZES = (0.1, 10.0)
"""How large the other entries are in the second run: some rules ask whether a parameter is long."""


def apart(
    program: Program, equations: Equations, executor: Executor, intervals: Mapping[str, Interval | None], seed: int = 0
) -> Iterator[str]:
    """Every result of which the first entry, or the number, changes where only other entries were changed; in words."""
    values = random_values(equations, reference_layer(DENSE), np.random.default_rng(seed))
    values = varied(values, equations, intervals, np.random.default_rng(seed))
    named = python_names(program, equations)
    found: set[str] = set()
    for phase in dict.fromkeys(e.phase for e in equations.of("assign")):
        before = executor(program, phase, DENSE, renamed(values, named), "float64")
        for size in SIZES:
            other = {name: _elsewhere(value, size, np.random.default_rng(seed + 1)) for name, value in values.items()}
            after = executor(program, phase, DENSE, renamed(other, named), "float64")
            found |= {name for name in before if _first(before[name]) != _first(after[name])}
    for name in sorted(found):
        yield f"{name}: an entry notices the others"


def _elsewhere(value: Any, size: float, rng: np.random.Generator) -> Any:
    """Other entries everywhere but in the first place."""
    if isinstance(value, list) or np.ndim(value) == 0:
        return value
    new = np.asarray(value) + size * rng.normal(size=np.shape(value))
    new[(0,) * np.ndim(value)] = np.asarray(value)[(0,) * np.ndim(value)]
    return new


def _first(value: Any) -> bytes:
    return np.asarray(value, dtype=np.float64).reshape(-1)[:1].tobytes()
