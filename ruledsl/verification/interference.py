"""Dynamic non-interference of emitted code: what the ledger says is not read must not matter, bit for bit.

One step of one phase, all activity held fixed, one source replaced. Transmission is held as well: where the emitted
code applies a map forwards, `hold` gives it the matrix of the undisturbed run. These places are found in the source
text itself, so that code which was tampered with is judged as it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.types import OUT, POST, PRE, Type
from ruledsl.locality.flow import Ledger
from ruledsl.program import INIT, Program
from ruledsl.verification.cases import random_values, reference_layer
from ruledsl.verification.executor import Executor, Precision, Results, deviation, python_names, renamed
from ruledsl.verification.geometries import Geometry
from ruledsl.verification.observed import Mode, Observer

HOLD = "_hold"
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
    for source in (*observer.sources, *observer.signals):
        for equation in equations.of("send", "grad", "assign"):
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
) -> list[Trial]:
    """Replace every source in turn, and look at the sinks that should not notice."""
    values = random_values(equations, reference_layer(geometry), np.random.default_rng(seed))
    named = python_names(program, equations)
    tape = Tape(program)
    found: list[Trial] = []
    undisturbed: dict[str, Results] = {}
    for pair in pairs:
        if pair.phase not in undisturbed:
            tape.record(pair.phase)
            undisturbed[pair.phase] = executor(tape.program, pair.phase, geometry, renamed(values, named), precision)
        name = "delta_k" if pair.source == "delta[k]" else pair.source
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


class Tape:
    """The matrices that a program applies, in order: recorded in one run, given back in others."""

    def __init__(self, program: Program) -> None:
        self.recorded: dict[str, list[Any]] = {}
        self.phase = INIT
        self.position: int | None = None
        self.places: frozenset[str] = frozenset()
        self.program = replace(program)
        self.program.__dict__["module"] = self._module(program)

    def record(self, phase: str) -> None:
        """The next run is the undisturbed one."""
        self.phase, self.position = phase, None
        self.recorded[phase] = []

    def replay(self, phase: str, places: frozenset[str]) -> None:
        """The next run gets the matrices of the undisturbed one at these places."""
        self.phase, self.position, self.places = phase, 0, places

    def hold(self, place: str, matrix: Any) -> Any:
        """What the emitted code applies instead of `matrix`."""
        if self.position is None:
            self.recorded[self.phase].append(matrix)
            return matrix
        before = self.recorded[self.phase][self.position]
        self.position += 1
        return before if place in self.places else matrix

    def _module(self, program: Program) -> ModuleType:
        module = ModuleType(f"held_{program.rule}")
        module.__dict__[HOLD] = self.hold
        tree = ast.fix_missing_locations(_Holding().visit(ast.parse(program.source)))
        exec(compile(tree, f"<held {program.backend} {program.rule}>", "exec"), module.__dict__)
        return module


class _Holding(ast.NodeTransformer):
    """Puts `hold` around every matrix that is applied to an activity: by the layer, by `tensordot`, or by `@`."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("apply", "adjoint") and len(node.args) >= 2:
            node.args[0] = _held(name, node.args[0])
        elif name == "tensordot" and not any(isinstance(k.value, ast.Tuple) for k in node.keywords):
            node.args[1] = _held("from_far", node.args[1])  # a pair of axes would make it an outer product
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.MatMult):
            node.right = _held("to_out", node.right)
        return node


def _held(place: str, matrix: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(HOLD, ast.Load()), [ast.Constant(place), matrix], [])
