"""A rule explained: its equations as they are computed, what moves between synapses, and what a step costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from ruledsl.analysis.typed import Update
from ruledsl.explain.cost import Cost, LayerSize, backprop_cost, phase_cost, step_cost
from ruledsl.explain.latex import latex, name
from ruledsl.explain.readable import named, readable
from ruledsl.explain.traffic import bits_per_update
from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node
from ruledsl.ir.printer import number, show
from ruledsl.locality.flow import Ledger
from ruledsl.passes.accumulation import accumulation, follows
from ruledsl.program import AFTER_STEP, TASK
from ruledsl.rule import Rule

if TYPE_CHECKING:
    from ruledsl.architectures import Architecture

BATCH = 32
_SIGNS = {"assign": "<-", "drive": "~"}


@dataclass(frozen=True)
class Line:
    """One equation: what it gives, and the value in the language's notation and in LaTeX.

    role      send, grad, assign or drive, or `where` for a named value
    relation  `=`, or `<-` for a value that is stored, or `~` for a draw
    summed    the value is summed over the batch and over positions
    receiver  the optimizer that a pseudo-gradient goes to
    line      in the file
    """

    role: str
    target: str
    relation: str
    value: str
    latex: str
    summed: bool = False
    receiver: str | None = None
    line: int | None = None

    @property
    def left(self) -> str:
        """The left-hand side."""
        return f"grad {self.target}" if self.role == "grad" else self.target

    @property
    def left_latex(self) -> str:
        """The left-hand side in LaTeX."""
        if self.role == "send":
            return r"\mathrm{send}"
        return rf"\operatorname{{grad}} {name(self.target)}" if self.role == "grad" else name(self.target)


@dataclass(frozen=True)
class Kept:
    """Something that every layer keeps: a weight, fixed, fresh or state, and how it begins."""

    kind: str
    name: str
    type: str
    relation: str
    initial: str
    latex: str
    doc: str | None


@dataclass(frozen=True)
class Setting:
    """A parameter of the rule."""

    name: str
    value: float | bool
    interval: str | None
    static: bool
    doc: str | None


@dataclass(frozen=True)
class Energy:
    """`minimize value over targets by optimizer`, as it was written, and the names in it."""

    targets: tuple[str, ...]
    optimizer: str
    value: str
    latex: str
    where: tuple[Line, ...]


@dataclass(frozen=True)
class Phase:
    """The equations of a phase, the names in them, and the energies that some of them were derived from."""

    name: str
    driven: bool
    energies: tuple[Energy, ...]
    equations: tuple[Line, ...]
    where: tuple[Line, ...]

    @property
    def new_names(self) -> list[Line]:
        """The names that the energies have not explained already."""
        known = {(line.target, line.value) for energy in self.energies for line in energy.where}
        return [line for line in self.where if (line.target, line.value) not in known]


@dataclass(frozen=True)
class InLoop:
    """How a result of a pass takes what loops do: scale the loss, collect micro-batches, average over replicas.

    scales   whether it scales with the loss
    adds     whether it adds up over micro-batches
    once     what of it counts once for each step of an optimizer, however many passes led to it; or None
    """

    target: str
    phase: str
    scales: bool
    adds: bool
    once: str | None = None

    @property
    def linear(self) -> bool:
        """Whether it is linear in the errors."""
        return self.scales and self.adds


@dataclass(frozen=True)
class Expense:
    """A phase (or the average step) of a network, beside the same step by backprop."""

    phase: str
    cost: Cost
    relative_multiply_adds: float
    relative_bytes: float
    relative_time: float


@dataclass(frozen=True)
class Explanation:
    """Everything that `ruledsl explain` shows. `bits` (one per ledger entry) and `expenses` need a network."""

    rule: Rule
    settings: tuple[Setting, ...]
    kept: tuple[Kept, ...]
    phases: tuple[Phase, ...]
    schedule: str | None
    network: str | None = None
    batch: int = BATCH
    bits: tuple[int, ...] = ()
    expenses: tuple[Expense, ...] = ()
    loop: tuple[InLoop, ...] = ()

    @property
    def ledger(self) -> Ledger:
        """The transport ledger of the rule."""
        return self.rule.ledger

    def as_json(self) -> dict[str, Any]:
        """The explanation as plain values, for `--json`."""
        rule = self.rule
        entries = [
            {"source": e.source, "sink": e.sink, "channel": e.channel, "phase": e.phase, "line": e.line}
            | {"column": e.column, "term": e.term, "count": e.count, "bits": bits}
            for e, bits in zip(self.ledger, self.bits or [None] * len(self.ledger), strict=True)
        ]
        cost = {"network": self.network, "batch": self.batch, "phases": [_expense(e) for e in self.expenses]}
        return {
            "name": rule.name,
            "kind": rule.kind,
            "title": rule.title,
            "source": rule.source,
            "verdict": rule.verdict,
            "parameters": [asdict(setting) for setting in self.settings],
            "tensors": [asdict(kept) for kept in self.kept],
            "phases": [asdict(phase) for phase in self.phases],
            "schedule": self.schedule,
            "ledger": entries,
            "loop": [asdict(each) for each in self.loop],
            "cost": cost if self.network else None,
        }


def explain(rule: Rule, architecture: Architecture | None = None, batch: int = BATCH) -> Explanation:
    """Explain a rule; with an architecture, also the bits that move per update and the cost of a step."""
    equations = rule.equations
    phases = tuple(_phase(rule, phase) for phase in equations.phases)
    plain = Explanation(
        rule, _settings(rule), tuple(_kept(equations)), phases, _schedule(equations), loop=tuple(_in_loop(equations))
    )
    if architecture is None:
        return plain
    layers = layer_sizes(architecture)
    bits = tuple(bits_per_update(equations, entry, layers) for entry in rule.ledger)
    expenses = tuple(_expenses(equations, layers, batch))
    return replace(plain, network=architecture.name, batch=batch, bits=bits, expenses=expenses)


def layer_sizes(architecture: Architecture) -> tuple[LayerSize, ...]:
    """The weight layers of a network, in the order of the computation."""
    places = architecture.weight_layers()
    sizes: list[LayerSize] = []
    for place in reversed(places):
        before, after = place.input_shape, place.output_shape
        window = getattr(place.layer, "kernel_size", (1, 1))
        synapses = after[0] * before[0] // getattr(place.layer, "groups", 1) * prod(window)
        sizes.append(
            LayerSize(
                place.path,
                synapses,
                synapses * prod(after[1:]),
                prod(before),
                prod(after),
                before[0],
                after[0],
                architecture.classes,
                tuple(size.post for size in reversed(sizes)),
                place is not places[0],
            )
        )
    return tuple(reversed(sizes))


def _expenses(equations: Equations, layers: tuple[LayerSize, ...], batch: int) -> Iterable[Expense]:
    backprop = backprop_cost(layers, batch)
    if equations.kind == "rule":
        costs = step_cost(equations, layers, batch)
        if len(costs) == 2:
            costs = {"step": costs["step"]}
    else:  # an optimizer or a constraint comes on top of a step
        costs = {phase: phase_cost(equations, phase, layers, batch) for phase in equations.phases}
    for phase, cost in costs.items():
        adds, moved = cost.multiply_adds / backprop.multiply_adds, cost.bytes / backprop.bytes
        yield Expense(phase, cost, adds, moved, cost.time / backprop.time)


def _expense(expense: Expense) -> dict[str, Any]:
    return {
        "phase": expense.phase,
        **asdict(expense.cost),
        "relative_multiply_adds": round(expense.relative_multiply_adds, 4),
        "relative_bytes": round(expense.relative_bytes, 4),
        "relative_time": round(expense.relative_time, 4),
    }


# --- equations ---------------------------------------------------------------------------------------------


def _settings(rule: Rule) -> tuple[Setting, ...]:
    typed = rule.checked.typed
    assert typed is not None
    own = [
        Setting(p.name, p.value, str(p.interval) if p.interval else None, p.static, p.doc)
        for p in typed.parameters.values()
    ]
    named = {setting.name for setting in own}
    inherited = [
        Setting(n, value, None, False, rule.equations.documentation.get(n))
        for n, value in rule.equations.parameters.items()
        if n not in named
    ]
    return (*own, *inherited)


def _kept(equations: Equations) -> Iterable[Kept]:
    first = {e.target: e for e in equations.of("init", "draw")}
    for declaration in equations.tensors.values():
        if declaration.kind == "forward":
            continue
        value = first[declaration.name].value
        relation = "~" if value.op == "random" else "="
        shown, formula = show(value, names=False), latex(value, names=False)
        kind, type = str(declaration.kind), str(declaration.type)
        yield Kept(kind, declaration.name, type, relation, shown, formula, declaration.doc)


def _phase(rule: Rule, phase: str) -> Phase:
    """The equations of a phase. A named value stands as its name, and is explained below, once."""
    found = [e for e in rule.equations.equations if e.phase == phase and e.role != "draw"]
    taken = frozenset((*rule.equations.tensors, *rule.equations.parameters))
    values = readable([e.value for e in found], taken)
    lines = [_line(equation, value) for equation, value in zip(found, values, strict=True)]
    typed = rule.checked.typed
    updates = typed.phases[phase].updates if typed and phase in typed.phases else []
    energies = [_energy(update) for update in updates if update.kind == "minimize"]
    where = [_where(node) for node in named(values)]
    return Phase(phase, phase in rule.equations.driven, tuple(energies), tuple(lines), tuple(where))


def _line(equation: Equation, value: Node) -> Line:
    receiver = equation.optimizer if equation.role == "grad" else None
    line = equation.place.span.line if equation.place else None
    relation = _SIGNS.get(equation.role, "=")
    summed = value.op == "total" and value.name is None
    shown = show(value.args[0] if summed else value)
    return Line(equation.role, equation.target, relation, shown, latex(value), summed, receiver, line)


def _where(node: Node) -> Line:
    value = replace(node, name=None)
    assert node.name is not None
    line = node.place.span.line if node.place else None
    return Line("where", node.name, "=", show(value), latex(value), line=line)


def _energy(update: Update) -> Energy:
    value = replace(update.value, name=None)
    where = tuple(_where(node) for node in named([value]))
    return Energy(update.targets, update.optimizer, show(value), latex(value), where)


def _in_loop(equations: Equations) -> Iterable[InLoop]:
    for equation in equations.of("send", "grad", "assign") if equations.kind == "rule" else ():
        if equation.phase in equations.driven or equation.phase.startswith(AFTER_STEP):
            continue
        once = None
        if equation.role == "grad":
            stages = accumulation(equation.value)
            counted = stages.once or stages.value
            once = None if counted is None else show(counted)
        target = "send" if equation.role == "send" else equation.target
        yield InLoop(target, equation.phase, *follows(equation), once)


def _schedule(equations: Equations) -> str | None:
    schedule = equations.schedule
    parts = []
    for epochs, phases in (entry for entry in schedule.first if entry[0]):
        length = "epoch" if epochs == 1 else f"{number(epochs)} epochs"
        parts.append(f"for the first {length} {', '.join(phases)}")
    if schedule.alternate:
        parts.append(f"in turn, one in each step: {', '.join(schedule.alternate)}")
    elif parts or schedule.each != (TASK,):
        parts.append(f"in each step {', '.join(schedule.each)}")
    return "; then ".join(parts) or None
