"""In which order initial values are computed: each after those that it is computed from."""

from __future__ import annotations

from collections.abc import Mapping

from ruledsl.analysis.typed import Declared
from ruledsl.ir.nodes import reads


def initial_order(declared: Mapping[str, Declared]) -> tuple[list[Declared], list[str]]:
    """The declarations in order, and a cycle (`["A", "B", "A"]`) where there is no such order, else []."""
    needed = {name: [other for other in declared if other in reads(d.initial)] for name, d in declared.items()}
    ordered: list[Declared] = []
    done: set[str] = set()
    waiting = list(declared)
    while waiting:
        ready = [name for name in waiting if done.issuperset(needed[name])]
        if not ready:
            return ordered, _cycle(waiting[0], {name: [n for n in needed[name] if n not in done] for name in waiting})
        ordered += [declared[name] for name in ready]
        done.update(ready)
        waiting = [name for name in waiting if name not in done]
    return ordered, []


def _cycle(start: str, needed: Mapping[str, list[str]]) -> list[str]:
    path = [start]
    while path[-1] not in path[:-1]:
        path.append(needed[path[-1]][0])
    return path[path.index(path[-1]) :]
