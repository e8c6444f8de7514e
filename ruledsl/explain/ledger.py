"""The transport ledger of a rule in words, as several commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ruledsl.explain.terminal import table, visible
from ruledsl.locality.flow import Entry, Ledger

LONGEST_SOURCE, LONGEST_TERM = 24, 60


def in_short(ledger: Ledger) -> str:
    """`norm(W), sign(W) -> send; pool(batch) -> B`"""
    flows: dict[str, dict[str, None]] = {}
    for entry in ledger:
        flows.setdefault(entry.sink, {})[entry.flow] = None
    return "; ".join(f"{', '.join(sorted(found))} -> {sink}" for sink, found in flows.items())


def as_table(ledger: Ledger, file: str, bits: Sequence[int] = ()) -> str:
    """A line for every entry: what moves where, and the term that needs it. `file` is where the rule stands."""
    titles = ("source", "channel", "sink", "phase", "line", "bits/update", "term")
    others = list(dict.fromkeys(entry.place.text.name for entry in ledger if entry.place.text.name != file))
    marks = {name: "*" * number for number, name in enumerate(others, start=1)}
    rows = []
    for number, entry in enumerate(ledger):
        line = f"{entry.line}{marks.get(entry.place.text.name, '')}"
        moved = quantity(bits[number]) if bits else ""
        source, term = short(entry.source, LONGEST_SOURCE), short(entry.term, LONGEST_TERM)
        rows.append((source, entry.channel, entry.sink, entry.phase, line, moved, term))
    notes = [f"  {mark} in {visible(PurePath(name).name)}" for name, mark in marks.items()]
    return "\n".join([table(rows, titles, right=(4, 5)), *notes])


def as_json(entry: Entry) -> dict[str, Any]:
    """One entry, with the fields that `check --json` has."""
    return {
        "source": entry.source,
        "sink": entry.sink,
        "channel": entry.channel,
        "phase": entry.phase,
        "line": entry.line,
        "column": entry.column,
        "term": entry.term,
        "count": entry.count,
        "bits": entry.bits,
    }


def quantity(number: int) -> str:
    """A large number in short: 3200, 12.3 k, 4.56 M."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number / (1000 if letter == 'k' else size):.3g} {letter}"
    return str(number)


def short(text: str, longest: int) -> str:
    """The beginning of a text that is too long for a table."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
