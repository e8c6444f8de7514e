"""The IR of a rule: one equation per output, and the energies that differentiation turns into equations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ruledsl.ir.nodes import Node
from ruledsl.ir.phases import Schedule
from ruledsl.ir.types import Type
from ruledsl.source import SourceLocation

Role = Literal["send", "grad", "complete", "assign", "init", "draw", "drive"]


@dataclass(frozen=True)
class Equation:
    """`role target = value` in a phase: see `ruledsl.program.Function` for the roles."""

    role: Role
    target: str
    phase: str
    value: Node
    place: SourceLocation | None
    optimizer: str = "task"

    def with_value(self, value: Node) -> Equation:
        """The equation with another right-hand side."""
        return replace(self, value=value)


@dataclass(frozen=True)
class Energy:
    """`minimize value over targets by optimizer`, not yet differentiated."""

    targets: tuple[str, ...]
    phase: str
    value: Node
    place: SourceLocation
    optimizer: str
    places: Mapping[str, SourceLocation] = field(default_factory=dict)  # of the targets


@dataclass(frozen=True)
class Declaration:
    """A tensor that the rule declares (or the layer's own W and b, kind `forward`)."""

    name: str
    kind: Literal["weight", "fixed", "fresh", "state", "forward"]
    type: Type
    doc: str | None = None
    place: SourceLocation | None = None


@dataclass(frozen=True)
class Equations:
    """A whole rule (or optimizer, or constraint) as equations."""

    kind: str
    name: str
    title: str | None
    source: str | None
    tensors: Mapping[str, Declaration]
    parameters: Mapping[str, float | bool]
    documentation: Mapping[str, str]
    equations: tuple[Equation, ...]
    energies: tuple[Energy, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    optimizers: Mapping[str, tuple[str, Mapping[str, float | bool]]] = field(default_factory=dict)
    driven: frozenset[str] = frozenset()

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that compute something, in order; `init` is none."""
        return tuple(dict.fromkeys(e.phase for e in self.equations if e.phase != "init"))

    def of(self, *roles: str, phase: str | None = None) -> tuple[Equation, ...]:
        """The equations of the given roles (in one phase, if it is given)."""
        return tuple(e for e in self.equations if e.role in roles and phase in (None, e.phase))
