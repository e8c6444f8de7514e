"""The phases that every rule has, and when each phase runs."""

from __future__ import annotations

from dataclasses import dataclass

TASK, AFTER_STEP, INIT = "task", "after step", "init"


@dataclass(frozen=True)
class Schedule:
    """`first`: phases run alone for so many epochs; `each`: phases of every later step; `alternate`: one in turn."""

    first: tuple[tuple[float, tuple[str, ...]], ...] = ()
    each: tuple[str, ...] = (TASK,)
    alternate: tuple[str, ...] = ()
