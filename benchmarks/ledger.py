"""How much the ledgers of random rules claim that no run shows."""

from __future__ import annotations

from collections import Counter

from benchmarks.targets import Measured
from generators.many import findings

RULES = 100


def measure() -> dict[str, Measured]:
    """The share of entries (pools apart) that are neither seen nor explained."""
    found = sum((findings(seed) for seed in range(RULES)), Counter[str]())
    shares = ", ".join(f"{100 * count / found.total():.1f} % {finding}" for finding, count in found.most_common())
    return {"unseen": Measured(found["unseen"] / found.total(), f"{found.total()} entries: {shares}")}
