"""When phases run: which of them ever do, and which run after which in one step, on the same batch."""

from __future__ import annotations

from itertools import combinations

from ruledsl.ir.equations import Equations
from ruledsl.ir.phases import AFTER_STEP, INIT, TASK


def running(equations: Equations) -> frozenset[str]:
    """The phases that move something; a phase that no schedule names never runs, nor does one for no epochs."""
    schedule = equations.schedule
    named = {name for epochs, names in schedule.first if epochs > 0 for name in names}
    always = {phase for phase in equations.phases if phase.startswith(AFTER_STEP)}
    return frozenset(named | {*schedule.each, *schedule.alternate, TASK, INIT} | always)


def later_in_a_step(equations: Equations) -> frozenset[tuple[str, str]]:
    """Pairs of phases of which the second can read, in the same step and of the same batch, what the first stored.

    The passes of the task come first in a step, wherever the schedule names them. A driven phase has its own batch.
    """
    schedule = equations.schedule
    pairs: set[tuple[str, str]] = set()
    for names in (schedule.each, *(names for epochs, names in schedule.first if epochs > 0)):
        ordered = sorted(names, key=lambda name: name != TASK)
        pairs |= {*combinations(names, 2), *combinations(ordered, 2)}
    return frozenset((p, q) for p, q in pairs if q not in equations.driven and p not in equations.driven)


def most_often(equations: Equations, phase: str) -> int:
    """How many times a step runs a phase, at most."""
    schedule = equations.schedule
    orders = (schedule.each, *(names for epochs, names in schedule.first if epochs > 0))
    return max(1, *(names.count(phase) for names in orders))
