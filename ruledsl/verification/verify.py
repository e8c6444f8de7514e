"""What `ruledsl verify` tries: the compiled code against what the rule means and what its ledger promises."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ruledsl.analysis.typed import Interval
from ruledsl.emit.backend import backend as find
from ruledsl.emit.emitter import emit
from ruledsl.errors import UserError
from ruledsl.program import INIT, Program
from ruledsl.rule import Rule
from ruledsl.verification.cases import random_values, reference_layer
from ruledsl.verification.entries import apart
from ruledsl.verification.executor import Executor, Precision, compare, python_names, renamed
from ruledsl.verification.geometries import GEOMETRIES, SEQUENCES, Geometry
from ruledsl.verification.interference import Pair, held_places, promises, trials
from ruledsl.verification.machine import findings
from ruledsl.verification.observed import Mode, Observer, value_name
from ruledsl.verification.tape import Tape

PRECISIONS: tuple[Precision, ...] = ("float32", "float64")
FEW: tuple[Geometry, ...] = tuple(g for g in GEOMETRIES if g.name in ("dense", "conv3x3", "everything"))
SOME: tuple[Geometry, ...] = tuple(
    g
    for g in (*GEOMETRIES, *SEQUENCES)
    if g.name in ("dense", "dense_single_output", "everything", "conv1d_everything", "transposed_stride", "sequence")
)
"""Layers of every kind, with all that a layer can have; the tests take all of `GEOMETRIES`."""
DRAWS = 2  # of values, for every promise on every layer of `FEW`
Dependent = Callable[[Program, str, Geometry, Mapping[str, Any], Precision, str], set[str]]


@dataclass
class Row:
    """One line of the table: what was tried how often, the largest deviation, and what failed, in words."""

    backend: str
    check: str
    tried: int = 0
    largest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def saw(self, amount: float, allowed: float, words: str) -> None:
        """One more trial."""
        self.tried += 1
        self.largest = max(self.largest, amount)
        if not amount <= allowed or math.isinf(amount):
            self.failures.append(f"{words}: differs by {amount:.2g}")


def verify(rule: Rule, backend: str) -> Iterator[Row]:
    """The rows of one backend, one after the other. Raises RuleError, or UserError where the backend is not there."""
    executor, dependent = executor_of(backend)
    getattr(importlib.import_module(find(backend).executor), "prepare", lambda: None)()
    program = rule.compile(backend)
    yield from verify_program(rule, program, executor, dependent)


def verify_program(rule: Rule, program: Program, executor: Executor, dependent: Dependent | None) -> Iterator[Row]:
    """The rows of a program of the rule, which may have been changed since it was compiled."""
    yield from _equality(rule, program, executor)
    pairs = _promised(rule, program)
    yield from _of_emitted_code(rule, program, executor, pairs)
    if dependent is not None:
        yield _independence(
            rule, program, executor, dependent, [pair for pair in pairs if pair.mode in (Mode(), _REVERSE)]
        )
    yield _determinism(rule, program, executor)


def nothing_more_than_listed(rule: Rule, program: Program, executor: Executor) -> Iterator[Row]:
    """The rows about the ledger alone: what it denies, in the compiled code and over several steps of the reference."""
    yield several_steps(rule)
    yield from _of_emitted_code(rule, program, executor, _promised(rule, program))


def _promised(rule: Rule, program: Program) -> list[Pair]:
    return promises(rule.equations, rule.ledger, FEW[0], program) if rule.kind != "optimizer" else []


def _of_emitted_code(rule: Rule, program: Program, executor: Executor, pairs: Sequence[Pair]) -> Iterator[Row]:
    yield from _interference(rule, program, executor, pairs)
    yield from _of_optimizers(rule, program, executor)
    if rule.kind == "rule":
        found = findings(program, rule.equations, rule.ledger, executor, intervals_of(rule))
        for words, (tried, all_of) in found.items():
            yield Row(program.backend, words, tried, failures=[str(finding) for finding in all_of])


def _of_optimizers(rule: Rule, program: Program, executor: Executor) -> Iterator[Row]:
    """Each entry of a parameter moves by itself: in the optimizers that a rule names, and in an optimizer itself."""
    for mover in [rule] if rule.kind == "optimizer" else rule.movers.values():
        allowed = [entry for entry in rule.ledger if entry.phase == f"optimizer {mover.name}" or mover is rule]
        row = Row(program.backend, f"optimizer {mover.name} moves each entry by itself")
        emitted = program if mover is rule else emit(mover, program.backend)
        if not allowed:
            for seed in range(DRAWS):
                row.tried += 1
                row.failures += apart(emitted, mover.equations, executor, intervals_of(mover), seed)
        yield row


def several_steps(rule: Rule) -> Row:
    """The ledger itself, on the reference: no flow that it denies within three steps of all phases."""
    row = Row("reference", "no flow within 3 steps that the ledger denies")
    for seed in range(DRAWS):
        for geometry in FEW:
            observer = Observer(rule.equations, rule.ledger, reference_layer(geometry), seed)
            row.tried += sum(
                observer.denied(source, sink) is not None
                for source in (*observer.sources, *observer.signals)
                for sink in observer.sinks()
            )
            row.failures += [f"{violation} ({geometry})" for violation in observer.violations()]
    return row


_REVERSE = Mode(reverse=True)


def _equality(rule: Rule, program: Program, executor: Executor) -> Iterator[Row]:
    for precision in PRECISIONS:
        row = Row(program.backend, f"equals the reference in {precision}")
        for number, geometry in enumerate(SOME if precision == "float64" else FEW):
            for d in compare(program, rule.lowered, executor, geometry, precision, number, intervals_of(rule)):
                row.saw(d.amount, d.allowed, f"{d.output} in {d.phase} ({d.geometry})")
        yield row


def _interference(rule: Rule, program: Program, executor: Executor, pairs: Sequence[Pair]) -> Iterator[Row]:
    kinds: dict[str, Callable[[Mode], bool]] = {
        "what the ledger denies changes no bit": lambda mode: mode in (Mode(), _REVERSE),
        "of a map only its signs matter": lambda mode: mode.signs and not mode.norm,
        "of a map only its norm (and signs) matters": lambda mode: mode.norm,
    }
    for check, chosen in kinds.items():
        row = Row(program.backend, check)
        mine = [pair for pair in pairs if chosen(pair.mode)]
        precision: Precision = "float64"
        if check == "of a map only its signs matter":  # in float32, from the smallest sizes to the largest
            precision = "float32"
            mine = [pair._replace(mode=replace(pair.mode, decades=30.0)) for pair in mine]
        for geometry in FEW if mine else ():
            for seed in range(DRAWS):
                settings = (geometry, precision, seed, intervals_of(rule))
                for trial in trials(program, rule.equations, mine, executor, *settings):
                    words = f"{trial.pair.source} -> {trial.output} in {trial.pair.phase} ({trial.geometry})"
                    row.saw(trial.amount, trial.allowed, words)
        yield row


def intervals_of(rule: Rule) -> dict[str, Interval | None]:
    """Where the parameters of a rule may lie."""
    typed = rule.checked.typed
    return {} if typed is None else {name: parameter.interval for name, parameter in typed.parameters.items()}


def _independence(rule: Rule, program: Program, executor: Executor, dependent: Dependent, pairs: Sequence[Pair]) -> Row:
    row = Row(program.backend, "what the ledger denies is not in the jaxpr")
    named = python_names(program, rule.equations)
    for geometry in FEW:
        values = random_values(rule.equations, reference_layer(geometry), np.random.default_rng(0))
        tape = Tape(program)
        for pair in pairs:
            tape.record(pair.phase)
            called = renamed(values, named)
            executor(tape.program, pair.phase, geometry, called, "float64")
            name = value_name(named.get(pair.source, pair.source))
            tape.replay(pair.phase, held_places(rule.equations, pair))
            found = dependent(tape.program, pair.phase, geometry, called, "float64", name)
            for output in pair.outputs:
                row.tried += 1
                if output in found:
                    row.failures.append(f"{pair.source} -> {output} in {pair.phase} ({geometry}): read by the jaxpr")
    return row


def _determinism(rule: Rule, program: Program, executor: Executor) -> Row:
    row = Row(program.backend, "the same twice: source text and results")
    again = rule.compile(program.backend).source == rule.compile(program.backend).source
    row.saw(0.0 if again else float("inf"), 0.0, "the emitted source")
    for geometry in FEW:
        values = random_values(rule.equations, reference_layer(geometry), np.random.default_rng(1))
        values = renamed(values, python_names(program, rule.equations))
        for phase in dict.fromkeys(f.phase for f in program.functions if f.phase != INIT):
            first, second = (executor(program, phase, geometry, values, "float32") for _ in range(2))
            for output, value in first.items():
                same = np.array_equal(value, second[output], equal_nan=True)
                row.saw(0.0 if same else float("inf"), 0.0, f"{output} in {phase} ({geometry})")
    return row


def executor_of(name: str) -> tuple[Executor, Dependent | None]:
    """The executor of a backend. Raises UserError where it can't be had."""
    try:
        module = importlib.import_module(find(name).executor)
    except ImportError as error:
        raise UserError(f"the backend {name} cannot be run here: {error}") from None
    return module.executor, getattr(module, "dependent", None)
