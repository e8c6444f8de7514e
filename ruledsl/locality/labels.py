"""Labels of the information flow: which (source, channel) pairs a value can depend on.

A value's labels are a dictionary from (source, channel) to a `Mark`. They are of two kinds. Labels of *weights* say
what is known of a map; `own` marks what a map holds at the place where its synapses are: applying the map forwards
leaves it there (transmission), reading the map at another site carries it along (transport). Labels of *activity* say
from where it came that is no neighbour; transmission keeps them.

Two more channels are no entries of a ledger: `over(batch)` and `over(positions)` mark what was accumulated over an
axis. A synapse or a neuron may keep that as its memory. Where it comes back to a single example, or to a single
position, it becomes `pool(batch)` or `pool(positions)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ruledsl.ir.types import AXES
from ruledsl.source import SourceLocation

TRANSPORT = ("value", "sign", "norm", "stat", "reverse")
POOLS = tuple(f"pool({axis})" for axis in AXES)
BROADCAST, MODULATE, MULTIPLEX = "broadcast", "modulate", "multiplex"
CHANNELS = (*TRANSPORT, MULTIPLEX, *POOLS, BROADCAST, MODULATE)
ACCUMULATED = {f"over({axis})": f"pool({axis})" for axis in ("batch", "positions")}
"""What becomes of an accumulation that returns to where it was accumulated from."""


class Mark(NamedTuple):
    """Where a label was first picked up, whether it is still at its own synapse, and how many numbers it stands for.

    parts   what was read, as ids of nodes: five different `dot(W, V)` are five numbers
    phases  of a sign, where it was taken: what a synapse kept of another phase tells of another threshold
    """

    own: bool
    place: SourceLocation | None
    parts: frozenset[int] = frozenset()
    phases: frozenset[str] = frozenset()


Key = tuple[str, str]
Labels = Mapping[Key, Mark]
NOTHING: Labels = {}


def join(parts: Iterable[Labels]) -> Labels:
    """Everything that any part depends on; what one part carries from elsewhere is no longer its own."""
    result: dict[Key, Mark] = {}
    for labels in parts:
        for key, mark in labels.items():
            old = result.get(key)
            if old is None or old == mark:
                result[key] = mark
            else:
                first = mark if old.own and not mark.own else old
                result[key] = first._replace(parts=old.parts | mark.parts, phases=old.phases | mark.phases)
    return result


def moved(labels: Labels, place: SourceLocation | None) -> Labels:
    """Read at another site: nothing is its own any more. The place is where it was moved."""
    return {key: mark._replace(own=False, place=place if mark.own else mark.place) for key, mark in labels.items()}


def carried(labels: Labels) -> Labels:
    """What leaves a synapse with a transmitted signal: all but its own state."""
    return {key: mark for key, mark in labels.items() if not mark.own}


def returned(labels: Labels, axes: Iterable[str]) -> Labels:
    """What was accumulated over these axes is back at a single place of them: it was pooled."""
    back = {f"over({axis})" for axis in axes}
    if not any(channel in back for _, channel in labels):
        return labels
    return join(
        {(source, ACCUMULATED[channel] if channel in back else channel): mark}
        for (source, channel), mark in labels.items()
    )


def sign_only(labels: Labels, name: str, place: SourceLocation | None, phase: str) -> Labels:
    """The sign of the map `name`: its own `value` weakens to `sign`, what it remembers of others stays what it is."""
    return join(
        {(name, "sign"): mark._replace(place=place or mark.place, phases=frozenset((phase,)))}
        if key == (name, "value")
        else {key: mark}
        for key, mark in labels.items()
    )


def modulating(labels: Labels, place: SourceLocation | None, part: int) -> Labels:
    """Broadcast vectors summed over their units: one number each."""
    return join(
        {(source, MODULATE): Mark(False, place or mark.place, frozenset((part,)))}
        if channel == BROADCAST
        else {(source, channel): mark}
        for (source, channel), mark in labels.items()
    )


def label(
    source: str, channel: str, place: SourceLocation | None, own: bool = False, part: int | None = None
) -> Labels:
    """A single label."""
    return {(source, channel): Mark(own, place, frozenset(() if part is None else (part,)))}
