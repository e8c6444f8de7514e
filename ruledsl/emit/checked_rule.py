"""What the emitter reads of a rule; `ruledsl.rule.Rule` has all of it."""

from __future__ import annotations

from typing import Protocol

from ruledsl.analysis.typed import TypedRule
from ruledsl.ir.equations import Equations
from ruledsl.locality.flow import Ledger, Verdict
from ruledsl.source import Source


class Stages(Protocol):
    """What the stages before the emitter have found out."""

    @property
    def text(self) -> Source: ...
    @property
    def typed(self) -> TypedRule | None: ...


class CheckedRule(Protocol):
    """A rule, optimizer or constraint without errors. `source` is the publication that it is from."""

    name: str
    title: str | None
    source: str | None
    equations: Equations
    ledger: Ledger
    verdict: Verdict

    @property
    def kind(self) -> str: ...
    @property
    def checked(self) -> Stages: ...
    @property
    def text(self) -> str: ...
