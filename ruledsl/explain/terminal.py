"""Tables of plain text for the terminal, no wider than 100 columns. Made here since rich takes longer to import than
`ruledsl check` takes for the whole library."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

WIDTH = 100
_GAP = "  "


def bold(text: str) -> str:
    """In bold, on a terminal."""
    return _styled("1", text)


def dim(text: str) -> str:
    """Fainter, on a terminal."""
    return _styled("2", text)


def _styled(style: str, text: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain or not text.strip() else f"\x1b[{style}m{text}\x1b[0m"


def table(rows: Sequence[Sequence[str]], titles: Sequence[str] = (), right: Sequence[int] = (), indent: int = 2) -> str:
    """Aligned columns; the last one is wrapped where a line would be too long.

    Columns whose numbers are in `right` are aligned to the right. A column without any text in it is left out.
    """
    lines = [list(titles)] if titles else []
    lines += [[visible(cell) for cell in row] for row in rows]
    full = [i for i in range(len(lines[0])) if any(row[i] for row in rows)] if rows else []
    widths = {i: max(len(line[i]) for line in lines) for i in full}
    shown: list[str] = []
    for number, line in enumerate(lines):
        cells = [line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in full[:-1]]
        head = " " * indent + "".join(cell + _GAP for cell in cells)
        last = line[full[-1]].rjust(widths[full[-1]]) if full and full[-1] in right else line[full[-1]] if full else ""
        wrapped = textwrap.wrap(last, max(24, WIDTH - len(head)), drop_whitespace=bool(last.strip())) or [""]
        text = [(head + wrapped[0]).rstrip(), *(" " * len(head) + rest for rest in wrapped[1:])]
        shown += [bold(part) for part in text] if titles and number == 0 else text
    return "\n".join(shown)


def visible(text: str) -> str:
    """A text of the user without characters that would move the cursor or hide text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def count(number: int, thing: str, things: str | None = None) -> str:
    """`1 rule`, `3 rules`."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"
