"""Contract: every flow that the ledger lists has to be allowed by the rule's `locality` block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ruledsl.analysis.names import SIGNALS, suggestion
from ruledsl.analysis.resolve import Located
from ruledsl.analysis.typed import TypedRule
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir.equations import Equations
from ruledsl.ir.phases import AFTER_STEP, INIT
from ruledsl.ir.types import AXES
from ruledsl.language import tree
from ruledsl.locality.flow import Entry, Flows
from ruledsl.locality.labels import BROADCAST, MODULATE, MULTIPLEX, TRANSPORT
from ruledsl.passes.indices import indices
from ruledsl.source import Source

MEANING = {
    "value": "the weights of {source} are read at other synapses than their own",
    "sign": "the signs of {source} are read at other synapses than their own",
    "norm": "the length of {source}, a number about all of its synapses, is known elsewhere",
    "stat": "a number about all of the synapses of {source} is known elsewhere",
    "reverse": "the synapses of {source} are used backwards",
    "multiplex": "an axon has to carry more than its one signal through {source} at a time",
    "pool(batch)": "each example would have to know {source} of the other examples in the batch",
    "pool(units)": "each neuron would have to know {source} of the other neurons in its layer",
    "pool(positions)": "each position would have to know {source} at other positions",
    "broadcast": "{source} comes from a layer far away, a number for each of its neurons",
    "modulate": "one number made of {source}, the same for every synapse, is broadcast like a neuromodulator",
}
"""What each channel asks of neurons and synapses, in one line."""
STRONGER = {"sign": ("value",), "norm": ("value",), "stat": ("value",), "modulate": ("broadcast",)}
"""The channels that tell all that a channel tells, and more."""


class Allowance(NamedTuple):
    """A clause of a `locality` block, with what it is about in the spelling of `Entry.flow`.

    constraint  the one whose own block it is from: it speaks for what this does, and for nothing else
    """

    clause: tree.Clause
    flow: str
    constraint: str | None = None

    def covers(self, entry: Entry) -> bool:
        """Whether it is about an entry."""
        sink = entry.sink
        if self.constraint is not None:
            own, prefix = entry.phase == f"{AFTER_STEP}: {self.constraint}", f"{self.constraint}_"
            if not own and not (entry.phase == INIT and sink.startswith(prefix)):
                return False
            sink = sink.removeprefix(prefix).rstrip("_")
        wanted = self.clause.sink.id if self.clause.sink else None
        return self.flow == entry.flow and wanted in (None, entry.sink, sink)


def check_contract(rule: TypedRule, equations: Equations, flows: Flows, diagnostics: Diagnostics) -> None:
    """Every entry allowed and none forbidden; an allowance that nothing needs is a warning."""
    blocks = rule.flat.of(tree.Locality)
    sinks = {e.target for e in equations.equations if e.role != "drive"}
    clauses, misspelt = _clauses(blocks, equations, diagnostics)
    misspelt += [a.clause for a in clauses if a.clause.sink and a.clause.sink.id not in sinks]
    forbidding = [a for a in clauses if a.clause.verb == "forbid"]
    allowing = [a for a in clauses if a.clause.verb == "allow"]
    spoken_for = list(_of_constraints(rule, equations))
    told: set[tuple[str, str]] = set()  # what happens twice, in two phases for example, needs one allowance
    needed: set[int] = set()
    for entry in flows.ledger:
        matching = [a for a in (*allowing, *spoken_for) if a.covers(entry)]
        needed |= {id(a.clause) for a in matching}
        key = (entry.flow, entry.sink)
        if _forbid(entry, forbidding, diagnostics) or key in told or entry.part:
            told.add(key)
            continue
        if not matching and not any(_meant(clause, entry) for clause in misspelt):
            allowance = f"allow {entry.flow} -> {entry.sink}"
            help = f"if the rule is meant to need this, say so: `locality {{ {allowance} }}`"
            values = {"channel": entry.flow, "sink": entry.sink, "why": why(entry)}
            diagnostics.add("E0501", entry.place.span, help=help, text=entry.place.text, **values)
        told.add(key)
    for entry in flows.held:
        if (entry.flow, entry.sink) not in told and _forbid(entry, forbidding, diagnostics, by_way_of_maps=True):
            told.add((entry.flow, entry.sink))
    for located in blocks:
        _report_needless(located, clauses, sinks, needed, rule, diagnostics)


def why(entry: Entry) -> str:
    """What an entry asks of neurons and synapses, in a line."""
    return f"{MEANING[entry.channel].format(source=_in_words(entry.source))}, in `{entry.term}`"


def _clauses(
    blocks: Iterable[Located], equations: Equations, diagnostics: Diagnostics
) -> tuple[list[Allowance], list[tree.Clause]]:
    clauses: list[Allowance] = []
    misspelt: list[tree.Clause] = []
    for located in blocks:
        assert isinstance(located.item, tree.Locality)
        for clause in located.item.clauses:
            if flow := _flow(clause, located, equations, diagnostics):
                clauses.append(Allowance(clause, flow))
            else:
                misspelt.append(clause)
    return clauses, misspelt


def allowances(rule: TypedRule, equations: Equations) -> list[Allowance]:
    """What a definition's own block allows."""
    clauses, _ = _clauses(rule.flat.of(tree.Locality), equations, Diagnostics(rule.flat.text))
    return [allowance for allowance in clauses if allowance.clause.verb == "allow"]


def _of_constraints(rule: TypedRule, equations: Equations) -> Iterator[Allowance]:
    """What constraints allow themselves, wherever they are used."""
    for constraint in rule.constraints:
        for allowance in allowances(constraint, equations):
            yield allowance._replace(constraint=constraint.flat.name)


