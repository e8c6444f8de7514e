"""The text of a rule, and places in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A stretch of text: lines and columns count from 1, `end_column` is one past the last character."""

    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        """The stretch from the start of this one to the end of the other."""
        return Span(self.line, self.column, other.end_line, other.end_column)


@dataclass(frozen=True)
class Source:
    """A text to compile and the name it goes by in messages (a path, or `<text>`)."""

    content: str
    name: str = "<text>"

    def line(self, number: int) -> str:
        """Line `number` (from 1) without its end, or "" past the end."""
        lines = self.content.split("\n")
        return lines[number - 1].rstrip("\r") if 1 <= number <= len(lines) else ""


class SourceLocation(NamedTuple):
    """A stretch of one text. `meant` is what stands there without being written: a default of the language."""

    span: Span
    text: Source
    meant: str | None = None

    @property
    def snippet(self) -> str:
        """The text itself, on one line."""
        if self.meant is not None:
            return self.meant
        span = self.span
        lines = self.text.content.split("\n")[span.line - 1 : span.end_line]
        if not lines:
            return ""
        lines[-1] = lines[-1][: span.end_column - 1] if span.end_line > span.line else lines[-1]
        first = lines[0][span.column - 1 : span.end_column - 1 if span.end_line == span.line else None]
        return " ".join(" ".join([first, *lines[1:]]).split())
