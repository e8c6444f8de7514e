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

    def phases(self, step: int, epoch: float | None) -> tuple[str, ...]:
        """The phases of a step. Those of the `first` epochs are for a loop that tells the epoch."""
        end = 0.0
        for epochs, names in self.first:
            end += epochs
            if epoch is not None and epoch < end:
                return names
        return (self.alternate[step % len(self.alternate)],) if self.alternate else self.each
