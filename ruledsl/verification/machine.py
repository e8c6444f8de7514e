"""What the machine of DESIGN, section 4.1, can't do, looked for in compiled code: nothing is held but what it holds.

- *Other examples.* Every example of the batch but the first is replaced. What is gathered for the first one, and what
  is sent for it, must stay what it was, bit for bit, in later phases of the step too; unless a sink may `pool(batch)`.
- *Other positions.* The same for all positions but one, where no kernel mixes them; what neurons remember goes on to
  the next step.
- *Other neurons.* All units but the first of every space are replaced, with all synapses but those between first units
  (wiring is given), and every signal arrives as it did. What belongs to the first units must stay, unless there is a
  pool or a statistic.
- *Messages.* The signals and efficacies that go through each bundle of synapses are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ruledsl.analysis.typed import Interval
from ruledsl.emit.functions import Function
from ruledsl.ir.equations import Equations
from ruledsl.ir.phases import AFTER_STEP
from ruledsl.ir.types import POST, PRE, Type
from ruledsl.locality.flow import Ledger
from ruledsl.locality.labels import MULTIPLEX
from ruledsl.locality.schedules import running
from ruledsl.locality.tensors import wiring
from ruledsl.program import INIT, TASK, Program
from ruledsl.verification.cases import BATCH, random_values, reference_layer, varied
from ruledsl.verification.executor import Executor, python_names, renamed
from ruledsl.verification.geometries import ConvGeometry, DenseGeometry, Geometry
from ruledsl.verification.tape import Tape, Use

SIGNALS = ("x", "u", "delta", "e", "target", "delta_k")
RATE = 0.05
ALONE = ConvGeometry("positions_alone", 3, 2, (1, 1), (5, 4))
DENSE = DenseGeometry("dense", 7, 5)
MESSAGES = 16  # examples, among which the values of a neuron repeat themselves

Values = dict[str, Any]
Change = Callable[[str, Any], Any]


@dataclass
class Finding:
    """Something that a sink gets and the ledger doesn't list."""

    channel: str
    sink: str
    phase: str
    detail: str

    def __str__(self) -> str:
        return f"{self.channel} -> {self.sink} in {self.phase}: {self.detail}"


