"""The compiler, top to bottom: text in, a program out; `check` is every stage but the last."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ruledsl.analysis.check_types import check_types
from ruledsl.analysis.resolve import Found, Library, resolve
from ruledsl.analysis.typed import TypedRule
from ruledsl.analysis.unused import report_unused
from ruledsl.checked import Checked
from ruledsl.diagnostics import Diagnostic, Diagnostics, RuleError
from ruledsl.language.parser import parse
from ruledsl.locality.contract import check_contract
from ruledsl.locality.flow import trace_flow, trace_flows
from ruledsl.locality.movers import entries_of_movers
from ruledsl.passes.differentiate import differentiate
from ruledsl.passes.indices import with_one_index
from ruledsl.passes.lower import lower
from ruledsl.passes.simplify import simplify
from ruledsl.rule import Rule
from ruledsl.source import Source, SourceLocation, Span

if TYPE_CHECKING:
    from ruledsl.program import Program

Lookup = Callable[[str], Found | None]


def compile_rule(
    text: Source,
    backend: str,
    values: Mapping[str, float | bool] | None = None,
    fallback: Lookup = lambda name: None,
    known: Callable[[], list[str]] = list,
) -> Program:
    """The compiler: from the text of a rule to a program of a backend.

    The last rule of the text is meant; `values` set its parameters, static ones too; `fallback` finds the definitions
    that it names and that are not in the text, of which `known` gives the names. Raises RuleError with every
    diagnostic, E06xx where the backend can't express the rule.
    """
    from ruledsl.emit.emitter import emit  # checking a rule needs no templates

    return emit(checked_rule(text, None, values, fallback, known), backend)


def checked_rule(
    text: Source,
    name: str | None,
    values: Mapping[str, float | bool] | None,
    fallback: Lookup,
    known: Callable[[], list[str]],
) -> Rule:
    """The definition called `name` (else the last rule, else the last definition) of a text. Raises RuleError."""
    file, syntax = parse(text)
    definitions = file.definitions
    if any(d.severity == "error" for d in syntax) or not definitions:
        raise RuleError(syntax)
    named = [d for d in definitions if d.name.id == name] or [d for d in definitions if d.kind == "rule"]
    chosen = (named or list(definitions))[-1]
    return Rule(check(Found(chosen, text), Library(file, text, fallback, known), values))


def check(found: Found, library: Library, values: Mapping[str, float | bool] | None = None) -> Checked:
    """One definition through every stage up to the contract; stops after a stage that found errors."""
    diagnostics = Diagnostics(found.text)

    def result(**stages: object) -> Checked:
        return Checked(found.definition, found.text, tuple(diagnostics.sorted()), **stages)  # type: ignore[arg-type]

    flat = resolve(found, library, diagnostics)
    typed = check_types(flat, values or {}, diagnostics)
    if diagnostics.errors:
        return result(typed=typed)
    report_unused(typed, diagnostics)
    lowered = differentiate(lower(typed), _reporter(diagnostics))
    if diagnostics.errors:
        return result(typed=typed)
    equations = simplify(with_one_index(lowered))
    movers = {slot: _mover(mover) for slot, mover in typed.movers.items()}
    moved_by = {slot: (m.equations, m.ledger) for slot, m in movers.items() if m.equations is not None}
    flows = trace_flows(equations, {slot: own for slot, (own, _) in moved_by.items()})
    flows = replace(flows, ledger=(*flows.ledger, *entries_of_movers(typed, equations, moved_by)))
    check_contract(typed, equations, flows, diagnostics)
    return result(typed=typed, lowered=lowered, equations=equations, ledger=flows.ledger, movers=movers)


def _mover(typed: TypedRule) -> Checked:
    """An optimizer that a rule names, which has been checked in its own place."""
    lowered = differentiate(lower(typed), lambda *args, **values: None)
    equations = simplify(lowered)
    found = typed.flat
    return Checked(found.definition, found.text, (), typed, lowered, equations, trace_flow(equations))


def check_text(
    text: Source, fallback: Lookup, known: Callable[[], list[str]]
) -> tuple[list[Checked], list[Diagnostic]]:
    """Every definition of a text, and the diagnostics that belong to none of them (those of the grammar).

    A definition with a syntax error in it lacks the statements that could not be read: of what is found in the rest,
    only that is reported which they can't be the reason of.
    """
    file, syntax = parse(text)
    library = Library(file, text, fallback, known)
    seen: set[str] = set()
    twice = Diagnostics(text)
    checked: list[Checked] = []
    for definition in file.definitions:
        if definition.name.id in seen:
            twice.add("E0226", definition.name.span, name=definition.name.id)
        seen.add(definition.name.id)
        unread = [d for d in syntax if d.severity == "error" and _inside(d.span, definition.span)]
        if unread:
            syntax += _surely_wrong(Found(definition, text), library, unread)
        else:
            checked.append(check(Found(definition, text), library))
    return checked, [*syntax, *twice.found]


_SURE = ("E0202", "E0203", "E0204", "E0210", "E0217", "E0218", "E0320", "E0318")
"""Mistakes that no other statement can mend."""


def _surely_wrong(found: Found, library: Library, unread: list[Diagnostic]) -> list[Diagnostic]:
    """Mistakes in the readable statements: certain ones, and unknown names that no unread line mentions."""
    diagnostics = Diagnostics(found.text)
    check_types(resolve(found, library, diagnostics), {}, diagnostics)
    lines = [line for d in unread for line in found.text.content.split("\n")[d.span.line - 1 : d.span.end_line]]
    words = set(re.findall(r"\w+", " ".join(lines)))

    def sure(diagnostic: Diagnostic) -> bool:
        name = SourceLocation(diagnostic.span, found.text).snippet
        return diagnostic.code in _SURE or (diagnostic.code == "E0201" and name not in words)

    return [d for d in diagnostics.sorted() if d.text is found.text and sure(d)]


def _inside(inner: Span, outer: Span) -> bool:
    start, end = (inner.line, inner.column), (outer.end_line, outer.end_column)
    return (outer.line, outer.column) <= start <= end


def _reporter(diagnostics: Diagnostics) -> Callable[..., None]:
    def report(code: str, place: SourceLocation, *, help: str | None = None, **values: object) -> None:
        diagnostics.add(code, place.span, help=help, text=place.text, **values)

    return report
