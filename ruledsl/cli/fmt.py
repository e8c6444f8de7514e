"""`ruledsl fmt`: rule files in their canonical form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ruledsl import library
from ruledsl.cli.main import CALL_WAS_WRONG, FINE, RULE_HAS_ERRORS
from ruledsl.diagnostics import RuleError
from ruledsl.errors import UserError
from ruledsl.explain.terminal import count
from ruledsl.writing import write_whole


def command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Rule files.")],
    check: Annotated[bool, typer.Option("--check", help="Change nothing; name the files that would change.")] = False,
) -> None:
    """Bring rule files into their canonical form; comments stay.

    A file with errors stays as it is. The exit status is 0; 1 where a rule has errors or, with --check, where a file
    would change; 2 where a file cannot be read or written.
    """
    status, changed = FINE, 0
    for path in files:
        try:
            different = _format(path, write=not check)
        except (RuleError, UserError) as error:
            sys.stdout.flush()
            print(f"{error}\n" if isinstance(error, RuleError) else f"error: {error}", file=sys.stderr)
            status = max(status, RULE_HAS_ERRORS if isinstance(error, RuleError) else CALL_WAS_WRONG)
            continue
        if different:
            changed += 1
            print(f"{'would change' if check else 'changed'} {path}")
    print(f"{count(changed, 'file')} of {len(files)} {'would change' if check else 'changed'}")
    raise typer.Exit(max(status, RULE_HAS_ERRORS if check and changed else FINE))


def _format(path: Path, *, write: bool) -> bool:
    """Whether the file differs from its canonical form, which is written if `write`."""
    from ruledsl.language.formatter import format_text

    formatted = format_text(library.read(path))
    if formatted.encode() == path.read_bytes():
        return False
    if write:
        write_whole(path, formatted)
    return True
