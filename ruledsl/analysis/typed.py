"""A rule after typing: what it declares and what it computes, as typed nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ruledsl.analysis.resolve import Flat
from ruledsl.ir.nodes import Node
from ruledsl.ir.types import Type
from ruledsl.language import tree
from ruledsl.source import SourceLocation


@dataclass(frozen=True)
class Interval:
    """Where a parameter may lie."""

    low: float
    high: float
    low_closed: bool
    high_closed: bool

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        above = value >= self.low if self.low_closed else value > self.low
        below = value <= self.high if self.high_closed else value < self.high
        return above and below

    def __str__(self) -> str:
        left, right = "[" if self.low_closed else "(", "]" if self.high_closed else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a definition: its value (the default, or what the user has set), where it may lie, what it is."""

    name: str
    value: float | bool
    interval: Interval | None
    doc: str | None
    static: bool
    place: SourceLocation


@dataclass(frozen=True)
class Declared:
    """A weight, fixed, fresh or state with its initial value (a `random` node after `~`)."""

    name: str
    kind: Literal["weight", "fixed", "fresh", "state"]
    type: Type
    initial: Node
    doc: str | None
    place: SourceLocation


@dataclass(frozen=True)
class Update:
    """A pseudo-gradient, an assignment or an energy to descend; under `condition`, where there is one."""

    kind: Literal["grad", "assign", "minimize"]
    targets: tuple[str, ...]
    value: Node
    optimizer: str
    condition: Node | None
    place: SourceLocation
    places: Mapping[str, SourceLocation] = field(default_factory=dict)  # of the targets of an energy


@dataclass
class TypedPhase:
    """The statements of one phase."""

    name: str
    place: SourceLocation
    drives: dict[str, Node] = field(default_factory=dict)
    updates: list[Update] = field(default_factory=list)
    sends: list[tuple[Node | None, Node]] = field(default_factory=list)


@dataclass
class TypedRule:
    """Everything of one definition that later stages need."""

    flat: Flat
    parameters: dict[str, Parameter]
    declared: dict[str, Declared]
    phases: dict[str, TypedPhase]
    schedule: tree.Schedule | None = None
    schedule_counts: dict[int, float] = field(default_factory=dict)
    optimizers: dict[str, tuple[str, dict[str, float | bool]]] = field(default_factory=dict)
    movers: dict[str, TypedRule] = field(default_factory=dict)
    constraints: list[TypedRule] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # every name that some expression reads
