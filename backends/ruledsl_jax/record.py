"""`net.ruledsl` of a converted NNX network: which layers follow which rule, and where in its schedule it is.

All of it is static to NNX: a network in another phase is another program to `nnx.jit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flax import nnx

from ruledsl.errors import UserError
from ruledsl.listing import TITLES, aligned, in_turn
from ruledsl.program import TASK, Schedule

IDLE = "idle"


@dataclass(frozen=True)
class Record:
    """What `convert` did, and the phases of the step that is under way.

    rule       the name of the network's rule
    layers     the names of the converted layers, in the order in which they run where that is known
    skipped    (name, reason) of what was not converted
    classes    the number of outputs, where a rule asks for it
    rows       of the table that is printed; notes: the lines below it
    errors     the phases in which errors go from layer to layer; driven: those in which all layers have own inputs
    turn       the number of the step, as far as the schedule asks: modulo the phases that alternate
    opening    the phases of the `first` epochs, while these last
    waiting    the phases of this step that have yet to see the batch, the next one first
    routed     whether `optimizers` made what moves the parameters
    """

    rule: str
    layers: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    classes: int | None
    schedule: Schedule
    errors: tuple[str, ...]
    driven: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    turn: int = 0
    opening: tuple[str, ...] | None = None
    waiting: tuple[str, ...] = (TASK,)
    routed: bool = False

    @property
    def phases(self) -> tuple[str, ...]:
        """Those of the step that is under way."""
        return self.schedule.phases(self.turn, None) if self.opening is None else self.opening

    @property
    def phase(self) -> str:
        """The phase of the next pass; `idle` where `advance` does all that there is."""
        return self.waiting[0] if self.waiting else IDLE

    @property
    def passes_as(self) -> str:
        """What a pass is a pass of: a network that is used in an idle step is used as in the task."""
        return TASK if self.phase == IDLE else self.phase

    @property
    def sees_batch(self) -> bool:
        """Whether the next pass is one of a phase that sees the batch. Where not, `advance` does all that there is."""
        return self.phase != IDLE

    @property
    def travels(self) -> bool:
        """Whether errors go from layer to layer in the next pass."""
        return self.passes_as == TASK or self.passes_as in self.errors

    def begun(self) -> Record:
        """At the beginning of the step."""
        return replace(self, waiting=tuple(phase for phase in self.phases if phase not in self.driven))

    def told(self, epoch: float) -> Record:
        """In a certain epoch, from 0."""
        end, opening = 0.0, None
        for epochs, names in self.schedule.first:
            end += epochs
            if epoch < end:
                opening = names
                break
        return self if opening == self.opening else replace(self, opening=opening).begun()

    def after_pass(self) -> Record:
        """When a pass is over."""
        return replace(self, waiting=self.waiting[1:])

    def after_step(self) -> Record:
        """When a step is over."""
        turns = len(self.schedule.alternate)
        return replace(self, turn=(self.turn + 1) % turns if turns else 0).begun()

    def __str__(self) -> str:
        return "\n".join((*aligned([TITLES, *self.rows]), *self._lines()))

    __repr__ = __str__

    def _lines(self) -> Iterator[str]:
        yield from self.notes
        if self.schedule != Schedule():
            yield f"phases: {in_turn(self.schedule)}; in this step: {', '.join(self.phases)}"
        for name, why in self.skipped:
            yield f"not converted: {name or 'the network itself'}: {why}"


def record_of(net: Any) -> Record:
    """`net.ruledsl`. Raises UserError for a network that was not converted."""
    record = getattr(net, "ruledsl", None)
    if isinstance(record, Record):
        return record
    inside: Sequence[str] = ()
    if isinstance(net, nnx.Module):
        nodes = ((path, node) for path, node in nnx.iter_graph(net) if isinstance(node, nnx.Module))
        inside = [
            ".".join(map(str, path)) for path, node in nodes if isinstance(getattr(node, "ruledsl", None), Record)
        ]
    name = type(net).__name__
    if inside:
        raise UserError(
            f"this {name} was not converted, and what is in it was: call this for each part",
            f"with {' and with '.join(f'net.{path}' for path in inside)}",
        )
    raise UserError(f"this {name} was not converted", "net = convert(net, rule) comes first")
