"""`verify` on its own: the compiled code gives away what a ledger without entries denies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from attacks.corpus import HONEST, SMUGGLERS, checked

from ruledsl.emit.emitter import emit
from ruledsl.rule import Rule
from ruledsl.verification.verify import executor_of, nothing_more_than_listed

SHARE = 0.95
UNSEEN = {
    "transport_far_backwards": "no backend can compile it",
    "dense_backwards": "no backend can compile it",
    "transport_condition": "differs in the fourth step",
    "signs_even_power": "of real numbers the sign of an even power is one, and so it is in float64",
}
"""Smugglers that do not differ within three steps."""


def failures(path: Path, backend: str, *, denied: bool) -> list[str]:
    """What is found in the emitted code of a file; `denied`: of everything that its ledger lists."""
    rule = Rule(replace(checked(path), diagnostics=()))
    program = emit(rule, backend)
    if denied:
        rule.ledger = ()
    executor, _ = executor_of(backend)
    return [failure for row in nothing_more_than_listed(rule, program, executor) for failure in row.failures]


def test_smugglers_are_found_without_the_analysis() -> None:
    tried = [path for path in SMUGGLERS if path.stem not in UNSEEN]
    missed = [path.stem for path in tried if not failures(path, "torch", denied=True)]
    assert len(missed) <= (1 - SHARE) * len(tried), missed


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("path", HONEST[::9], ids=lambda path: path.stem)
def test_an_honest_rule_is_not_accused(path: Path, backend: str) -> None:
    assert failures(path, backend, denied=False) == []


@pytest.mark.long
@pytest.mark.parametrize("path", [*HONEST, *SMUGGLERS], ids=lambda path: path.stem)
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_no_rule_of_the_corpus_does_more_than_its_ledger_lists(path: Path, backend: str) -> None:
    if UNSEEN.get(path.stem) != "no backend can compile it":
        assert failures(path, backend, denied=False) == []


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_optimizers_of_a_rule_are_looked_into(backend: str) -> None:
    """`verify` runs their emitted code too: what moves an entry by what others are is found there alone."""
    named = {path.stem: path for path in (*SMUGGLERS, *HONEST)}
    for smuggler in ("optimizer_layer_rates", "optimizer_remembers_a_length", "optimizer_decides_by_length"):
        assert any("notices the others" in words for words in failures(named[smuggler], backend, denied=True))
    for honest in ("sign_symmetry_adam", "sign_symmetry_rmsprop", "sign_symmetry_clipped"):
        assert failures(named[honest], backend, denied=False) == []
