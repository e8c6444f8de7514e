"""A checked rule, as the public API hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ruledsl.checked import Checked
from ruledsl.diagnostics import Diagnostic, RuleError
from ruledsl.ir.equations import Equations
from ruledsl.locality.flow import Ledger, Verdict, verdict

if TYPE_CHECKING:
    from ruledsl.program import Program


class Rule:
    """A rule (or optimizer, or constraint) without errors.

    name, kind, title, source   as the file says them
    verdict      `local`, or `nonlocal` where a synapse would have to know what other synapses are
    ledger       the information that moves, one `Entry` for each (source, sink, channel, phase)
    diagnostics  warnings; a definition with errors never becomes a `Rule`
    movers       the optimizers that it names, by slot
    parameters   their values: the defaults, or what `load` was given; static ones too
    """

    def __init__(self, checked: Checked) -> None:
        if checked.errors:
            raise RuleError(list(checked.diagnostics))
        assert checked.typed is not None and checked.equations is not None and checked.lowered is not None
        self.checked = checked
        self.name = checked.definition.name.id
        self.kind = checked.definition.kind
        self.title = checked.definition.title
        self.source = checked.equations.source
        self.ledger: Ledger = checked.ledger
        self.verdict: Verdict = verdict(checked.ledger)
        self.diagnostics: list[Diagnostic] = list(checked.diagnostics)
        self.parameters: Mapping[str, float | bool] = {n: p.value for n, p in checked.typed.parameters.items()}
        self.equations: Equations = checked.equations
        self.lowered: Equations = checked.lowered
        self.movers: Mapping[str, Rule] = {slot: Rule(mover) for slot, mover in checked.movers.items()}

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}: {self.verdict}>"

    @property
    def text(self) -> str:
        """The text of the file that defines the rule."""
        return self.checked.text.content

    def compile(self, backend: str | None = None, *, standalone: bool = False) -> Program:
        """The rule as source text and live module of an installed backend; PyTorch's, where none is named.

        standalone   the text needs the framework alone, and can be pasted into any project

        Raises RuleError (E06xx) where the backend cannot express the rule, LookupError where there is no such backend.
        """
        from ruledsl.emit.backend import default_backend
        from ruledsl.emit.emitter import emit

        return emit(self, backend or default_backend(), standalone=standalone)
