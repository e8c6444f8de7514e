"""The corpus: rules that smuggle, with entries that their ledgers must have; honest rules, with their whole ledgers.

What a rule is comes first in its file, then a line `# expects: sign(W) -> send` for each entry.
"""

from __future__ import annotations

from pathlib import Path

from ruledsl import library
from ruledsl.checked import Checked
from ruledsl.source import Source

HERE = Path(__file__).parent
SMUGGLERS = sorted((HERE / "smugglers").glob("*.rule"))
OPEN = sorted((HERE / "open").glob("*.rule"))
"""Smugglers that the ledger does not list yet, or under too weak a channel: known holes."""
HONEST = sorted((HERE / "honest").glob("*.rule"))
EXPECTS = "# expects: "


def checked(path: Path) -> Checked:
    """The last definition of a file, through every stage."""
    found, syntax = library.check_all(Source(path.read_text("utf-8"), str(path)))
    assert not syntax, syntax[0].message
    assert found[-1].equations is not None, [d.message for d in found[-1].errors]
    return found[-1]


def expected(path: Path) -> set[str]:
    """The entries that a file asks for."""
    lines = path.read_text("utf-8").splitlines()
    return {line.removeprefix(EXPECTS) for line in lines if line.startswith(EXPECTS)}
