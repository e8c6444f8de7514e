"""Flow: what every synapse would have to know, from the equations themselves (DESIGN, section 4).

Labels go through the equations by the flow rules of the operations; what weights and states remember is iterated to a
fixed point, so that a value copied into a state first is found where the state is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, reads, walk
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.phases import INIT
from ruledsl.ir.types import Type
from ruledsl.locality.flow_rules import FLOW_RULES
from ruledsl.locality.labels import BROADCAST, NOTHING, TRANSPORT, Key, Labels, Mark, join, label
from ruledsl.source import SourceLocation

Verdict = Literal["local", "nonlocal"]


@dataclass(frozen=True)
class Entry:
    """One line of the transport ledger: information that reaches `sink` although it is not its own.

    source   a map, or the activity that is pooled or broadcast
    channel  value, sign, norm, reverse, pool(batch), pool(units), pool(positions) or broadcast
    phase    where it happens: `task`, `after step`, `init`, or a phase of the rule
    term     the text of the term that needs it, in line `line`, column `column`
    """

    source: str
    sink: str
    channel: str
    phase: str
    place: SourceLocation
    term: str

    @property
    def line(self) -> int:
        """The line of the term, from 1."""
        return self.place.span.line

    @property
    def column(self) -> int:
        """The column of the term, from 1."""
        return self.place.span.column

    @property
    def flow(self) -> str:
        """`sign(W)`, `pool(batch)`, `broadcast(e)`: as a contract writes it."""
        return self.channel if self.channel.startswith("pool") else f"{self.channel}({self.source})"


Ledger = tuple[Entry, ...]


def verdict(ledger: Ledger) -> Verdict:
    """`nonlocal` when any entry transports what a weight is; pools and broadcasts alone leave a rule local."""
    return "nonlocal" if any(entry.channel in TRANSPORT for entry in ledger) else "local"


def trace_flow(equations: Equations) -> Ledger:
    """The transport ledger of a rule, in the order of phases and sinks."""
    flow = _Flow(equations)
    flow.iterate()
    entries: dict[tuple[str, str, str, str], Entry] = {}
    for equation in equations.equations:
        if equation.role == "drive":
            continue
        for (source, channel), mark in flow.labels_of(equation.value, equation.phase).items():
            if flow.is_own(source, channel, equation):
                continue
            place = mark.place or equation.place
            assert place is not None
            entry = Entry(source, equation.target, channel, equation.phase, place, place.snippet)
            entries.setdefault((source, channel, equation.target, equation.phase), entry)
    return tuple(entries.values())


class _Flow:
    """The labels of every node, and what every weight and state remembers."""

    def __init__(self, equations: Equations) -> None:
        self.equations = equations
        self.ordered = _sources_first(equations)
        self.content: dict[str, Labels] = {}
        self.first: dict[str, Labels] = {}  # what tensors hold before the first step
        self.driven: dict[str, Labels] = {}  # by phase: what the activity that drives it depends on
        self.memo: dict[
            tuple[str, int], Labels
        ] = {}  # by phase and node: in a driven phase `x` depends on other things

    def iterate(self) -> None:
        """Until nothing more is learned: labels only ever grow, and there are finitely many."""
        while True:
            before = self._known()
            self.memo = {}
            for equation in self.ordered:
                labels = self.labels_of(equation.value, equation.phase)
                if equation.role == "init":
                    self.first[equation.target] = labels
                if equation.role in ("grad", "assign", "init", "draw"):
                    self.content[equation.target] = join((self.content.get(equation.target, NOTHING), labels))
                elif equation.role == "drive":
                    self.driven[equation.phase] = join((self.driven.get(equation.phase, NOTHING), labels))
            if before == self._known():
                self.memo = {}
                return

    def _known(self) -> object:
        return [
            {name: {(key, mark.own) for key, mark in labels.items()} for name, labels in found.items()}
            for found in (self.content, self.first, self.driven)
        ]

    def labels_of(self, root: Node, phase: str) -> Labels:
        """Everything that the value of a node can depend on, in a phase."""
        for node in walk(root):
            if (phase, id(node)) not in self.memo:
                self.memo[phase, id(node)] = self._labels(node, phase)
        return self.memo[phase, id(root)]

    def _labels(self, node: Node, phase: str) -> Labels:
        if node.op == "tensor":
            return self._tensor(node, self.first if phase == INIT else self.content)
        if node.op == "signal":
            name, index = node.attrs
            if name in ("e", "target") or index:
                return label(f"{name}[{index}]" if index else str(name), BROADCAST, node.place)
            return self.driven.get(phase, NOTHING) if name == "x" else NOTHING
        if node.op in ("const", "scalar"):
            return NOTHING
        if node.op == "random":
            return join(self.memo[phase, id(arg)] for arg in node.args)
        return FLOW_RULES[OPERATIONS[node.op].flow](node, lambda arg: self.memo[phase, id(arg)])

    def _tensor(self, node: Node, content: dict[str, Labels]) -> Labels:
        """Reading a tensor where it lives: its own value and whatever it remembers."""
        name = str(node.attrs[0])
        mapped = node.type.kind in ("map", "parameter")
        remembered: dict[Key, Mark] = {
            key: Mark(mapped, mark.place)
            for key, mark in content.get(name, NOTHING).items()
            if key[0] != name and not (mark.own and self._own_constant(key, node.type))
        }
        if not mapped:
            return remembered
        return {(name, "value"): Mark(True, node.place), **remembered}

    def _own_constant(self, key: Key, site: Type) -> bool:
        """A synapse's own constants and its own noise are part of what it has become, not news from elsewhere."""
        declared = self.equations.tensors.get(key[0])
        constant = declared is not None and declared.kind in ("fixed", "fresh")
        return declared is not None and constant and declared.type == site and key[1] in ("value", "sign")

    def is_own(self, source: str, channel: str, equation: Equation) -> bool:
        """Whether a sink has the information anyway: a synapse its own maps, and the signals of its two neurons."""
        sink = self.equations.tensors[equation.target].type if equation.target in self.equations.tensors else None
        if sink is None or sink.kind == "scalar":
            return False
        mark = self.labels_of(equation.value, equation.phase)[(source, channel)]
        if channel == BROADCAST:
            return connected(source, sink)
        if channel not in ("value", "sign") or not mark.own:
            return False
        return self.equations.tensors[source].type == sink


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


def connected(source: str, sink: Type) -> bool:
    """Whether a broadcast signal ends at the neurons of the sink's own synapses."""
    spaces = {str(space) for space in (sink.source, sink.target) if space is not None}
    if source in ("e", "target"):
        return "out" in spaces
    return any(f"[{space.index}]" in source for space in (sink.source, sink.target) if space and space.index)


def reads_activity(equation: Equation) -> bool:
    """Whether the equation reads what the current batch evokes."""
    return any(node.op == "signal" for node in walk(equation.value))
