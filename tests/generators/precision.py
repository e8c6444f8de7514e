"""Does the ledger claim too much? Whether what it says can be seen, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ruledsl.ir.nodes import walk
from ruledsl.locality.flow import Entry
from ruledsl.locality.labels import BROADCAST, TRANSPORT
from ruledsl.rule import Rule
from ruledsl.verification.cases import reference_layer
from ruledsl.verification.geometries import Geometry
from ruledsl.verification.observed import Observer

ATTEMPTS = 8
Finding = Literal["seen", "hidden", "inherited", "unseen"]


@dataclass(frozen=True)
class Claim:
    """An entry of a ledger, and what became of it.

    seen       replacing the source changed the sink
    hidden     it did so once conditions, bounds and saturations let everything through (see `relaxed`): the values
               that were tried never took the way on which the flow is
    inherited  the sink keeps, or reads at its own site, a tensor that received the same by an entry of its own; a run
               in which that is held still cannot show it again
    unseen     none of these: the ledger claims too much
    """

    entry: Entry
    finding: Finding


def claims(rule: Rule, geometries: tuple[Geometry, ...], seed: int = 0) -> Iterator[Claim]:
    """What becomes of every entry that is no pool, in at most `ATTEMPTS` runs with other values and sizes each."""
    left = [entry for entry in rule.ledger if entry.channel in (*TRANSPORT, BROADCAST)]
    found: dict[Finding, list[Entry]] = {"seen": [], "hidden": []}
    for finding, relax in (("seen", False), ("hidden", True)):
        for attempt in range(ATTEMPTS if left else 0):
            layer = reference_layer(geometries[(seed + attempt) % len(geometries)])
            options = {"vary": attempt > 0, "relax": relax}
            observer = Observer(rule.equations, rule.ledger, layer, seed + 1000 * attempt, **options)
            now = [entry for entry in left if observer.observed(entry, attempt)]
            found[finding] += now  # type: ignore[index]
            left = [entry for entry in left if entry not in now]
    for finding, entries in found.items():
        yield from (Claim(entry, finding) for entry in entries)
    known = [*found["seen"], *found["hidden"]]
    for entry in left:
        yield Claim(entry, "inherited" if _inherited(rule, entry, known) else "unseen")


def _inherited(rule: Rule, entry: Entry, known: list[Entry]) -> bool:
    tensors = rule.equations.tensors
    if entry.sink not in tensors:
        return False
    beside = {
        str(node.attrs[0])
        for equation in rule.equations.equations
        if equation.target == entry.sink
        for node in walk(equation.value)
        if node.op == "tensor" and node.type == tensors[entry.sink].type
    } | {entry.sink}
    return any((e.source, e.channel) == (entry.source, entry.channel) and e.sink in beside for e in known)
