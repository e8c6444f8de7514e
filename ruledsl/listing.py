"""What `print(net.ruledsl)` says of a converted network, in the words of every backend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ruledsl.emit.binding import Apart, Binding, Output, Pass
from ruledsl.program import TASK, Schedule

LEFT_ALONE = "left alone, as rules= says"
"""The reason for a layer that could follow a rule, and was not to."""
TITLES = ("layer", "kind", "rule", "part", "parameters", "learns")


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, its first row the titles; columns in which nothing stands are left out."""
    titles, *entries = rows
    kept = [index for index, _ in enumerate(titles) if any(row[index] for row in entries)]
    widths = [max(len(row[index]) for row in (titles, *entries)) for index in kept]
    for row in (titles, *entries):
        yield "  ".join(row[index].ljust(width) for index, width in zip(kept, widths, strict=True)).rstrip()


def unlike(unscaled: Sequence[str], batched: Sequence[str]) -> str:
    """What of a rule does not follow the loss; empty for a rule that is linear in the errors."""
    parts = [f"{', '.join(unscaled)} does not scale with the loss"] * bool(unscaled)
    parts += [f"{', '.join(batched)} does not add up over micro-batches"] * bool(batched)
    return "; ".join(parts)


def in_turn(schedule: Schedule) -> str:
    """A schedule, in words."""
    first = [f"{epochs:g} epochs {', '.join(phases)}" for epochs, phases in schedule.first]
    then = f"in turn {', '.join(schedule.alternate)}" if schedule.alternate else f"each step {', '.join(schedule.each)}"
    return ", then ".join([*first, then])


def taught(binding: Binding, absent: frozenset[str]) -> Iterator[Output]:
    """The pseudo-gradients of a layer that lacks W, b or neither."""
    yield from (output for _, output in binding.taught if output.target not in absent)


def by(output: Output) -> str:
    """` by align`"""
    return "" if output.optimizer == TASK else f" by {output.optimizer}"


def assigned(binding: Binding, absent: frozenset[str]) -> Iterator[str]:
    """`B <-`: what a layer assigns."""
    parts: list[Pass | Apart] = [*binding.passes, *(own.later for own in binding.passes)]
    parts += [*binding.driven, *binding.after]
    targets = (output.target for own in parts for output in own.outputs if output.kind == "assign")
    yield from (f"{target} <-" for target in dict.fromkeys(targets) if target not in absent)
