"""The ledger against rules that were written to walk around it, and for rules that do nothing of the kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks.corpus import HONEST, OPEN, SMUGGLERS, checked, expected

from ruledsl.locality.flow import flows_of, verdict
from ruledsl.locality.labels import TRANSPORT

ENOUGH_SMUGGLERS, ENOUGH_HONEST = 150, 80


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(SMUGGLERS) >= ENOUGH_SMUGGLERS and len(HONEST) >= ENOUGH_HONEST
    texts = [path.read_text("utf-8").partition("{")[2] for path in (*SMUGGLERS, *OPEN, *HONEST)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("path", SMUGGLERS, ids=lambda path: path.stem)
def test_a_smuggler_is_listed_with_the_right_channel(path: Path) -> None:
    found = checked(path)
    assert expected(path), "a smuggler has something to hide"
    assert expected(path) <= flows_of(found.ledger)
    assert any(d.code == "E0501" for d in found.errors) or "use " in path.read_text("utf-8")
    wanted = any(flow.partition("(")[0] in TRANSPORT for flow in expected(path))
    assert verdict(found.ledger) == "nonlocal" or not wanted


@pytest.mark.xfail(strict=True, reason="a known hole; a file that is listed moves to smugglers/")
@pytest.mark.parametrize("path", OPEN, ids=lambda path: path.stem)
def test_a_known_hole_is_still_open(path: Path) -> None:
    assert expected(path) <= flows_of(checked(path).ledger)


@pytest.mark.parametrize("path", HONEST, ids=lambda path: path.stem)
def test_an_honest_rule_has_exactly_its_ledger(path: Path) -> None:
    found = checked(path)
    assert flows_of(found.ledger) == expected(path)
    assert found.errors == []


def test_numbers_about_a_map_are_counted() -> None:
    (path,) = (path for path in SMUGGLERS if path.stem == "stat_probe")
    (entry,) = (entry for entry in checked(path).ledger if entry.channel == "stat")
    assert entry.count == 5
