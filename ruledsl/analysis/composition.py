"""Type what a definition is composed of: its schedule, the optimizers that it names, the constraints that it uses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from ruledsl.analysis import names
from ruledsl.analysis.checker import Values, listed
from ruledsl.analysis.declarations import Declarations
from ruledsl.analysis.resolve import Flat, check_new_name
from ruledsl.analysis.typed import Interval, TypedRule
from ruledsl.ir.phases import AFTER_STEP
from ruledsl.language import tree
from ruledsl.source import Source, SourceLocation


class Composition(Declarations, ABC):
    """The chapter of schedules, optimizers and constraints."""

    @abstractmethod
    def _check_other(self, other: Flat, values: Values, places: Mapping[str, SourceLocation]) -> TypedRule:
        """Type another definition, with parameters that were given in this one."""

    def _schedule(self) -> None:
        for located in self.flat.of(tree.Schedule):
            item, text = located
            assert isinstance(item, tree.Schedule)
            self.rule.schedule = item
            kinds = [type(entry) for entry in item.entries]
            if tree.Each in kinds and tree.Alternate in kinds:
                self._add("E0222", item.span, text, problem="says both `each step` and `alternate`")
            if kinds.count(tree.Each) > 1 or kinds.count(tree.Alternate) > 1:
                self._add("E0222", item.span, text, problem="says twice what happens in every step")
            for number, entry in enumerate(item.entries):
                if isinstance(entry, tree.First):
                    count = self._constant(entry.count, text)
                    if count is not None and (isinstance(count, bool) or not 0 <= count < math.inf):
                        problem = "needs a finite number of epochs that is not negative"
                        self._add("E0222", entry.count.span, text, problem=problem)
                    self.rule.schedule_counts[number] = float(count or 0)
                for phase in entry.phases:
                    if phase.id not in self.rule.phases or phase.id == AFTER_STEP:
                        known = [name for name in self.rule.phases if name != AFTER_STEP]
                        help = names.suggestion(phase.id, known) or listed(known)
                        self._add("E0212", phase.span, text, help, name=phase.id)

    def _arguments(self, keywords: tuple[tree.Keyword, ...], text: Source, other: Flat) -> dict[str, float | bool]:
        """The parameters that a rule sets of an optimizer or constraint; `lr` is one that every optimizer has."""
        values: dict[str, float | bool] = {}
        known = {located.item.name.id for located in other.of(tree.Param)}  # type: ignore[union-attr]
        for keyword in keywords:
            if keyword.name.id not in known and not (keyword.name.id == "lr" and other.definition.kind == "optimizer"):
                help = names.suggestion(keyword.name.id, known) or listed(known)
                self._add("E0224", keyword.name.span, text, help, name=other.name, parameter=keyword.name.id)
                continue
            value = self._constant(keyword.value, text)
            place = SourceLocation(keyword.value.span, text)
            if keyword.name.id == "lr" and "lr" not in known:
                rate = Interval(0.0, math.inf, True, False)
                value = value if value is not None and self._possible("lr", value, False, rate, place) else None
            if value is not None:
                values[keyword.name.id] = value
        return values

    def _optimizers(self) -> None:
        for slot, (located, other) in self.flat.optimizers.items():
            item = located.item
            assert isinstance(item, tree.OptimizerChoice)
            for argument in item.value.args:
                expected = "its parameters by name, such as `lr = 0.1`"
                self._add(
                    "E0210",
                    argument.span,
                    located.text,
                    function=other.name,
                    expected=expected,
                    found="this has no name",
                )
            values = self._arguments(item.value.keywords, located.text, other)
            self.rule.optimizers[slot] = (other.name, values)
            check_new_name(item.slot, self.kind, located.text, self.diagnostics)
            parameters = {k: v for k, v in values.items() if k != "lr"}
            self._check_other(other, parameters, _places(item.value.keywords, located.text))

    def _constraints(self) -> None:
        for located, other in self.flat.used:
            assert isinstance(located.item, tree.Use)
            values = self._arguments(located.item.keywords, located.text, other)
            places = _places(located.item.keywords, located.text)
            self.rule.constraints.append(self._check_other(other, values, places))


def _places(keywords: tuple[tree.Keyword, ...], text: Source) -> dict[str, SourceLocation]:
    return {keyword.name.id: SourceLocation(keyword.value.span, text) for keyword in keywords}
