"""Dynamic non-interference of emitted code: what the ledger says is not read must not matter, bit for bit.

One step of one phase, all activity held fixed, one source replaced. Transmission is held as well: where the emitted
code applies a map forwards, it gets the matrix of the undisturbed run. These places are found in the source
text itself (`tape.py`), so that code which was tampered with is judged as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ruledsl.analysis.typed import Interval
from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.types import OUT, POST, PRE, Type
from ruledsl.locality.flow import Ledger
from ruledsl.locality.schedules import running
from ruledsl.program import Program
from ruledsl.verification.cases import random_values, reference_layer, varied
from ruledsl.verification.executor import Executor, Precision, Results, deviation, python_names, renamed
from ruledsl.verification.geometries import Geometry
from ruledsl.verification.observed import Mode, Observer, value_name
from ruledsl.verification.tape import Tape

SAME_NORM = {"float32": 1e-4, "float64": 1e-9}


class Pair(NamedTuple):
    """A promise of the ledger: in this phase the source reaches the outputs of the sink by `mode` at most."""

    source: str
    phase: str
    mode: Mode
    outputs: tuple[str, ...]


class Trial(NamedTuple):
    """One promise put to the test; `amount` is how far the output moved, `allowed` how far it may."""

    pair: Pair
    output: str
    geometry: str
    amount: float
    allowed: float

    @property
    def within(self) -> bool:
        """Whether the promise was kept."""
        return self.amount <= self.allowed


def promises(equations: Equations, ledger: Ledger, geometry: Geometry, program: Program) -> list[Pair]:
    """Everything that the ledger denies, by source, phase and mode. Sinks beside the source may read it."""
    observer = Observer(equations, ledger, reference_layer(geometry))
    named = python_names(program, equations)
    found: dict[tuple[str, str, Mode], list[str]] = {}
    phases = running(equations)
    for source in (*observer.sources, *observer.signals):
        for equation in (e for e in equations.of("send", "grad", "assign") if e.phase in phases):
            mode = observer.denied(source, equation)
            if mode is not None and not _beside(equations, source, equation):
                found.setdefault((source, equation.phase, mode), []).append(_output(equation, named))
    return [Pair(*key, tuple(outputs)) for key, outputs in found.items()]


def _beside(equations: Equations, source: str, sink: Equation) -> bool:
    source_type, sink_type = (equations.tensors.get(name) for name in (source, sink.target))
    return source_type is not None and sink_type is not None and source_type.type == sink_type.type


def _output(equation: Equation, named: Mapping[str, str]) -> str:
    target = named.get(equation.target, equation.target)
    words = {"send": "send", "grad": f"grad {target} by {equation.optimizer}", "assign": f"next {target}"}
    return words[equation.role]


def trials(
    program: Program,
    equations: Equations,
    pairs: list[Pair],
    executor: Executor,
    geometry: Geometry,
    precision: Precision = "float64",
    seed: int = 0,
    intervals: Mapping[str, Interval | None] = MappingProxyType({}),
) -> list[Trial]:
    """Replace every source in turn, and look at the sinks that should not notice."""
    values = random_values(equations, reference_layer(geometry), np.random.default_rng(seed))
    values = varied(values, equations, intervals, np.random.default_rng(seed))
    named = python_names(program, equations)
    tape = Tape(program)
    found: list[Trial] = []
    undisturbed: dict[str, Results] = {}
    for pair in pairs:
        if pair.phase not in undisturbed:
            tape.record(pair.phase)
            undisturbed[pair.phase] = executor(tape.program, pair.phase, geometry, renamed(values, named), precision)
        name = value_name(pair.source)
        other = {**values, name: pair.mode.other(values[name], np.random.default_rng(seed + 1))}
        tape.replay(pair.phase, held_places(equations, pair))
        after = executor(tape.program, pair.phase, geometry, renamed(other, named), precision)
        for output in pair.outputs:
            before = undisturbed[pair.phase][output]
            same = np.array_equal(before, after[output], equal_nan=True)
            amount = 0.0 if same else deviation(after[output], before) or float(np.finfo(float).tiny)
            found.append(Trial(pair, output, str(geometry), amount, SAME_NORM[precision] if pair.mode.norm else 0.0))
    return found


def held_places(equations: Equations, pair: Pair) -> frozenset[str]:
    """Where a map of the source's type is applied forwards (and backwards, where the promise is about the rest)."""
    declared = equations.tensors.get(pair.source)
    if declared is None:
        return frozenset()
    forwards = {place_of(declared.type)}
    return frozenset(forwards | ({place_of(declared.type.transposed)} if pair.mode.reverse else set()))


def place_of(type: Type) -> str:
    """How the emitted code applies a map of this type."""
    if (type.source, type.target) == (PRE, POST):
        return "apply"
    if (type.source, type.target) == (POST, PRE):
        return "adjoint"
    return "to_out" if type.target == OUT else "from_far"