class Machine:
    """The emitted code of one rule on small layers, held against its ledger."""

    def __init__(
        self,
        program: Program,
        equations: Equations,
        ledger: Ledger,
        executor: Executor,
        intervals: Mapping[str, Interval | None] = MappingProxyType({}),
        seed: int = 0,
    ) -> None:
        self.program, self.equations, self.executor, self.seed = program, equations, executor, seed
        self.intervals = intervals
        self.names = python_names(program, equations)
        self.plain = {python: name for name, python in self.names.items()}
        self.claims: dict[tuple[str, str], dict[str, int]] = {}
        for entry in ledger:
            channel = entry.flow if entry.channel == MULTIPLEX else entry.channel
            found = self.claims.setdefault((entry.sink, entry.phase), {})
            found[channel] = max(found.get(channel, 0), entry.count)
        self.tape = Tape(program)
        self.tried = 0

    # --- other examples ---

    def examples(self, geometry: Geometry = DENSE) -> Iterator[Finding]:
        """What gets to the first example from others of its batch."""
        for phases in self._steps():
            base = self._values(geometry)

            def others(name: str, value: Any) -> Any:
                return _from(value, 1, self._rng(name, "others"))

            other = self._changed(base, others)
            for phase in phases:
                inside, outside = self._batch(phase, base, other, others)
                first, uses = self._run(phase, geometry, inside, "record")
                second, again = self._run(phase, geometry, outside, "watch")
                for function in self._sinks(phase, "pool(batch)"):
                    if not self._same(function, uses, again, first, second, _first_example):
                        yield self._finding("pool(batch)", function, "the first example notices the others")
                base, other = self._after(base, first), self._after(other, second)

    # --- other positions ---

    def positions(self) -> Iterator[Finding]:
        """What gets to one position from others, in one step and the next."""
        for phases in self._steps():
            base = self._values(ALONE)

            def elsewhere(name: str, value: Any) -> Any:
                return _elsewhere(value, self._rng(name, "elsewhere"))

            other = self._changed(base, elsewhere)
            for step in range(2):
                if step:  # the same activity again, after other positions were different
                    signals = {name: self._values(ALONE, step)[name] for name in SIGNALS}
                    base, other = {**base, **signals}, {**other, **signals}
                for phase in phases:
                    inside, outside = self._batch(phase, base, other, None if step else elsewhere, memory=True)
                    first, uses = self._run(phase, ALONE, inside, "record")
                    second, again = self._run(phase, ALONE, outside, "still", frozenset(("from_far", "to_out")))
                    for function in self._sinks(phase, "pool(positions)", "pool(batch)"):
                        if not self._same(function, uses, again, first, second, _first_position):
                            yield self._finding("pool(positions)", function, "one position notices the others")
                    base = self._after(base, first)
                    other = self._remembered(other, base, second)

    # --- other neurons ---

    def neurons(self) -> Iterator[Finding]:
        """What the first neurons, and the synapses between them, get from the rest of their layer."""
        channels = ("pool(units)", "norm", "stat", "modulate")
        given = wiring(self.equations)
        for phase in self._phases():
            base = self._values(DENSE)
            base = self._batch(phase, base, base, None)[0]
            other = dict(base)
            for name, value in base.items():
                if name in SIGNALS and not isinstance(value, list):
                    other[name] = _from(value, 1, self._rng(name, "units"), axis=1)
                elif (
                    name in self.equations.tensors
                    and name not in given
                    and not isinstance(value, list)
                    and np.ndim(value)
                ):
                    kept = np.array(value)
                    new = (0.05, 2.0)[self.seed % 2] * self._rng(name, "units").normal(size=np.shape(value))
                    new[(0,) * np.ndim(value)] = kept[(0,) * np.ndim(value)]
                    other[name] = new
            first, uses = self._run(phase, DENSE, base, "record")
            second, again = self._run(phase, DENSE, other, "still")
            for function in self._sinks(phase, *channels):
                before, after = (results.get(_output(function)) for results in (first, second))
                if before is None:
                    continue
                at = (slice(None), 0) if function.role == "send" else (0,) * np.ndim(before)
                same = np.array_equal(np.asarray(before)[at], np.asarray(after)[at], equal_nan=True)
                if not same or not self._same(function, uses, again, {}, {}, _first_unit):
                    yield self._finding("pool(units) or a statistic", function, "the first neuron notices the others")

    # --- messages ---

    def messages(self) -> Iterator[Finding]:
        """Signals and efficacies beyond the first of each bundle."""
        for phase in self._phases():
            values = self._values(DENSE)
            for name in SIGNALS:
                values[name] = _two_valued(values[name], self._rng(name, "messages"))
            values["batch_size"] = float(MESSAGES)
            values = self._batch(phase, values, values, None)[0]
            _, uses = self._run(phase, DENSE, values, "record")
            counts = _Counts(self.equations, values)
            ordered = sorted(self._functions(phase), key=lambda f: f.role != "send")
            for function in ordered:
                mine = [use for use in uses if use.function in self._read_by(function)]
                target = self.equations.tensors.get(self.plain.get(function.target or "", ""))
                claimed = self.claims.get((self._sink(function), phase), {})
                self.tried += 1
                for bundle, number in counts.of(mine, target.type if target else None).items():
                    if number > claimed.get(f"{MULTIPLEX}({bundle})", 0):
                        yield self._finding(f"{MULTIPLEX}({bundle})", function, f"{number} more than one signal")

    # --- runs ---

    def _rng(self, *key: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, *(sum(map(ord, str(part))) for part in key)])

    def _values(self, geometry: Geometry, step: int = 0) -> Values:
        rng = np.random.default_rng([self.seed, step])
        values = random_values(self.equations, reference_layer(geometry), rng)
        return varied(values, self.equations, self.intervals, np.random.default_rng(self.seed))

    def _changed(self, values: Values, change: Change) -> Values:
        return {name: change(name, value) if name in SIGNALS else value for name, value in values.items()}

    def _batch(
        self, phase: str, base: Values, other: Values, change: Change | None, *, memory: bool = False
    ) -> tuple[Values, Values]:
        """In a driven phase both runs see a batch of the phase's own, and what is stored is the same in both.

        memory  but for what neurons remember
        """
        if phase not in self.equations.driven:
            return base, other
        driven = self._rng("drive", phase).normal(size=(BATCH, *np.shape(base["x"])[1:]))
        if len(base["x"]) != BATCH:
            driven = _two_valued(driven, self._rng("drive", phase))
        kept = {n for n, d in self.equations.tensors.items() if memory and d.type.kind != "map"}
        remembers = {**base, **{name: other[name] for name in kept}}
        return {**base, "x": driven}, {**remembers, "x": driven if change is None else change("x", driven)}

    def _run(
        self, phase: str, geometry: Geometry, values: Values, mode: str, places: frozenset[str] | None = None
    ) -> tuple[dict[str, Any], list[Use]]:
        if mode == "still" and places is not None:
            self.tape.still(phase, places)
        else:
            getattr(self.tape, mode)(phase)
        with np.errstate(all="ignore"):
            results = self.executor(self.tape.program, phase, geometry, renamed(values, self.names), "float64")
        return results, list(self.tape.uses)

    def _after(self, values: Values, results: Mapping[str, Any]) -> Values:
        """What the tensors are when a phase is over."""
        new = dict(values)
        for output, value in results.items():
            words = output.split(" ")
            name = self.plain.get(words[1], words[1]) if len(words) > 1 else ""
            if name in values and not isinstance(values[name], list):
                before = new[name] if words[0] == "grad" else None
                value = np.asarray(value) if before is None else np.asarray(before) - RATE * np.asarray(value)
                new[name] = np.clip(np.nan_to_num(np.reshape(value, np.shape(values[name]))), -3, 3)
        return new

    def _remembered(self, other: Values, base: Values, results: Mapping[str, Any]) -> Values:
        """The same, of what neurons remember alone: synapses and biases are shared over positions."""
        new = self._after(other, results)
        declared = self.equations.tensors
        return {
            name: base[name]
            if name in declared and (declared[name].type.kind == "map" or declared[name].kind == "forward")
            else value
            for name, value in new.items()
        }

    def _same(
        self,
        function: Function,
        uses: list[Use],
        again: list[Use],
        first: Mapping[str, Any],
        second: Mapping[str, Any],
        place: Callable[[Any], Any],
    ) -> bool:
        """Whether what a function gathers and sends for one place is the same in two runs."""
        self.tried += 1
        read = self._read_by(function)
        for before, after in zip(uses, again, strict=True):
            if before.function not in read:
                continue
            for one, other in zip(before.vectors, after.vectors, strict=True):
                if not np.array_equal(place(one), place(other), equal_nan=True):
                    return False
        if function.role != "send" or not first:
            return True
        one, other = (np.asarray(results["send"]) for results in (first, second))
        return bool(np.array_equal(place(one), place(other), equal_nan=True))

    # --- functions ---

    def _phases(self) -> list[str]:
        found = running(self.equations)
        return [p for p in self.equations.phases if p in found and not p.startswith(AFTER_STEP) and p != INIT]

    def _steps(self) -> list[tuple[str, ...]]:
        """The phases of a step, in the order in which they run; once each."""
        schedule = self.equations.schedule
        known = set(self._phases())
        steps = [schedule.each, *(names for epochs, names in schedule.first if epochs > 0)]
        steps += [(name,) for name in schedule.alternate]
        if not any(TASK in names for names in steps):
            steps.append((TASK,))
        ordered = (sorted((n for n in names if n in known), key=lambda n: n != TASK) for names in steps)
        return [tuple(names) for names in dict.fromkeys(map(tuple, ordered)) if names]

    def _functions(self, phase: str) -> list[Function]:
        return [f for f in self.program.of_phase(phase) if f.role in ("send", "grad", "complete", "assign")]

    def _sinks(self, phase: str, *channels: str) -> list[Function]:
        """The functions of a phase of which the sink may not do any of these."""
        return [
            f for f in self._functions(phase) if not self.claims.get((self._sink(f), phase), {}).keys() & {*channels}
        ]

    def _sink(self, function: Function) -> str:
        return "send" if function.role == "send" else self.plain.get(function.target or "", function.target or "")

    def _read_by(self, function: Function) -> set[str]:
        """The function, and those that compute what it reads."""
        terms = {f.target: f for f in self.program.of_phase(function.phase) if f.role == "term"}
        found, waiting = {function.name}, [function]
        while waiting:
            for name in waiting.pop().arguments:
                if name in terms and terms[name].name not in found:
                    found.add(terms[name].name)
                    waiting.append(terms[name])
        return found

    def _finding(self, channel: str, function: Function, detail: str) -> Finding:
        return Finding(channel, self._sink(function), function.phase, detail)


