"""Lower: from typed statements to equations, with everything that the author could leave out written in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ruledsl.analysis.initial_order import initial_order
from ruledsl.analysis.names import FORWARD, RESERVED, SIGNALS
from ruledsl.analysis.typed import TypedPhase, TypedRule, Update
from ruledsl.ir import nodes
from ruledsl.ir.equations import Declaration, Energy, Equation, Equations
from ruledsl.ir.nodes import Node, rewrite, with_args
from ruledsl.ir.operations import make
from ruledsl.ir.phases import AFTER_STEP, INIT, TASK, Schedule
from ruledsl.ir.types import PARAMETER, POST, PRE, Type
from ruledsl.language import tree
from ruledsl.source import SourceLocation


def lower(rule: TypedRule) -> Equations:
    """The equations of a rule, energies not yet differentiated."""
    kind = rule.flat.definition.kind
    tensors = _tensors(rule, kind)
    equations = [*_initial(rule)]
    energies: list[Energy] = []
    driven = frozenset(name for name, phase in rule.phases.items() if phase.drives)
    for phase in rule.phases.values():
        found, descended = _phase(phase, kind, tensors)
        if phase.drives:
            found = [e.with_value(_driven(e.value)) for e in found]
            descended = [replace(e, value=_driven(e.value)) for e in descended]
        equations += found
        energies += descended
    parameters = {p.name: p.value for p in rule.parameters.values() if not p.static}
    documentation = {p.name: p.doc for p in rule.parameters.values() if p.doc}
    for constraint in rule.constraints:
        inlined = _inlined(lower(constraint), {*tensors, *parameters})
        tensors.update({name: d for name, d in inlined.tensors.items() if d.kind != "forward"})
        parameters.update(inlined.parameters)
        documentation.update(inlined.documentation)
        equations += inlined.equations
    equations = [e.with_value(_without_y(e.value)) for e in equations]
    energies = [replace(e, value=_without_y(e.value)) for e in energies]
    sources = [located.item.text for located in rule.flat.of(tree.Source) if isinstance(located.item, tree.Source)]
    return Equations(
        kind,
        rule.flat.name,
        rule.flat.definition.title,
        sources[-1] if sources else None,
        tensors,
        parameters,
        documentation,
        tuple(equations),
        tuple(energies),
        _schedule(rule),
        rule.optimizers,
        driven,
    )


def _tensors(rule: TypedRule, kind: str) -> dict[str, Declaration]:
    tensors: dict[str, Declaration] = {}
    if kind == "optimizer":
        tensors["p"] = Declaration("p", "forward", PARAMETER)
    else:
        tensors.update({name: Declaration(name, "forward", type) for name, type in FORWARD.items()})
    for d in rule.declared.values():
        tensors[d.name] = Declaration(d.name, d.kind, d.type, d.doc, d.place)
    return tensors


def _initial(rule: TypedRule) -> Iterable[Equation]:
    for d in initial_order(rule.declared)[0]:
        role, phase = ("draw", TASK) if d.kind == "fresh" else ("init", INIT)
        yield Equation(role, d.name, phase, _explicit(d.initial), d.place)  # type: ignore[arg-type]


def _explicit(initial: Node) -> Node:
    """`xavier()` and `kaiming()` as normal distributions, by the synapses that end on and start from a neuron."""
    kind = initial.attrs[0] if initial.op == "random" else None
    if kind not in ("xavier", "kaiming"):
        return initial
    sources, targets = nodes.scalar("sources"), nodes.scalar("targets")
    if initial.type.source == PRE and initial.type.target == POST:
        sources, targets = nodes.scalar("fan_in"), nodes.scalar("fan_out")
    elif initial.type.source == POST and initial.type.target == PRE:
        sources, targets = nodes.scalar("fan_out"), nodes.scalar("fan_in")
    size = sources if kind == "kaiming" else make("add", sources, targets)
    std = make("sqrt", make("div", 2.0, size))
    return replace(initial, attrs=("normal",), args=(nodes.const(0.0), std))


def _phase(phase: TypedPhase, kind: str, tensors: dict[str, Declaration]) -> tuple[list[Equation], list[Energy]]:
    equations: list[Equation] = []
    energies: list[Energy] = []
    for name, value in phase.drives.items():
        equations.append(Equation("drive", name, phase.name, value, value.place))
    if kind == "rule" and phase.name == TASK:
        default = make(
            "apply", make("transpose", nodes.tensor("W", FORWARD["W"])), nodes.signal("delta", SIGNALS["delta"])
        )
        unwritten = SourceLocation(phase.place.span, phase.place.text, "W.T @ delta")
        default.place = default.args[0].place = unwritten
        sent = default
        for condition, value in sorted(phase.sends, key=lambda pair: pair[0] is not None):
            sent = value if condition is None else make("where", condition, value, sent)
        place = phase.sends[-1][1].place if phase.sends else unwritten
        equations.append(Equation("send", "send", TASK, _spread_out(sent, nodes.signal("x", SIGNALS["x"])), place))
    for update in phase.updates:
        if update.kind == "minimize":
            value = update.value if update.condition is None else make("where", update.condition, update.value, 0.0)
            if FORWARD.keys() & set(update.targets):
                value = _driven(value)  # `u` follows from the weights that this energy moves
            energies.append(Energy(update.targets, phase.name, value, update.place, update.optimizer, update.places))
    targets = dict.fromkeys((u.kind, u.targets[0], u.optimizer) for u in phase.updates if u.kind != "minimize")
    assigned = {u.targets[0] for u in phase.updates if u.kind == "assign"}
    if kind == "rule" and phase.name == TASK:
        for name in FORWARD:
            if name not in assigned:
                targets.setdefault(("grad", name, TASK))
    for role, target, optimizer in targets:
        own = [u for u in phase.updates if (u.kind, u.targets[0], u.optimizer) == (role, target, optimizer)]
        equations.append(_update(role, target, optimizer, own, phase, tensors[target].type))
    return equations, energies


def _update(role: str, target: str, optimizer: str, own: list[Update], phase: TypedPhase, type: Type) -> Equation:
    tensor = nodes.tensor(target, type)
    value: Node | None = None
    for update in sorted(own, key=lambda u: u.condition is not None):
        if update.condition is None:
            value = update.value
        else:
            before = value if value is not None else _otherwise(role, target, optimizer, phase, tensor)
            value = make("where", update.condition, update.value, before)
            value.place = update.place
    if value is None:
        value = _otherwise(role, target, optimizer, phase, tensor)
    place = own[-1].place if own else phase.place
    return Equation(role, target, phase.name, _spread_out(value, tensor), place, optimizer)  # type: ignore[arg-type]


def _otherwise(role: str, target: str, optimizer: str, phase: TypedPhase, tensor: Node) -> Node:
    """What holds where the author said nothing: no change, or the gradient of the loss for W and b."""
    delta, x = nodes.signal("delta", SIGNALS["delta"]), nodes.signal("x", SIGNALS["x"])
    if role == "assign":
        return tensor
    if phase.name == TASK and optimizer == TASK and target in FORWARD:
        return make("outer", delta, x, attrs=(None,)) if target == "W" else make("total", delta)
    return make("full_like", tensor, 0.0)


def _spread_out(value: Node, like: Node) -> Node:
    """A scalar (or an average with fewer axes) where a vector or map is wanted stands for it everywhere."""
    if value.type.kind == "scalar" and like.type.kind != "scalar":
        return make("full_like", like, value)
    if value.type.kind == "vector" and not like.type.axes <= value.type.axes:
        return make("mul", make("full_like", like, 1.0), value)
    return value


def _without_y(root: Node) -> Node:
    """`y` is `phi(u)`."""

    def rule(node: Node, args: tuple[Node, ...]) -> Node:
        if node.op == "signal" and node.attrs[0] == "y":
            result = make("phi", nodes.signal("u", SIGNALS["u"], place=node.place))
            result.place = node.place
            return result
        return with_args(node, args)

    return rewrite(root, rule)


def _driven(root: Node) -> Node:
    """`u` as it follows from `x`: in a driven phase nothing propagates, and every layer computes it by itself."""

    def rule(node: Node, args: tuple[Node, ...]) -> Node:
        if node.op == "signal" and node.attrs[0] in ("u", "y"):
            x = nodes.signal("x", SIGNALS["x"], place=node.place)
            u = make("add", make("apply", nodes.tensor("W", FORWARD["W"]), x), nodes.tensor("b", FORWARD["b"]))
            u.place = node.place
            return u if node.attrs[0] == "u" else make("phi", u)
        return with_args(node, args)

    return rewrite(root, rule)


def _inlined(equations: Equations, taken: set[str]) -> Equations:
    """A constraint inside a rule: its own names get its name in front, and it acts after the step, after the rule."""
    own = [name for name, d in equations.tensors.items() if d.kind != "forward"] + list(equations.parameters)
    new: dict[str, str] = {}
    for name in own:
        new[name] = f"{equations.name}_{name}"
        while new[name] in {*taken, *RESERVED} or list(new.values()).count(new[name]) > 1:
            new[name] += "_"

    def rule(node: Node, args: tuple[Node, ...]) -> Node:
        if node.op in ("tensor", "scalar") and node.attrs[0] in new:
            return replace(node, attrs=(new[str(node.attrs[0])], *node.attrs[1:]))
        return with_args(node, args)

    def phase(name: str) -> str:
        return name if name == INIT else f"{AFTER_STEP}: {equations.name}"

    return replace(
        equations,
        tensors={new.get(n, n): replace(d, name=new.get(n, n)) for n, d in equations.tensors.items()},
        parameters={new[n]: value for n, value in equations.parameters.items()},
        documentation={new[n]: doc for n, doc in equations.documentation.items() if n in new},
        equations=tuple(
            replace(e, target=new.get(e.target, e.target), phase=phase(e.phase), value=rewrite(e.value, rule))
            for e in equations.equations
        ),
    )


def _schedule(rule: TypedRule) -> Schedule:
    if rule.schedule is None:
        return Schedule()
    first: list[tuple[float, tuple[str, ...]]] = []
    each: tuple[str, ...] = ()
    alternate: tuple[str, ...] = ()
    for number, entry in enumerate(rule.schedule.entries):
        phases = tuple(ident.id for ident in entry.phases)
        if isinstance(entry, tree.First):
            first.append((rule.schedule_counts[number], phases))
        elif isinstance(entry, tree.Each):
            each = phases
        else:
            alternate = phases
    return Schedule(tuple(first), each or (() if alternate else (TASK,)), alternate)
