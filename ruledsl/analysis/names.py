"""The names that the language itself gives a meaning: signals, counters, functions, distributions, axes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ruledsl.ir.operations import FUNCTIONS
from ruledsl.ir.types import AXES as AXES
from ruledsl.ir.types import OUT, POST, PRE, Type, activity, map_between, per_unit

SIGNALS: dict[str, Type] = {
    "x": activity(PRE),
    "u": activity(POST),
    "y": activity(POST),
    "delta": activity(POST),
    "e": activity(OUT),
    "target": activity(OUT),
}
"""Activities of the network (DESIGN, section 3.2)."""

FORWARD: dict[str, Type] = {"W": map_between(PRE, POST), "b": per_unit(POST)}
"""What every weight layer has."""

COUNTERS: dict[str, str] = {
    "step": "training steps so far",
    "epoch": "epochs so far",
    "progress": "from 0 to 1 over the training",
    "lr": "the learning rate of the task optimizer at this step",
}
SIZES: dict[str, str] = {
    "fan_in": "synapses onto one neuron of the layer",
    "fan_out": "synapses from one neuron that feeds the layer",
    "batch_size": "examples in the batch",
    "classes": "units of the network's output",
}

DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "normal": ("mean", "std"),
    "uniform": ("low", "high"),
    "signs": ("p",),
    "xavier": (),
    "kaiming": (),
    "orthogonal": (),
    "zeros": (),
    "ones": (),
}
"""Distributions and the names of their arguments, in order."""

SPACES = ("pre", "post", "out")
INTERNAL = ("sources", "targets", "dphi", "delta_k")
"""Names that equations use beside those of the language: a rule that took one would change what they mean."""
PHASE_NAMES = ("task",)
RESERVED = frozenset(
    (
        *(*SIGNALS, *FORWARD, *COUNTERS, *SIZES, *FUNCTIONS, *DISTRIBUTIONS, *SPACES, *AXES, *INTERNAL),
        *("all", "scalar", "send", "inf"),
    )
)
"""Names that no declaration may take."""

VISIBLE: dict[str, frozenset[str]] = {
    "rule": frozenset((*SIGNALS, *FORWARD, *COUNTERS, *SIZES)),
    "constraint": frozenset((*FORWARD, *COUNTERS, "fan_in", "fan_out")),
    "optimizer": frozenset(("p", "g", *COUNTERS)),
}
"""What each kind of definition sees (DESIGN, section 3.1)."""


MOST_CANDIDATES = 500
LONGEST_NAME = 60  # comparing longer ones takes long, and they are not slips of one who types


def meaning(name: str) -> str:
    """What a reserved name is, in words."""
    if name in SIGNALS or name in FORWARD:
        return "a signal of the layer" if name in SIGNALS else "a parameter of the layer"
    if name in COUNTERS or name in SIZES:
        return "a number that every layer knows"
    if name in DISTRIBUTIONS:
        return "a distribution"
    if name in FUNCTIONS:
        return "a function"
    return "a word of the language"


def suggestion(name: str, candidates: Iterable[str]) -> str | None:
    """A help line for a misspelt name, or None when nothing is close."""
    if len(name) > LONGEST_NAME:
        return None
    names = set(candidates)
    if len(names) > MOST_CANDIDATES:
        return None
    pool = sorted(names)
    by_case = [c for c in pool if c.lower() == name.lower()]
    close = by_case or difflib.get_close_matches(name, pool, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None