def _output(function: Function) -> str:
    if function.role == "send":
        return "send"
    grad = function.role in ("grad", "complete")
    return f"grad {function.target} by {function.optimizer}" if grad else f"next {function.target}"


@dataclass
class _Message:
    signal: np.ndarray
    efficacy: np.ndarray | None


@dataclass
class _Counts:
    """The messages of every bundle in one phase, as they are found in the order of functions."""

    equations: Equations
    values: Mapping[str, Any]
    known: dict[str, list[_Message]] = field(default_factory=dict)

    def of(self, uses: list[Use], target: Type | None) -> dict[str, int]:
        """How many messages beyond the first of each bundle these uses need."""
        found: dict[str, set[int]] = {}
        for use in sorted(uses, key=lambda use: use.place.startswith("outer")):
            seen = self._applied(use) if use.matrix is not None else self._gathered(use, target)
            if seen is not None and seen[1] > 0:
                found.setdefault(seen[0], set()).add(seen[1])
        return {bundle: len(numbers) for bundle, numbers in found.items()}

    def _applied(self, use: Use) -> tuple[str, int] | None:
        signal, matrix = _array(use.vectors[0]), _array(use.matrix)
        if len(signal) != MESSAGES or signal.ndim != 2:
            return None  # of an average, or of a layer that is no dense one
        bundle = self._bundle(use, signal)
        if bundle is None or self._backwards(use, matrix):
            return None
        known = self._messages(bundle)
        for number, message in enumerate(known):
            known_signal = message.signal.shape == signal.shape and _alike(message.signal, signal)
            if known_signal and (message.efficacy is None or _same_map(message.efficacy, matrix)):
                message.efficacy = matrix
                return bundle, number
        known.append(_Message(signal, matrix))
        return bundle, len(known) - 1

    def _gathered(self, use: Use, target: Type | None) -> tuple[str, int] | None:
        """An outer product, at the synapses of its target: the signal that comes there from the presynaptic side."""
        if use.place == "total" or target is None or target.kind != "map":
            return None
        one, other = (_array(v) for v in use.vectors)
        if use.place == "outer":
            if {target.source, target.target} != {PRE, POST}:
                return None
            signal = other if target.source == PRE else one
        else:
            far_first = target.source is not None and (target.source.name == "out" or bool(target.source.index))
            signal = one if far_first else other
        if signal.ndim != 2 or len(signal) != MESSAGES or not _varies(signal):
            return None
        bundle = f"{target.source} -> {target.target}"
        known = self._messages(bundle)
        for number, message in enumerate(known):
            if message.signal.shape == signal.shape and _function_of(signal, message.signal):
                return bundle, number
        known.append(_Message(signal, None))
        return bundle, len(known) - 1

    def _messages(self, bundle: str) -> list[_Message]:
        if bundle not in self.known:
            forward = [_Message(_array(self.values["x"]), _array(self.values["W"]))] if bundle == "pre -> post" else []
            self.known[bundle] = forward
        return self.known[bundle]

    def _backwards(self, use: Use, matrix: np.ndarray) -> bool:
        """Whether the matrix is a tensor of the other direction: its synapses used backwards."""
        own = {"apply": (POST, PRE), "adjoint": (PRE, POST)}.get(use.place)
        turned = (n for n, d in self.equations.tensors.items() if own and (d.type.source, d.type.target) == own)
        return any(_same_map(_array(self.values[name]), matrix) for name in turned)

    def _bundle(self, use: Use, signal: np.ndarray) -> str | None:
        if use.place in ("apply", "adjoint"):
            return "pre -> post" if use.place == "apply" else "post -> pre"
        ends = {DENSE.units_in: "pre", DENSE.units_out: "post"}
        classes = np.shape(self.values["e"])[1]
        if use.place == "to_out":
            end = ends.get(signal.shape[1])
            return f"{end} -> out" if end else None
        if signal.shape[1] != classes:
            return None  # from layers further downstream: one bundle for each
        end = ends.get(_array(use.result).shape[1])
        return f"out -> {end}" if end else None


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal, but for a factor."""
    a, b = one.ravel(), other.ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return length == 0 or abs(abs(float(a @ b)) - length) <= 1e-9 * length


def _same_map(one: np.ndarray, other: np.ndarray) -> bool:
    """The same: a backend stores a kernel as [post, pre] or as [pre, post]."""
    return _alike(one if one.shape == other.shape else one.T, other)


def _varies(signal: np.ndarray) -> bool:
    """Whether a signal differs between examples: constants travel nowhere."""
    return bool(np.ptp(signal, axis=0).max() > 1e-12)


def _function_of(signal: np.ndarray, of: np.ndarray) -> bool:
    """Whether neurons with the same value of one signal have the same of the other."""
    for unit in range(signal.shape[1]):
        seen: dict[float, float] = {}
        for value, result in zip(np.round(of[:, unit], 12), signal[:, unit], strict=True):
            if abs(seen.setdefault(float(value), float(result)) - result) > 1e-9 * (1 + abs(result)):
                return False
    return True


def _two_valued(value: Any, rng: np.random.Generator) -> Any:
    """A larger batch in which every neuron has one of two values."""
    if isinstance(value, list):
        return [_two_valued(part, rng) for part in value]
    choice = rng.integers(2, size=(MESSAGES, *np.shape(value)[1:]))
    return np.where(choice == 0, value[0], value[1] + 0.1)


def _from(value: Any, start: int, rng: np.random.Generator, axis: int = 0) -> Any:
    """Other values from an index on, along an axis."""
    if isinstance(value, list):
        return [_from(part, start, rng, axis) for part in value]
    new = rng.normal(0.0, 2.0, np.shape(value))
    kept = (slice(None),) * axis + (slice(0, start),)
    new[kept] = value[kept]
    return new


def _elsewhere(value: Any, rng: np.random.Generator) -> Any:
    """Other values at all positions but the first, in a layer that is no far one."""
    if isinstance(value, list) or np.ndim(value) < 4:
        return value
    new = rng.normal(0.0, 2.0, np.shape(value))
    new[:, :, 0, 0] = value[:, :, 0, 0]
    return new


def _first_example(value: Any) -> Any:
    """What belongs to the first example of a batch."""
    array = np.asarray(value)
    return array[0] if array.ndim > 1 and len(array) == BATCH else np.zeros(0)


def _first_unit(value: Any) -> Any:
    """What belongs to the first neuron of a dense layer: [batch, units]"""
    array = np.asarray(value)
    return array[:, 0] if array.ndim == 2 and len(array) == BATCH else np.zeros(0)


def _first_position(value: Any) -> Any:
    """What belongs to the first position: activities are [batch, channels, *size] or [batch, *size, channels]."""
    array = np.asarray(value)
    if array.ndim != 4:
        return np.zeros(0)
    if array.shape[1:3] == ALONE.input_size:
        return array[:, 0, 0, :]
    return array[:, :, 0, 0] if array.shape[2:] == ALONE.input_size else np.zeros(0)


CHECKS = {
    "an example is told nothing of the others": (Machine.examples, 3),
    "a position is told nothing of the others": (Machine.positions, 1),
    "a neuron is told nothing of its layer": (Machine.neurons, 2),
    "an axon carries as many signals as listed": (Machine.messages, 1),
}
"""By what they check, in words: how, and with how many draws of all values."""


def findings(
    program: Program,
    equations: Equations,
    ledger: Ledger,
    executor: Executor,
    intervals: Mapping[str, Interval | None] = MappingProxyType({}),
) -> dict[str, tuple[int, list[Finding]]]:
    """By check, in words: how much was tried, and what was found."""
    result: dict[str, tuple[int, list[Finding]]] = {}
    for words, (check, draws) in CHECKS.items():
        tried, found = 0, dict[tuple[str, str, str], Finding]()
        for seed in range(draws):
            machine = Machine(program, equations, ledger, executor, intervals, seed)
            found.update({(each.channel, each.sink, each.phase): each for each in check(machine)})
            tried += machine.tried
        result[words] = tried, list(found.values())
    return result
