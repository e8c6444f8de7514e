"""`ruledsl check`: types, ledger and contract of every definition in some files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ruledsl import library
from ruledsl.checked import Checked
from ruledsl.cli.files import rule_file
from ruledsl.cli.main import CALL_WAS_WRONG, FINE, RULE_HAS_ERRORS
from ruledsl.diagnostics import Diagnostic, RuleError, render
from ruledsl.errors import UserError
from ruledsl.explain.ledger import as_json, as_table
from ruledsl.explain.terminal import bold, count
from ruledsl.locality.flow import verdict


@dataclass
class Result:
    """What was found in one file: its definitions, and what is wrong with the text outside of all of them."""

    path: Path
    definitions: list[Checked]
    diagnostics: list[Diagnostic]

    @property
    def all(self) -> list[Diagnostic]:
        """Every diagnostic of the file."""
        return [*self.diagnostics, *(d for checked in self.definitions for d in checked.diagnostics)]


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, or names of the library.")],
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object per definition, one per line.")] = False,
) -> None:
    """Check types and locality of rules, and show what every synapse would have to know.

    The exit status is 0, or 1 where a rule has errors, or 2 where a file cannot be read; all files are checked.
    """
    status = FINE
    results: list[Result] = []
    for argument in files:
        try:
            result = _check(rule_file(argument))
        except UserError as error:
            status = CALL_WAS_WRONG
            sys.stdout.flush()
            print(f"error: {error.message}" + (f"\n  = help: {error.help}" if error.help else ""), file=sys.stderr)
            continue
        results.append(result)
        for line in _objects(result) if as_lines else _report(result):
            print(line)
    if not as_lines:
        print(_summary(results))
    errors = any(d.severity == "error" for result in results for d in result.all)
    raise typer.Exit(status or (RULE_HAS_ERRORS if errors else FINE))


def _check(path: Path) -> Result:
    try:
        return Result(path, *library.check_file(path))
    except RuleError as error:  # the file, or one that it extends, cannot be read as text
        return Result(path, [], error.diagnostics)


def _report(result: Result) -> Iterable[str]:
    """A heading, the ledger and the diagnostics of every definition, then those of the file."""
    for checked in result.definitions:
        name, kind = checked.definition.name.id, checked.definition.kind
        found = _verdict(checked) or "not checked to the end"
        moves = "" if checked.ledger or checked.equations is None else "; no synapse needs to know more than its own"
        yield f"{bold(f'{kind} {name}')}: {bold(found)}{moves}  ({result.path}:{checked.definition.span.line})"
        if checked.ledger:
            yield as_table(checked.ledger, checked.text.name)
        for diagnostic in checked.diagnostics:
            yield "\n" + render(diagnostic)
        yield ""
    for diagnostic in result.diagnostics:
        yield render(diagnostic) + "\n"


def _summary(results: list[Result]) -> str:
    checked = [c for result in results for c in result.definitions]
    found = [d for result in results for d in result.all]
    verdicts = [_verdict(c) for c in checked]
    words = [f"{verdicts.count(word)} {word}" for word in ("local", "nonlocal") if word in verdicts]
    for severity in ("error", "warning"):
        number = sum(d.severity == severity for d in found)
        words += [count(number, severity)] if number else []
    return f"{count(len(checked), 'definition')} in {count(len(results), 'file')}: {', '.join(words or ['nothing'])}"


def _verdict(checked: Checked) -> str | None:
    return None if checked.equations is None else verdict(checked.ledger)


def _objects(result: Result) -> Iterable[str]:
    """One object for each definition. What belongs to none of them stands in an object whose name is null."""
    if result.diagnostics or not result.definitions:
        yield _object(result.path, None, result.diagnostics)
    for checked in result.definitions:
        yield _object(result.path, checked, checked.diagnostics)


def _object(path: Path, checked: Checked | None, diagnostics: Iterable[Diagnostic]) -> str:
    shown: dict[str, Any] = {
        "file": str(path),
        "name": checked.definition.name.id if checked else None,
        "kind": checked.definition.kind if checked else None,
        "verdict": _verdict(checked) if checked else None,
        "ledger": [as_json(entry) for entry in checked.ledger] if checked else [],
        "diagnostics": [_diagnostic(diagnostic) for diagnostic in diagnostics],
    }
    return json.dumps(shown)


def _diagnostic(diagnostic: Diagnostic) -> dict[str, Any]:
    span = diagnostic.span
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
        "help": diagnostic.help,
    }
