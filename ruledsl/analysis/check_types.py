"""Type a flat definition: every declaration and statement, in one `Scope`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ruledsl.analysis.checker import Values, lets_of
from ruledsl.analysis.composition import Composition
from ruledsl.analysis.initial_order import initial_order
from ruledsl.analysis.resolve import Flat, check_new_name
from ruledsl.analysis.statements import Statements
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
    return _Checker(flat, values, diagnostics, places).check()


class _Checker(Statements, Composition):
    """Goes through the items of one definition in order; the order of what it does, not of the items, matters."""

    def check(self) -> TypedRule:
        for located in self.flat.of(tree.Param):
            self._param(located)
        for located in self.flat.of(tree.Declaration):
            self._declare(located)
        self.scope.lets.update(lets_of(self.flat.items))
        self._type_lets(self.flat.items, self.scope)
        for located in self.flat.of(tree.Declaration):
            self._initial(located)
        _, cycle = initial_order(self.rule.declared)
        if cycle:
            place = self.rule.declared[cycle[0]].place
            self._add("E0225", place.span, place.text, name=cycle[0], cycle=" -> ".join(cycle))
        self.rule.phases[TASK] = TypedPhase(TASK, SourceLocation(self.flat.definition.name.span, self.flat.text))
        for located in self.flat.of(tree.Phase):
            assert isinstance(located.item, tree.Phase)
            name = located.item.name.id
            if name in (TASK, INIT):
                self._add(
                    "E0203", located.item.name.span, located.text, name=name, meaning="a phase that every rule has"
                )
            check_new_name(located.item.name, self.kind, located.text, self.diagnostics)
            self.rule.phases[name] = TypedPhase(name, located.place(located.item.name.span))
        self._statements(self.flat.items, self.rule.phases[TASK], self.scope, None)
        self._schedule()
        self._optimizers()
        self._constraints()
        self._unknown_values()
        if self.kind == "optimizer" and not self.diagnostics.errors and not _moves_p(i for i, _ in self.flat.items):
            help = "write `p <- p - lr * g`, for example"
            self._add("E0228", self.flat.definition.name.span, self.flat.text, help)
        self.rule.used = self.scope.used
        return self.rule

    def _check_other(self, other: Flat, values: Values, places: Mapping[str, SourceLocation]) -> TypedRule:
        return check_types(other, values, self.diagnostics, places)


def _moves_p(items: Iterable[tree.Item]) -> bool:
    """Whether there is a `p <- ...`, right or wrong."""
    return any(
        (isinstance(item, tree.Assign) and item.target.id == "p")
        or (isinstance(item, tree.When) and _moves_p(item.body))
        for item in items
    )
