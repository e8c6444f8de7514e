"""Contract: every flow that the ledger lists has to be allowed by the rule's `locality` block."""

from __future__ import annotations

import re

from ruledsl.analysis.names import SIGNALS, suggestion
from ruledsl.analysis.resolve import Located
from ruledsl.analysis.typed import TypedRule
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir.equations import Equations
from ruledsl.ir.types import AXES
from ruledsl.language import tree
from ruledsl.locality.flow import Entry, Ledger
from ruledsl.locality.labels import BROADCAST, TRANSPORT
from ruledsl.source import Source

_WHY = {
    "value": "the weights of {source} are read at other synapses than their own, in `{term}`",
    "sign": "the signs of {source} are read at other synapses than their own, in `{term}`",
    "norm": "a number about all of {source} reaches every synapse, in `{term}`",
    "reverse": "the synapses of {source} are used backwards, in `{term}`",
    "pool(batch)": "the activity {source} is averaged over the batch, in `{term}`",
    "pool(units)": "the activity {source} is averaged over the layer, in `{term}`",
    "pool(positions)": "the activity {source} is averaged over positions, in `{term}`",
    "broadcast": "{source} comes from a layer that these synapses are not connected to, in `{term}`",
}


def check_contract(rule: TypedRule, equations: Equations, ledger: Ledger, diagnostics: Diagnostics) -> None:
    """Every entry allowed and none forbidden; an allowance that nothing needs is a warning."""
    blocks = rule.flat.of(tree.Locality)
    clauses: list[tuple[tree.Clause, str]] = []
    misspelt: list[tree.Clause] = []
    needed: set[int] = set()
    for located in blocks:
        assert isinstance(located.item, tree.Locality)
        for clause in located.item.clauses:
            if flow := _flow(clause, located, equations, diagnostics):
                clauses.append((clause, flow))
            else:
                misspelt.append(clause)
    sinks = {e.target for e in equations.equations if e.role != "drive"}
    misspelt += [clause for clause, _ in clauses if clause.sink and clause.sink.id not in sinks]
    told: set[tuple[str, str]] = set()  # what happens twice, in two phases for example, needs one allowance
    for entry in ledger:
        why = _WHY[entry.channel].format(source=_in_words(entry.source), term=entry.term)
        matching = [c for c, flow in clauses if flow == entry.flow and (c.sink is None or c.sink.id == entry.sink)]
        place = entry.place
        for clause in matching:
            needed.add(id(clause))
            if clause.verb == "forbid" and (entry.flow, entry.sink) not in told:
                values = {"channel": entry.flow, "sink": entry.sink, "why": why}
                diagnostics.add("E0502", place.span, text=place.text, **values)
        excused = any(_meant(clause, entry) for clause in misspelt)
        if not matching and not excused and (entry.flow, entry.sink) not in told:
            allowance = f"allow {entry.flow} -> {entry.sink}"
            help = f"if the rule is meant to need this, say so: `locality {{ {allowance} }}`"
            values = {"channel": entry.flow, "sink": entry.sink, "why": why}
            diagnostics.add("E0501", place.span, help=help, text=place.text, **values)
        told.add((entry.flow, entry.sink))
    for located in blocks:
        assert isinstance(located.item, tree.Locality)
        own = {id(clause) for clause in located.item.clauses}
        for clause, flow in clauses:
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
    channel, argument, text = clause.channel.id, clause.argument, located.text
    name = argument.id if isinstance(argument, tree.Name) else f"{argument.id}[{argument.index}]"
    if channel == "pool":
        return _one_of(name, AXES, "an axis", channel, argument, text, diagnostics) and f"pool({name})"
    if channel == BROADCAST:
        far = [f"delta[{argument.index}]"] if isinstance(argument, tree.Index) else []
        wanted = ("e", "target", *far)
        words = "`e`, `target` or `delta[k]`"
        return _one_of(name, wanted, words, channel, argument, text, diagnostics) and f"broadcast({name})"
    if channel in TRANSPORT:
        maps = tuple(n for n, d in equations.tensors.items() if d.type.kind in ("map", "parameter"))
        return _one_of(name, maps, "a map", channel, argument, text, diagnostics) and f"{channel}({argument.id})"
    help = suggestion(channel, (*TRANSPORT, "pool", BROADCAST)) or "value, sign, norm, reverse, pool or broadcast"
    diagnostics.add("E0504", clause.channel.span, help=help, text=text, name=channel)
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
