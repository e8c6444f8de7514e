"""Watch information move: the ledger's claims and denials against several steps of the reference interpreter.

A *source* is replaced by other values, everything else starts as it was, and the two runs are compared bit by bit. What
DESIGN, section 4, calls transmission is held fixed: where a map is applied forwards, its own synapses keep the values
of the undisturbed run. So does what a sink reads at its own site. A difference that is left is transport.

A source is replaced anew at every step, so that a flow of signs alone can be told from one of values. What a synapse's
constants (`fixed`, `fresh`) have made of the states beside them counts as those states' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, rewrite, walk
from ruledsl.ir.types import Type
from ruledsl.locality.flow import Entry, Ledger
from ruledsl.locality.labels import BROADCAST, MODULATE
from ruledsl.locality.schedules import running
from ruledsl.locality.tensors import drawn_first, gathered, wiring
from ruledsl.program import INIT
from ruledsl.reference.interpreter import draw, evaluate
from ruledsl.reference.maps import Linear
from ruledsl.verification.cases import DOWNSTREAM, random_values, stored_shape
from ruledsl.verification.holding import HELD, at_home, hears, is_tensor, reads, still
from ruledsl.verification.relaxed import relaxed

STEPS = 3
RATE, TAME = 0.05, 3.0
LEARNING = ("forward", "weight", "state")
SIGNALS = ("e", "target")
Output = tuple[int, str, str, str]
"""Step, phase, sink and optimizer."""


@dataclass(frozen=True)
class Mode:
    """How a source is replaced: by values of the same signs, of the same norm, with `M.T @ v` computed as it was."""

    signs: bool = False
    norm: bool = False
    reverse: bool = False
    decades: float = 0.5  # how far sizes may differ where signs are kept

    @classmethod
    def within(cls, channels: frozenset[str]) -> Mode:
        """Everything but these channels is changed."""
        return cls("sign" in channels, "norm" in channels, "reverse" in channels)

    def other(self, value: Any, rng: np.random.Generator) -> Any:
        """Other values, like the old ones only in what the mode says."""
        if isinstance(value, list):
            return [self.other(part, rng) for part in value]
        scale = float(np.sqrt(np.mean(np.square(value)))) or 1.0
        if self.signs:
            new = value * 10.0 ** rng.uniform(-self.decades, self.decades, np.shape(value))
        else:  # large or small, since a condition may ask
            new = rng.normal(0.0, rng.choice((0.02, 2.0)) * scale, np.shape(value))
        if self.norm:
            length = float(np.linalg.norm(new))
            new = new * (float(np.linalg.norm(value)) / length) if length else value
        return new


@dataclass
class Trace:
    """What one run computed, and the tensors that every phase started from."""

    outputs: dict[Output, Any] = field(default_factory=dict)
    isolated: dict[Output, Any] = field(default_factory=dict)  # of sinks beside the source: what they read there held
    tensors: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Violation:
    """A flow that the ledger denies and a run shows."""

    source: str
    sink: str
    phase: str
    step: int
    mode: Mode

    def __str__(self) -> str:
        return f"{self.source} -> {self.sink} in {self.phase}, step {self.step}, {self.mode}"


class Observer:
    """Runs of one rule on one layer; `seed` decides all values, those of the parameters too where these `vary`.

    relax   let conditions and bounds pass on all that they read (see `relaxed`)
    """

    def __init__(
        self,
        equations: Equations,
        ledger: Ledger,
        layer: Linear,
        seed: int = 0,
        *,
        vary: bool = False,
        relax: bool = False,
    ) -> None:
        if relax:
            equations = replace(
                equations,
                equations=tuple(e.with_value(relaxed(e.value)) for e in equations.equations),
            )
        self.equations, self.layer, self.seed, self.steps, self.vary = equations, layer, seed, STEPS, vary
        self.claims: dict[tuple[str, str, str], set[str]] = {}
        for entry in ledger:
            self.claims.setdefault((entry.source, entry.sink, entry.phase), set()).add(entry.channel)
        given = wiring(equations)
        self.gathered, self.drawn = gathered(equations), drawn_first(equations)
        self.sources = [n for n, d in equations.tensors.items() if d.type.kind == "map" and n not in given]
        self.signals = broadcast_signals(equations)
        self._held: dict[tuple[int, str | None, bool], Node] = {}
        self._base: Trace | None = None

    @property
    def base(self) -> Trace:
        """The undisturbed run."""
        if self._base is None:
            self._base = _Run(self, None, Mode(), None).run()
        return self._base

    def disturbed(self, source: str, mode: Mode, attempt: int = 0) -> Trace:
        """The run with other values in `source`."""
        return _Run(self, source, mode, self.base, attempt).run()

    def held(self, value: Node, reverse_of: str | None, beside: bool) -> Node:
        """The value with transmission held, and `M.T @ v` of one source; `beside`: own reads of the sink as well."""
        key = (id(value), reverse_of, beside)
        if key not in self._held:
            new = rewrite(value, lambda node, args: still(node, args, reverse_of))
            self._held[key] = at_home(new) if beside else new
        return self._held[key]

    def sinks(self) -> list[Equation]:
        """What can receive information."""
        return [e for e in self.equations.equations if e.role in ("send", "grad", "assign", "init")]

    # --- what the ledger denies ---

    def violations(self) -> list[Violation]:
        """Flows that the ledger denies and that are there all the same."""
        found: list[Violation] = []
        for source in (*self.sources, *self.signals):
            wanted: dict[Mode, list[Equation]] = {}
            for equation in self.sinks():
                mode = self.denied(source, equation)
                if mode is not None:
                    wanted.setdefault(mode, []).append(equation)
            for mode, equations in wanted.items():
                changed = self.changes(source, mode)
                sinks = {(e.phase, e.target) for e in equations}
                found += [
                    Violation(source, sink, phase, step, mode)
                    for step, phase, sink, _ in changed
                    if (phase, sink) in sinks
                ]
        return found

    def denied(self, source: str, equation: Equation) -> Mode | None:
        """How the source may change without reaching the sink; None where the ledger promises nothing."""
        channels = frozenset(self.claims.get((source, equation.target, equation.phase), ()))
        if source in self.signals:
            far = {
                c
                for (name, *where), found in self.claims.items()
                for c in found
                if _same_signal(name, source) and where == [equation.target, equation.phase]
            }
            return None if far & {BROADCAST, MODULATE} else Mode()
        if {"value", "stat"} & channels or ("norm" in channels and not self._bare_norms(source, "sign" in channels)):
            return None
        if source in self.gathered and self.pools(equation, "pool(units)"):
            return None  # a number about accumulated activity is a pool of it
        return Mode.within(channels)

    def pools(self, equation: Equation, channel: str) -> bool:
        """Whether the sink of an equation may know the activity of others, by this channel."""
        return any(
            where == [equation.target, equation.phase] and channel in found
            for (_, *where), found in self.claims.items()
        )

    def _bare_norms(self, source: str, signs: bool) -> bool:
        """Whether the source is read, at other sites than its own, by `norm` and `sq` alone (and for its signs)."""
        passing = ("norm", "sq", "transpose", *(["sign"] if signs else []))
        own = self.equations.tensors[source].type
        for equation in self.equations.equations:
            declared = self.equations.tensors.get(equation.target)
            neighbour = declared is not None and declared.type == own and equation.target != source
            if neighbour and any(is_tensor(node, source) for node in walk(equation.value)):
                return False
            for node in walk(self.held(equation.value, source, False)):
                if node.op not in passing and any(reads(arg, source) for arg in node.args):
                    return False
            if reads(self.held(equation.value, source, False), source):
                return False
        return True

    def changes(self, source: str, mode: Mode, attempt: int = 0) -> list[Output]:
        """The outputs that differ between the two runs by more than rounding (any bit, unless the norm is kept)."""
        base, other = self.base, self.disturbed(source, mode, attempt)
        own = self._type(source)
        result: list[Output] = []
        for output, value in other.outputs.items():
            declared = self.equations.tensors.get(output[2])
            beside = own is not None and declared is not None and declared.type == own
            before = (base.isolated if beside else base.outputs)[output]
            after = other.isolated[output] if beside else value
            if _differ(before, after, 1e-9 if mode.norm else 0.0):
                result.append(output)
        return result

    def _type(self, source: str) -> Type | None:
        declared = self.equations.tensors.get(source)
        return declared.type if declared else None

    # --- what the ledger claims ---

    def observed(self, entry: Entry, attempt: int = 0) -> bool:
        """Whether what the entry claims is seen: other flows between the two are kept out as far as possible."""
        channels = frozenset(self.claims[entry.source, entry.sink, entry.phase])
        still = "reverse" in channels and entry.channel != "reverse"
        mode = {
            "value": Mode(signs=True, reverse=still),
            "sign": Mode(reverse=still),
            "norm": Mode(reverse=still),
            "stat": Mode(reverse=still),
            "reverse": Mode(),
            BROADCAST: Mode(),
            MODULATE: Mode(),
        }[entry.channel]
        changed = self.changes(entry.source, mode, attempt)
        return any((phase, sink) == (entry.phase, entry.sink) for _, phase, sink, _ in changed)


class _Run:
    """One run: first values, then every phase of every step."""

    def __init__(
        self, observer: Observer, source: str | None, mode: Mode, base: Trace | None, attempt: int = 0
    ) -> None:
        self.observer, self.source, self.mode, self.base = observer, source, mode, base
        self.equations, self.layer = observer.equations, observer.layer
        self.trace = Trace()
        self.attempt = attempt
        declared = self.equations.tensors.get(source or "")
        self.own = declared.type if declared else None
        self.constant = declared is not None and declared.kind in ("fixed", "fresh")

    def run(self) -> Trace:
        known = self._first()
        for step in range(self.observer.steps):
            known.update(self._signals(step))
            for equation in self.equations.of("draw"):
                known[equation.target] = self._drawn(equation, step, known)
            for phase in self._phases(step):
                self._replace((step, phase), known)
                self._phase(step, phase, known)
        return self.trace

    def _rng(self, *key: object) -> np.random.Generator:
        return np.random.default_rng([self.observer.seed, *(sum(map(ord, str(part))) for part in key)])

    def _phases(self, step: int) -> list[str]:
        """All phases in order; in any order, and not all of them, where the observer varies what a schedule can."""
        phases = [phase for phase in self.equations.phases if phase in running(self.equations)]
        rng = self._rng("phases", step)
        if not self.observer.vary:
            return phases
        return [phases[i] for i in rng.permutation(len(phases)) if len(phases) == 1 or rng.random() < 0.8]

    def _signals(self, step: int) -> dict[str, Any]:
        """The activity of one step, the same in every run but for a source that is a signal."""
        values = random_values(self.equations, self.layer, self._rng("signals", step))
        values = {name: value for name, value in values.items() if name not in self.equations.tensors}
        values["step"] = float(step)
        if self.observer.vary:
            rng = self._rng("parameters")
            values.update({name: float(rng.uniform(0.2, 2.0)) for name in self.equations.parameters})
        if self.source in self.observer.signals and self.source is not None:
            name = value_name(self.source)
            values[name] = self.mode.other(values[name], self._rng("other", step, self.attempt))
        return values

    def _first(self) -> dict[str, Any]:
        known = random_values(self.equations, self.layer, self._rng("forward"))
        known.update(self._signals(0))
        for name in self.equations.tensors:
            if self.equations.tensors[name].kind == "forward":
                known[name] = self._made(name, self._started(name, known[name]))
        for equation in self.equations.of("init", "draw"):
            before = known  # learning begins with the same draws, whatever is made of the source afterwards
            if self.base is not None and self.source in self.observer.drawn and self.source in self.base.first:
                before = {**known, self.source: self.base.first[self.source]}
            value = self._drawn(equation, -1, before)
            free = not any(node.op == "tensor" for node in walk(equation.value))
            started = self._started(equation.target, value) if free else value
            known[equation.target] = self._made(equation.target, started)
            if equation.role == "init":
                self.trace.outputs[0, INIT, equation.target, "task"] = value
                self.trace.isolated[0, INIT, equation.target, "task"] = self._aside(equation, before, value)
        return known

    def _started(self, name: str, value: Any) -> Any:
        """Where the observer varies, what learns may have any values by now, large ones and small ones."""
        if not self.observer.vary or isinstance(value, list) or self.equations.tensors[name].kind not in LEARNING:
            return value
        rng = self._rng("started", name)
        return rng.choice((0.03, 0.3, 1.0, 2.0)) * rng.normal(size=np.shape(value))

    def _aside(self, equation: Equation, known: Mapping[str, Any], value: Any) -> Any:
        if equation.value.op == "random" or isinstance(value, list):
            return value
        return self._value(equation, known, (-1, INIT), True)

    def _made(self, name: str, value: Any) -> Any:
        """A first value, or another one where the tensor is the source."""
        self.trace.first[name] = value
        if self.base is None:
            return value
        if name == self.source:
            return self.mode.other(self.base.first[name], self._rng("first", self.attempt))
        if self.constant and self.equations.tensors[name].type == self.own:
            return self.base.first[name]
        return value

    def _drawn(self, equation: Equation, step: int, known: Mapping[str, Any]) -> Any:
        """An initial value, or what a step draws: the same numbers in every run."""
        declared = self.equations.tensors[equation.target]
        if equation.value.op != "random":
            return self._value(equation, known, (-1, INIT), False)
        rng = self._rng("draw", equation.target, step)
        if declared.type.source is not None and declared.type.source.index:
            shapes = [(*shape, *self.layer.pre_shape) for shape in DOWNSTREAM]
            return [draw(equation.value, shape, self.layer, known, rng) for shape in shapes]
        return draw(equation.value, stored_shape(declared.type, self.layer), self.layer, known, rng)

    def _replace(self, at: tuple[int, str], known: dict[str, Any]) -> None:
        """The source has other values in every phase, and its neighbours forget what they had of a constant."""
        if self.base is None:
            self.trace.tensors[at] = {name: known[name] for name in self.equations.tensors}
            return
        before = self.base.tensors[at]
        for name, declared in self.equations.tensors.items():
            if name == self.source:
                known[name] = self.mode.other(before[name], self._rng("other", *at, self.attempt))
            elif self.constant and declared.type == self.own:
                known[name] = before[name]

    def _phase(self, step: int, phase: str, known: dict[str, Any]) -> None:
        at = (step, phase)
        values = known
        for equation in self.equations.of("drive", phase=phase):
            rng = self._rng("drive", phase, step)
            values = {**known, "x": draw(equation.value, np.shape(known["x"]), self.layer, known, rng)}
        after: dict[str, Any] = {}
        for equation in self.equations.of("send", "grad", "assign", phase=phase):
            value = self._value(equation, values, at, False)
            key = (step, phase, equation.target, equation.optimizer)
            self.trace.outputs[key] = value
            declared = self.equations.tensors.get(equation.target)
            if declared is not None and declared.type.kind == "map" and self.own in (None, declared.type):
                self.trace.isolated[key] = self._value(equation, values, at, True)
            if equation.role == "assign":
                after[equation.target] = value
            elif equation.role == "grad":
                after[equation.target] = after.get(equation.target, known[equation.target]) - RATE * _tamed(value)
        known.update({name: _tamed(value) for name, value in after.items()})

    def _value(self, equation: Equation, values: Mapping[str, Any], at: tuple[int, str], beside: bool) -> Any:
        still = self.base.tensors.get(at, self.base.first) if self.base is not None else values
        held = {name + HELD: still[name] for name in self.equations.tensors if name in still}
        reverse = self.source if self.mode.reverse else None
        signal = self.source in self.observer.signals  # transmission keeps what it knows of activity
        node = equation.value if signal else self.observer.held(equation.value, reverse, beside)
        with np.errstate(all="ignore"):
            value = evaluate(node, self.layer, {**values, **held})
        declared = self.equations.tensors.get(equation.target)
        if declared is None:
            return np.broadcast_to(value, np.shape(values["x"]))
        shape = stored_shape(declared.type, self.layer)
        same = np.size(value) == np.prod(shape)
        return np.reshape(value, shape) if same else np.broadcast_to(value, shape)


def broadcast_signals(equations: Equations) -> list[str]:
    """`e`, `target` and `delta[k]`, as far as a rule reads them; the layers downstream by any index."""
    heard = [name for name in SIGNALS if any(hears(e.value, name) for e in equations.equations)]
    leaves = (n for e in equations.equations for n in walk(e.value) if n.op == "signal" and n.attrs[1])
    far = next((f"delta[{leaf.attrs[1]}]" for leaf in leaves), None)
    return heard if far is None else [*heard, far]


def value_name(signal: str) -> str:
    """What the values of a signal are called among those of a layer."""
    return "delta_k" if "[" in signal else signal


def _same_signal(one: str, other: str) -> bool:
    return one == other or ("[" in one and "[" in other and value_name(one) == value_name(other))


def _tamed(value: Any) -> Any:
    """Large values grow slowly, so that a rule which diverges still tells different values apart."""
    value = np.nan_to_num(value)
    size = np.abs(value)
    return np.where(size <= TAME, value, np.sign(value) * (TAME + np.log1p(np.maximum(size - TAME, 0.0))))


def _differ(before: Any, after: Any, tolerance: float) -> bool:
    if isinstance(before, list):
        return any(_differ(b, a, tolerance) for b, a in zip(before, after, strict=True))
    if tolerance:
        return not np.allclose(before, after, rtol=tolerance, atol=tolerance, equal_nan=True)
    return not np.array_equal(before, after, equal_nan=True)
