"""Labels of the information flow: which (source, channel) pairs a value can depend on.

A value's labels are a dictionary from (source, channel) to a `Mark`. `own` marks what a map holds at the place
where its synapses are: applying the map forwards leaves it there (transmission), reading the map at another site
carries it along (transport).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ruledsl.source import SourceLocation

TRANSPORT = ("value", "sign", "norm", "reverse")
POOLS = ("pool(batch)", "pool(units)", "pool(positions)")
BROADCAST = "broadcast"
CHANNELS = (*TRANSPORT, *POOLS, BROADCAST)


class Mark(NamedTuple):
    """Where a label was first picked up, and whether it is still at its own synapse."""

    own: bool
    place: SourceLocation | None


Key = tuple[str, str]
Labels = Mapping[Key, Mark]
NOTHING: Labels = {}


def join(parts: Iterable[Labels]) -> Labels:
    """Everything that any part depends on; what one part carries from elsewhere is no longer its own."""
    result: dict[Key, Mark] = {}
    for labels in parts:
        for key, mark in labels.items():
            old = result.get(key)
            result[key] = mark if old is None or (old.own and not mark.own) else old
    return result


def moved(labels: Labels, place: SourceLocation | None) -> Labels:
    """Read at another site: nothing is its own any more. The place is where it was moved."""
    return {key: Mark(False, place if mark.own else mark.place) for key, mark in labels.items()}


def carried(labels: Labels) -> Labels:
    """What leaves a synapse with a transmitted signal: all but its own state."""
    return {key: mark for key, mark in labels.items() if not mark.own}


def statistic(labels: Labels, place: SourceLocation | None) -> Labels:
    """One number of a map: `value` and `sign` weaken to `norm`, and it is known to the whole layer."""
    return join(
        {(source, "norm" if channel in ("value", "sign") else channel): Mark(False, place or mark.place)}
        for (source, channel), mark in labels.items()
    )


def sign_only(labels: Labels, name: str, place: SourceLocation | None) -> Labels:
    """The sign of the map `name`: its own `value` weakens to `sign`, what it remembers of others stays what it is."""
    return join(
        {(name, "sign"): Mark(mark.own, place or mark.place)} if key == (name, "value") else {key: mark}
        for key, mark in labels.items()
    )


def label(source: str, channel: str, place: SourceLocation | None, own: bool = False) -> Labels:
    """A single label."""
    return {(source, channel): Mark(own, place)}
