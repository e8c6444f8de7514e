"""In which order initial values are computed: each after those that it is computed from."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from ruledsl.analysis.typed import Declared
from ruledsl.ir.nodes import reads


def initial_order(declared: Mapping[str, Declared]) -> tuple[list[Declared], list[str]]:
    """The declarations in order, and a cycle (`["A", "B", "A"]`) where there is no such order, else []."""
    needed = {name: reads(d.initial) & declared.keys() for name, d in declared.items()}
    readers: dict[str, list[str]] = {name: [] for name in declared}
    for name, others in needed.items():
        for other in others:
            readers[other].append(name)
    place = {name: number for number, name in enumerate(declared)}
    missing = {name: len(others) for name, others in needed.items()}
    ready = [place[name] for name in declared if not missing[name]]
    names, ordered = list(declared), []
    while ready:  # the first in the text of those whose values are known
        name = names[heapq.heappop(ready)]
        ordered.append(declared[name])
        for reader in readers[name]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, place[reader])
    waiting = {name: sorted(other for other in needed[name] if missing[other]) for name in names if missing[name]}
    return ordered, _cycle(next(iter(waiting)), waiting) if waiting else []


def _cycle(start: str, needed: Mapping[str, list[str]]) -> list[str]:
    path = [start]
    while path[-1] not in path[:-1]:
        path.append(needed[path[-1]][0])
    return path[path.index(path[-1]) :]
