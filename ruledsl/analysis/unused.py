"""What a definition declares and nothing reads: worth a warning, since it is a slip more often than not."""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.analysis.typed import TypedRule
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir.phases import TASK
from ruledsl.language import tree


def report_unused(rule: TypedRule, diagnostics: Diagnostics) -> None:
    """Warn of names, phases and optimizers of the definition itself; what it inherits may serve others."""
    flat = rule.flat
    names = [ident for ident in _declared(flat.definition.body) if ident.id not in rule.used]
    scheduled = {ident.id for entry in rule.schedule.entries for ident in entry.phases} if rule.schedule else set()
    serving = {update.optimizer for phase in rule.phases.values() for update in phase.updates} | {TASK}
    for item in flat.definition.body:
        if isinstance(item, tree.Phase) and item.name.id not in scheduled:
            names.append(item.name)
        elif isinstance(item, tree.OptimizerChoice) and item.slot.id not in serving:
            names.append(item.slot)
    for ident in names:
        diagnostics.add("W0201", ident.span, text=flat.text, name=ident.id)


def _declared(body: Iterable[tree.Item]) -> Iterable[tree.Ident]:
    """The names in a body and in the blocks inside it."""
    for item in body:
        if isinstance(item, tree.Param | tree.Declaration | tree.Let | tree.Primitive):
            yield item.name
        elif isinstance(item, tree.Phase | tree.AfterStep | tree.When):
            yield from _declared(item.body)
