"""Type what a definition is composed of: its schedule, the optimizers that it names, the constraints that it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ruledsl.analysis import names
from ruledsl.analysis.context import Context, Values, constant, listed
from ruledsl.analysis.declarations import possible
from ruledsl.analysis.resolve import Flat, check_new_name
from ruledsl.analysis.typed import Interval, TypedRule
from ruledsl.ir.phases import AFTER_STEP
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation

Check = Callable[[Flat, Values, Mapping[str, SourceLocation]], TypedRule]
"""Types another definition, with the values that parameters were given in this one and the places where they were."""


def schedule(context: Context) -> None:
    """Which phases run in which step."""
    for located in context.flat.of(tree.Schedule):
        item, text = located
        assert isinstance(item, tree.Schedule)
        context.rule.schedule = item
        kinds = [type(entry) for entry in item.entries]
        if tree.Each in kinds and tree.Alternate in kinds:
            context.report("E0222", item.span, text, problem="says both `each step` and `alternate`")
        if kinds.count(tree.Each) > 1 or kinds.count(tree.Alternate) > 1:
            context.report("E0222", item.span, text, problem="says twice what happens in every step")
        for number, entry in enumerate(item.entries):
            if isinstance(entry, tree.First):
                count = constant(context, entry.count, text)
                if count is not None and (isinstance(count, bool) or not 0 <= count < math.inf):
                    problem = "needs a finite number of epochs that is not negative"
                    context.report("E0222", entry.count.span, text, problem=problem)
                context.rule.schedule_counts[number] = float(count or 0)
            for phase in entry.phases:
                if phase.id not in context.rule.phases or phase.id == AFTER_STEP:
                    known = [name for name in context.rule.phases if name != AFTER_STEP]
                    help = names.suggestion(phase.id, known) or listed(known)
                    context.report("E0212", phase.span, text, help, name=phase.id)


def _arguments(
    context: Context, keywords: tuple[tree.Keyword, ...], text: Source, other: Flat
) -> dict[str, float | bool]:
    """The parameters that a rule sets of an optimizer or constraint; `lr` is one that every optimizer has."""
    values: dict[str, float | bool] = {}
    known = {located.item.name.id for located in other.of(tree.Param)}  # type: ignore[union-attr]
    for keyword in keywords:
        if keyword.name.id not in known and not (keyword.name.id == "lr" and other.definition.kind == "optimizer"):
            help = names.suggestion(keyword.name.id, known) or listed(known)
            context.report("E0224", keyword.name.span, text, help, name=other.name, parameter=keyword.name.id)
            continue
        value = constant(context, keyword.value, text)
        place = SourceLocation(keyword.value.span, text)
        if keyword.name.id == "lr" and "lr" not in known:
            rate = Interval(0.0, math.inf, True, False)
            value = value if value is not None and possible(context, "lr", value, False, rate, place) else None
        if value is not None:
            values[keyword.name.id] = value
    return values


def optimizers(context: Context, check: Check) -> None:
    """The optimizers that a rule names, with the parameters that it sets of them."""
    for slot, (located, other) in context.flat.optimizers.items():
        item = located.item
        assert isinstance(item, tree.OptimizerChoice)
        for argument in item.value.args:
            expected = "its parameters by name, such as `lr = 0.1`"
            context.report(
                "E0210",
                argument.span,
                located.text,
                function=other.name,
                expected=expected,
                found="this has no name",
            )
        values = _arguments(context, item.value.keywords, located.text, other)
        context.rule.optimizers[slot] = (other.name, values)
        check_new_name(item.slot, context.kind, located.text, context.diagnostics)
        parameters = {k: v for k, v in values.items() if k != "lr"}
        context.rule.movers[slot] = check(other, parameters, _places(item.value.keywords, located.text))


def constraints(context: Context, check: Check) -> None:
    """The constraints that a rule uses, each typed with the parameters that it sets of them."""
    for located, other in context.flat.used:
        assert isinstance(located.item, tree.Use)
        values = _arguments(context, located.item.keywords, located.text, other)
        places = _places(located.item.keywords, located.text)
        context.rule.constraints.append(check(other, values, places))


def _places(keywords: tuple[tree.Keyword, ...], text: Source) -> dict[str, SourceLocation]:
    return {keyword.name.id: SourceLocation(keyword.value.span, text) for keyword in keywords}
