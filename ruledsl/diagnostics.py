"""What the compiler says when something is wrong: one table of messages, one way to show them.

A diagnostic is a value. A stage makes one with `report("E0301", span, left=..., right=...)` and appends it to
its `Diagnostics`; the wording lives in `MESSAGES` alone, so that all of it can be read, and mended, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ruledsl.messages import MESSAGES
from ruledsl.source import Source, Span

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Diagnostic:
    """One message about one stretch of text.

    `code` is Exxxx for an error and Wxxxx for a warning; `help` says what to do, or is None;
    `text` is what `span` points into (a rule that extends another can be wrong in the other's file).
    """

    code: str
    message: str
    span: Span
    help: str | None = None
    text: Source | None = None

    @property
    def severity(self) -> Severity:
        """`error` stops the compilation, `warning` does not."""
        return "error" if self.code.startswith("E") else "warning"


def report(
    code: str, span: Span, *, help: str | None = None, text: Source | None = None, **values: object
) -> Diagnostic:
    """The diagnostic `code`, worded by `MESSAGES[code]` with `values` filled in."""
    return Diagnostic(code, MESSAGES[code].format(**values), span, help, text)


@dataclass
class Diagnostics:
    """The diagnostics found so far, in the order in which they were found."""

    text: Source
    found: list[Diagnostic] = field(default_factory=list)
    _known: set[Diagnostic] = field(default_factory=set)

    def add(
        self, code: str, span: Span, *, help: str | None = None, text: Source | None = None, **values: object
    ) -> None:
        """Append a diagnostic, unless the same one stands at the same place already."""
        diagnostic = report(code, span, help=help, text=text or self.text, **values)
        if diagnostic not in self._known:
            self._known.add(diagnostic)
            self.found.append(diagnostic)

    @property
    def errors(self) -> list[Diagnostic]:
        """Those that stop the compilation."""
        return [d for d in self.found if d.severity == "error"]

    def sorted(self) -> list[Diagnostic]:
        """In the order of the text."""
        return sorted(self.found, key=lambda d: (d.text.name if d.text else "", d.span, d.code))


class RuleError(Exception):
    """A rule cannot be compiled; `diagnostics` holds every error (and warning) that was found."""

    def __init__(self, diagnostics: list[Diagnostic]) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n\n".join(render(d) for d in diagnostics))


LONGEST_LINE = 160


def render(diagnostic: Diagnostic) -> str:
    """A diagnostic as text, in the manner of rustc.

    ```
    error[E0201]: there is nothing called `dleta` here
      --> my.rule:4:23
       |
     4 |   feedback send = B @ dleta
       |                       ^^^^^
       = help: did you mean `delta`?
    ```
    """
    span, text = diagnostic.span, diagnostic.text or Source("")
    gutter = " " * len(str(span.line))
    lines = [
        f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}",
        f"{gutter} --> {text.name}:{span.line}:{span.column}",
    ]
    line = text.line(span.line)
    if line.strip():
        last = span.end_column if span.end_line == span.line else len(line) + 1
        shown, column, last = _window(line, span.column, last)
        lines += [
            f"{gutter} |",
            f"{span.line} | {shown}",
            f"{gutter} | {' ' * (column - 1)}{'^' * max(1, last - column)}",
        ]
    if diagnostic.help:
        lines.append(f"{gutter} = help: {diagnostic.help}")
    return "\n".join(lines)


def _window(line: str, column: int, last: int) -> tuple[str, int, int]:
    """The part of a long line around the span, control characters made visible, and the span inside it."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" if c != "\t" else " " for c in line)
    if len(line) <= LONGEST_LINE:
        return line, column, min(last, len(line) + 1)
    start = max(0, min(column - 1 - LONGEST_LINE // 4, len(line) - LONGEST_LINE))
    prefix = "..." if start else ""
    shown = line[start : start + LONGEST_LINE]
    shift = len(prefix) - start
    return prefix + shown + "...", column + shift, min(last, start + LONGEST_LINE + 1) + shift
