"""What is known of a definition after the stages that check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ruledsl.analysis.typed import TypedRule
from ruledsl.diagnostics import Diagnostic
from ruledsl.ir.equations import Equations
from ruledsl.language.tree import Definition
from ruledsl.locality.flow import Ledger
from ruledsl.source import Source


@dataclass(frozen=True)
class Checked:
    """One definition after all stages. What a stage that failed would have given is None.

    `lowered` holds the equations as they were written (the reference interpreter executes these), `equations` the
    canonical ones, which the ledger was read from and which a backend emits. `movers` are the optimizers that it names,
    by slot, with the parameters that it sets.
    """

    definition: Definition
    text: Source
    diagnostics: tuple[Diagnostic, ...]
    typed: TypedRule | None = None
    lowered: Equations | None = None
    equations: Equations | None = None
    ledger: Ledger = ()
    movers: Mapping[str, Checked] = field(default_factory=dict)

    @property
    def errors(self) -> list[Diagnostic]:
        """Those diagnostics that are errors."""
        return [d for d in self.diagnostics if d.severity == "error"]
