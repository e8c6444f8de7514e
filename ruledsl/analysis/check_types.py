"""Type a flat definition: every declaration and statement, in one `Scope`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ruledsl.analysis.composition import constraints, optimizers, schedule
from ruledsl.analysis.context import Context, Values, lets_of
from ruledsl.analysis.declarations import declare, initial_value, parameter, unknown_values
from ruledsl.analysis.initial_order import initial_order
from ruledsl.analysis.resolve import Flat, check_new_name
from ruledsl.analysis.statements import statements, type_lets
from ruledsl.analysis.typed import TypedPhase, TypedRule
from ruledsl.diagnostics import Diagnostics
from ruledsl.ir.phases import INIT, TASK
from ruledsl.language import tree
from ruledsl.source import SourceLocation


def check_types(
    flat: Flat, values: Values, diagnostics: Diagnostics, places: Mapping[str, SourceLocation] = MappingProxyType({})
) -> TypedRule:
    """Type everything in a definition; `values` replace the defaults of its parameters.

    `places` says where a value was written, if it was written in a rule.
    """
    context = Context(flat, values, diagnostics, places)
    _declarations(context)
    _phases(context)
    statements(context, flat.items, context.rule.phases[TASK], context.scope, None)

    def check(other: Flat, values: Values, places: Mapping[str, SourceLocation]) -> TypedRule:
        return check_types(other, values, diagnostics, places)

    schedule(context)
    optimizers(context, check)
    constraints(context, check)
    unknown_values(context)
    if context.kind == "optimizer" and not diagnostics.errors and not _moves_p(item for item, _ in flat.items):
        help = "write `p <- p - lr * g`, for example"
        context.report("E0228", flat.definition.name.span, flat.text, help)
    context.rule.used = context.scope.used
    return context.rule


def _declarations(context: Context) -> None:
    """Parameters, tensors and named expressions; first values last, since they may read all of these."""
    flat = context.flat
    for located in flat.of(tree.Param):
        parameter(context, located)
    for located in flat.of(tree.Declaration):
        declare(context, located)
    context.scope.lets.update(lets_of(flat.items))
    type_lets(context, flat.items, context.scope)
    for located in flat.of(tree.Declaration):
        initial_value(context, located)
    _, cycle = initial_order(context.rule.declared)
    if cycle:
        place = context.rule.declared[cycle[0]].place
        context.report("E0225", place.span, place.text, name=cycle[0], cycle=" -> ".join(cycle))


def _phases(context: Context) -> None:
    """Every phase by its name, without its statements."""
    flat = context.flat
    context.rule.phases[TASK] = TypedPhase(TASK, SourceLocation(flat.definition.name.span, flat.text))
    for located in flat.of(tree.Phase):
        assert isinstance(located.item, tree.Phase)
        name = located.item.name
        if name.id in (TASK, INIT):
            context.report("E0203", name.span, located.text, name=name.id, meaning="a phase that every rule has")
        check_new_name(name, context.kind, located.text, context.diagnostics)
        context.rule.phases[name.id] = TypedPhase(name.id, located.place(name.span))


def _moves_p(items: Iterable[tree.Item]) -> bool:
    """Whether there is a `p <- ...`, right or wrong."""
    return any(
        (isinstance(item, tree.Assign) and item.target.id == "p")
        or (isinstance(item, tree.When) and _moves_p(item.body))
        for item in items
    )
