"""Flow: what every synapse would have to know, from the equations themselves (DESIGN, section 4).

Labels go through the equations by the flow rules of the operations; what weights and states remember is iterated to a
fixed point, so that a value copied into a state first is found where the state is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, reads, walk
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.phases import INIT
from ruledsl.locality import labels
from ruledsl.locality.flow_rules import FLOW_RULES, is_layer
from ruledsl.locality.labels import (
    ACCUMULATED,
    BROADCAST,
    MULTIPLEX,
    NOTHING,
    TRANSPORT,
    Key,
    Labels,
    Mark,
    join,
    label,
)
from ruledsl.locality.messages import Site, messages
from ruledsl.locality.schedules import later_in_a_step, most_often, running
from ruledsl.locality.steadiness import shifted_maps
from ruledsl.locality.tensors import drawn_first, gathered, wiring
from ruledsl.source import SourceLocation

Verdict = Literal["local", "nonlocal"]


@dataclass(frozen=True)
class Entry:
    """One line of the transport ledger: information that reaches `sink` although no neuron or synapse there has it.

    source   a map, a bundle of synapses, or the activity that is pooled, broadcast or summed up
    channel  one of `ruledsl.locality.labels.CHANNELS`
    phase    where it happens: `task`, `after step`, `init`, or a phase of the rule
    term     the text of the term that needs it, in line `line`, column `column`
    count    how many numbers, signals or maps of this kind
    part     the definition that it comes from, where this is an optimizer of the rule
    """

    source: str
    sink: str
    channel: str
    phase: str
    place: SourceLocation
    term: str
    count: int = 1
    part: str | None = None

    @property
    def line(self) -> int:
        """The line of the term, from 1."""
        return self.place.span.line

    @property
    def column(self) -> int:
        """The column of the term, from 1."""
        return self.place.span.column

    @property
    def bits(self) -> int:
        """Per update, for one synapse, neuron or layer that the channel is about: 1 of a sign, else 32 for each number.

        `ruledsl.explain.traffic.bits_per_update` has the sum over a network.
        """
        return 1 if self.channel == "sign" else 32 * self.count

    @property
    def flow(self) -> str:
        """`sign(W)`, `pool(batch)`, `multiplex(pre -> post)`: as a contract writes it."""
        return self.channel if self.channel.startswith("pool") else f"{self.channel}({self.source})"


Ledger = tuple[Entry, ...]


def verdict(ledger: Ledger) -> Verdict:
    """`nonlocal` when any entry transports what a weight is; pools, broadcasts and messages leave a rule local."""
    return "nonlocal" if any(entry.channel in TRANSPORT for entry in ledger) else "local"


@dataclass(frozen=True)
class Flows:
    """The ledger of a rule, and what `forbid` asks beyond it.

    held  by sink: what the maps that it uses hold of weights at other sites, directly or by way of others
    """

    ledger: Ledger
    held: Ledger


def trace_flow(equations: Equations) -> Ledger:
    """The transport ledger of a rule, in the order of phases and sinks."""
    return trace_flows(equations, {}).ledger


def trace_flows(equations: Equations, movers: Mapping[str, Equations]) -> Flows:
    """The transport ledger of a rule, and what reaches every sink by way of the maps that it uses.

    movers   the rule's own optimizers, by slot: they may move the threshold at which a sign is read
    """
    equations = _running(equations)
    shifted = shifted_maps(equations, movers)
    flow = _Flow(equations, shifted)
    flow.iterate()
    again = shifted | flow.read_twice()
    if again != shifted:
        flow = _Flow(equations, again)
        flow.iterate()
    return Flows(flow.ledger(), flow.held())


def _running(equations: Equations) -> Equations:
    phases = running(equations)
    return replace(equations, equations=tuple(e for e in equations.equations if e.phase in phases))


class _Flow:
    """The labels of every node, and what every weight and state remembers."""

    def __init__(self, equations: Equations, shifted: frozenset[str]) -> None:
        self.equations = equations
        self.ordered = _sources_first(equations)
        self.wiring, self.gathered, self.shifted = wiring(equations), gathered(equations), shifted
        self.later, self.drawn = later_in_a_step(equations), drawn_first(equations)
        self.phase = INIT
        self.content: dict[str, dict[str, Labels]] = {}  # by tensor and by the phase that stored it
        self.first: dict[str, Labels] = {}  # what tensors hold before the first step
        self.driven: dict[str, Labels] = {}  # by phase: what the activity that drives it depends on
        self.memo: dict[
            tuple[str, int], Labels
        ] = {}  # by phase and node: in a driven phase `x` depends on other things
        self.answers = {e.phase for e in equations.equations if any(map(_is_answer, walk(e.value)))}
        self.extra: dict[str, dict[Site, tuple[str, int]]] = {}
        for phase in dict.fromkeys(e.phase for e in equations.equations):
            self.extra[phase] = messages(equations, phase, self.wiring) if phase != INIT else {}

    def iterate(self) -> None:
        """Until nothing more is learned: labels only ever grow, and there are finitely many."""
        while True:
            before = self._known()
            self.memo = {}
            for equation in self.ordered:
                found = self.labels_of(equation.value, equation.phase)
                if equation.role == "init":
                    self.first[equation.target] = found
                if equation.role in ("grad", "assign", "init", "draw"):
                    stored = self.content.setdefault(equation.target, {})
                    stored[equation.phase] = join((stored.get(equation.phase, NOTHING), found))
                elif equation.role == "drive":
                    self.driven[equation.phase] = join((self.driven.get(equation.phase, NOTHING), found))
            if before == self._known():
                self.memo = {}
                return

    def _known(self) -> object:
        stored = {(name, phase): found for name, by in self.content.items() for phase, found in by.items()}
        return [
            {name: {(key, mark.own, mark.phases) for key, mark in found.items()} for name, found in known.items()}
            for known in (stored, self.first, self.driven)
        ]

    def ledger(self) -> Ledger:
        """An entry for everything that a sink gets and does not have."""
        entries: dict[tuple[str, str, str, str], Entry] = {}
        for equation in self.equations.equations:
            if equation.role == "drive":
                continue
            for (source, channel), mark in self.labels_of(equation.value, equation.phase).items():
                if channel in ACCUMULATED or self._is_own(source, channel, mark, equation.target):
                    continue
                place, term = _written(mark.place, equation.place)
                key = (source, channel, equation.target, equation.phase)
                entry = Entry(source, equation.target, channel, equation.phase, place, term, len(mark.parts) or 1)
                old = entries.get(key)
                entries[key] = entry if old is None else replace(old, count=max(old.count, entry.count))
        return tuple(entries.values())

    def read_twice(self) -> frozenset[str]:
        """Maps of which the sign is read at other sites more than once in a step, while the rule moves them."""
        phases: dict[str, set[str]] = {}
        for equation in self.equations.equations:
            for (source, channel), mark in self.labels_of(equation.value, equation.phase).items():
                if channel == "sign" and not self._is_own(source, channel, mark, equation.target):
                    phases.setdefault(source, set()).update(mark.phases - {INIT})
        moving = {e.target for e in self.equations.of("grad", "assign")}
        times = {name: sum(most_often(self.equations, phase) for phase in found) for name, found in phases.items()}
        return frozenset(name for name, number in times.items() if number > 1 and name in moving)

    def held(self) -> Ledger:
        """What the maps that a sink uses hold of weights at other sites than theirs."""
        entries: dict[tuple[str, str, str], Entry] = {}
        for equation in self.equations.equations:
            if equation.role == "drive":
                continue
            waiting, seen = sorted(reads(equation.value)), set[str]()
            while waiting:
                name = waiting.pop()
                if name in seen or name not in self.content:
                    continue
                seen.add(name)
                for by in self.content[name].values():
                    for (source, channel), mark in by.items():
                        if channel in TRANSPORT and not self._is_own(source, channel, mark, name):
                            place, term = _written(mark.place, equation.place)
                            entry = Entry(source, equation.target, channel, equation.phase, place, term)
                            entries.setdefault((source, channel, equation.target), entry)
                waiting += [e for w in self.equations.equations if w.target == name for e in sorted(reads(w.value))]
        return tuple(entries.values())

    # --- what flow rules ask ---

    def labels_of(self, root: Node, phase: str) -> Labels:
        """Everything that the value of a node can depend on, in a phase."""
        self.phase = phase
        for node in walk(root):
            if (phase, id(node)) not in self.memo:
                self.memo[phase, id(node)] = self._labels(node)
        return self.memo[phase, id(root)]

    def of(self, node: Node) -> Labels:
        """The labels of a node below the one whose labels are asked for."""
        return self.memo[self.phase, id(node)]

    def bias(self) -> Labels:
        """What the layer's bias holds, where this phase reads the layer's output with it, too."""
        if self.phase not in self.answers:
            return NOTHING
        parts = (
            _remembered(found, False, (p, self.phase) in self.later) for p, found in self.content.get("b", {}).items()
        )
        return join(parts)

    def lifted(self) -> Labels:
        """What the layer's output tells of its bias, where several phases move this: one can lift a memory into it.

        Moved in one phase alone, a bias is the layer's own at all of its positions.
        """
        if len({e.phase for e in self.equations.of("grad", "assign") if e.target == "b"}) < 2:
            return NOTHING
        parts = (_remembered(found, False, False) for found in self.content.get("b", {}).values())
        known = {key: mark for key, mark in join(parts).items() if key[1] == "over(positions)"}
        return labels.returned(known, ("positions",))

    def _evoked(self) -> Labels:
        """What activity tells of its batch, where an earlier phase of the step has assigned W or b by it."""
        assigned = {(e.target, e.phase) for e in self.equations.of("assign") if e.target in ("W", "b")}
        stored = [(phase, self.content.get(name, {}).get(phase, NOTHING)) for name, phase in sorted(assigned)]
        parts = (_remembered(found, True, True) for p, found in stored if (p, self.phase) in self.later)
        return labels.returned({k: m for k, m in join(parts).items() if k[1] == "over(batch)"}, ("batch",))

    def message(self, node: Node, turned: bool = False) -> tuple[str, int] | None:
        """The message beyond the first of its bundle that a node needs in this phase."""
        return self.extra[self.phase].get((id(node), turned))

    def _labels(self, node: Node) -> Labels:
        if node.op == "tensor":
            return self._tensor(node)
        if node.op == "signal":
            name, index = node.attrs
            if name == "x" and self.phase in self.equations.driven:
                return self.driven.get(self.phase, NOTHING)
            evoked = NOTHING if name == "target" else self._evoked()
            if name in ("e", "target") or index:
                far = label(f"{name}[{index}]" if index else str(name), BROADCAST, node.place)
                return join((far, evoked))
            return join((evoked, self.lifted())) if name in ("u", "y") else evoked
        if node.op in ("const", "scalar"):
            return NOTHING
        if node.op == "random":
            return join(self.of(arg) for arg in node.args)
        return FLOW_RULES[OPERATIONS[node.op].flow](node, self)

    def _tensor(self, node: Node) -> Labels:
        """Reading a tensor where it lives: its own value and whatever it remembers."""
        name = str(node.attrs[0])
        if name in self.wiring or (self.phase == INIT and name in self.drawn):
            return NOTHING
        mapped = node.type.kind in ("map", "parameter")
        if self.phase == INIT:
            parts = [_remembered(self.first.get(name, NOTHING), mapped, False)]
        else:
            parts = [
                _remembered(found, mapped, (phase, self.phase) in self.later)
                for phase, found in self.content.get(name, {}).items()
            ]
        remembered = {key: mark for key, mark in join(parts).items() if key[0] != name or key[1] not in TRANSPORT}
        if not mapped:
            return remembered
        return {(name, "value"): Mark(True, node.place), **remembered}

    def _is_own(self, source: str, channel: str, mark: Mark, sink: str) -> bool:
        """Whether a sink has the information anyway: a synapse its own maps, in any arithmetic."""
        declared = self.equations.tensors.get(sink)
        if declared is None or declared.type.kind == "scalar":
            return False
        if channel not in ("value", "sign") or not mark.own:
            return False
        return self.equations.tensors[source].type == declared.type


def _is_answer(node: Node) -> bool:
    """`u`, or `W @ x + b`."""
    return is_layer(node) or (node.op == "signal" and node.attrs == ("u", None))


def _remembered(found: Labels, mapped: bool, same_step: bool) -> Labels:
    """What is left of labels when they are read again where they were stored.

    mapped     by synapses, which the architecture shares over positions
    same_step  by a later phase of the same step, which sees the same batch
    """
    result: dict[Key, Mark] = {}
    for (source, channel), mark in found.items():
        if channel in ("over(batch)", "pool(batch)"):
            if same_step:
                result[source, "over(batch)"] = mark
        elif channel == MULTIPLEX or (channel == "over(positions)" and mapped):
            continue
        else:
            own = mapped and channel in TRANSPORT
            result[source, channel] = mark._replace(own=own)
    return result


def _written(term: SourceLocation | None, equation: SourceLocation | None) -> tuple[SourceLocation, str]:
    """Where a term stands, and its text; in its own equation, where equal terms of several are one node."""
    assert term is not None or equation is not None
    if term is None or equation is None:
        place = term or equation
        assert place is not None
        return place, place.snippet
    lines = range(equation.span.line, equation.span.end_line + 1)
    elsewhere = term.text is not equation.text or term.span.line not in lines
    return (equation if elsewhere and term.snippet in equation.snippet else term), term.snippet


def _sources_first(equations: Equations) -> list[Equation]:
    """Every equation after those of what it reads, as far as there is such an order: then few rounds are enough."""
    writers: dict[str, list[Equation]] = {}
    for equation in equations.equations:
        writers.setdefault(equation.target, []).append(equation)
    ordered: dict[int, Equation] = {}
    seen: set[int] = set()
    for root in equations.equations:
        waiting = [(root, False)]
        while waiting:
            equation, ready = waiting.pop()
            if ready:
                ordered[id(equation)] = equation
            elif id(equation) not in seen:
                seen.add(id(equation))
                waiting.append((equation, True))
                names = sorted(reads(equation.value))
                waiting += [(writer, False) for name in names for writer in writers.get(name, [])]
    return list(ordered.values())


def flows_of(ledger: Iterable[Entry]) -> set[str]:
    """`sign(W) -> send` and the like."""
    return {f"{entry.flow} -> {entry.sink}" for entry in ledger}