def _forbid(
    entry: Entry, forbidding: Iterable[Allowance], diagnostics: Diagnostics, by_way_of_maps: bool = False
) -> bool:
    """Report an entry that a clause forbids, or that tells all that a clause forbids; whether there is one."""
    for allowance in forbidding:
        sink = allowance.clause.sink
        channel, _, source = allowance.flow.rstrip(")").partition("(")
        stronger = entry.channel in STRONGER.get(channel, ()) and entry.source == source
        if (allowance.flow == entry.flow or stronger) and (sink is None or sink.id == entry.sink):
            held = f"a map that {entry.sink} uses holds it: " if by_way_of_maps else ""
            values = {"channel": entry.flow, "sink": entry.sink, "why": held + why(entry)}
            diagnostics.add("E0502", entry.place.span, text=entry.place.text, **values)
            return True
    return False


def _report_needless(
    located: Located,
    clauses: list[Allowance],
    sinks: set[str],
    needed: set[int],
    rule: TypedRule,
    diagnostics: Diagnostics,
) -> None:
    assert isinstance(located.item, tree.Locality)
    own = {id(clause) for clause in located.item.clauses}
    for clause, flow, _ in clauses:
        if id(clause) not in own:
            continue
        if clause.sink and clause.sink.id not in sinks:
            help = suggestion(clause.sink.id, sinks) or f"one of {', '.join(sorted(sinks))}"
            diagnostics.add("E0506", clause.sink.span, help=help, text=located.text, name=clause.sink.id)
        elif clause.verb == "allow" and id(clause) not in needed and not _switchable(rule):
            flow += f" -> {clause.sink.id}" if clause.sink else ""
            diagnostics.add("W0503", clause.span, text=located.text, flow=flow)


def _switchable(rule: TypedRule) -> bool:
    """With static parameters, an allowance can be for another setting than the one at hand."""
    return any(parameter.static for parameter in rule.parameters.values())


def _meant(clause: tree.Clause, entry: Entry) -> bool:
    """Whether a clause with a mistake in it was meant for an entry: one message for it is enough."""
    channel, _, axis = entry.channel.rstrip(")").partition("(")
    alike = [clause.channel.id == channel, clause.argument.id in (axis, entry.source.partition("[")[0])]
    return clause.verb == "allow" and sum([*alike, clause.sink is None or clause.sink.id == entry.sink]) >= 2


def _in_words(source: str) -> str:
    return source if re.fullmatch(r"[\w\[\]]+", source) else f"`{source}`"


def _flow(clause: tree.Clause, located: Located, equations: Equations, diagnostics: Diagnostics) -> str | None:
    """What a clause is about, in the spelling of `Entry.flow`; None after reporting that it is about nothing."""
    flow, names = _as_written(clause, located, equations, diagnostics), indices(equations)
    return re.sub(r"\[\w+\]", f"[{names[0]}]", flow) if flow is not None and names else flow


def _as_written(clause: tree.Clause, located: Located, equations: Equations, diagnostics: Diagnostics) -> str | None:
    channel, argument, text = clause.channel.id, clause.argument, located.text
    name = _spelled(argument)
    if channel == MULTIPLEX:
        return _bundle(clause, text, diagnostics)
    if clause.towards is not None:
        name = f"{name} -> {_spelled(clause.towards)}"
    if channel == "pool":
        return _one_of(name, AXES, "an axis", channel, argument, text, diagnostics) and f"pool({name})"
    if channel in (BROADCAST, MODULATE):
        far = [f"delta[{argument.index}]"] if isinstance(argument, tree.Index) else []
        wanted = ("e", "target", *far)
        words = "`e`, `target` or `delta[k]`"
        return _one_of(name, wanted, words, channel, argument, text, diagnostics) and f"{channel}({name})"
    if channel in TRANSPORT:
        maps = tuple(n for n, d in equations.tensors.items() if d.type.kind in ("map", "parameter"))
        return _one_of(name, maps, "a map", channel, argument, text, diagnostics) and f"{channel}({argument.id})"
    known = (*TRANSPORT, MULTIPLEX, "pool", BROADCAST, MODULATE)
    help = suggestion(channel, known) or f"{', '.join(known[:-1])} or {known[-1]}"
    diagnostics.add("E0504", clause.channel.span, help=help, text=text, name=channel)
    return None


def _spelled(place: tree.Name | tree.Index) -> str:
    return place.id if isinstance(place, tree.Name) else f"{place.id}[{place.index}]"


def _bundle(clause: tree.Clause, text: Source, diagnostics: Diagnostics) -> str | None:
    spaces = [place for place in (clause.argument, clause.towards) if place is not None]
    if len(spaces) == 2 and all(place.id in ("pre", "post", "out") for place in spaces):
        return f"{MULTIPLEX}({' -> '.join(map(_spelled, spaces))})"
    name = " -> ".join(map(_spelled, spaces))
    values = {"channel": MULTIPLEX, "wanted": "a bundle of synapses", "name": name, "found": "not one"}
    help = "one of pre -> post, post -> pre, out -> pre, post[k] -> pre"
    diagnostics.add("E0505", clause.argument.span, help=help, text=text, **values)
    return None


def _one_of(
    name: str,
    wanted: tuple[str, ...],
    words: str,
    channel: str,
    argument: tree.Name | tree.Index,
    text: Source,
    diagnostics: Diagnostics,
) -> str | None:
    if name in wanted:
        return name
    found = "a signal" if name in SIGNALS else "not one"
    help = suggestion(name, wanted)
    if help is None and len(wanted) <= 6:
        help = f"one of {', '.join(wanted)}"
    values = {"channel": channel, "wanted": words, "name": name, "found": found}
    diagnostics.add("E0505", argument.span, help=help, text=text, **values)
    return None
