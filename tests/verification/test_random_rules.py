"""Random rules: compiled code means what the reference says, and information moves only where the ledger says so."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

import ruledsl
from generators.many import SMALL, all_of, findings, in_jax, in_torch, violations
from generators.precision import claims
from generators.programs import parsed, random_rule
from ruledsl.emit import emitter
from ruledsl.verification.cases import reference_layer
from ruledsl.verification.observed import Observer

FEW, MANY = 200, 10_000
FIRST_OF_MANY = 100_000  # other seeds than those of the short tests
BLOCKS = range(0, FEW, 25)


@pytest.mark.parametrize("first", BLOCKS)
def test_random_rules_in_torch_are_what_the_reference_says(first: int) -> None:
    assert [d for seed in range(first, first + 25) for d in in_torch(seed)] == []


@pytest.mark.parametrize("first", BLOCKS)
def test_random_rules_in_jax_are_what_the_reference_says(first: int) -> None:
    assert [d for seed in range(first, first + 25) for d in in_jax(seed)] == []


@pytest.mark.parametrize("first", BLOCKS)
def test_random_rules_move_no_information_that_the_ledger_denies(first: int) -> None:
    assert [v for seed in range(first, first + 25) for v in violations(seed)] == []


@pytest.mark.parametrize("name", ["usf", "symmetric_alignment", "usf_init", "backprop", "activation_alignment"])
def test_a_flow_that_a_ledger_keeps_silent_about_is_seen(name: str) -> None:
    rule = ruledsl.load(name)
    layer = reference_layer(SMALL[0])
    assert Observer(rule.equations, rule.ledger, layer).violations() == []
    for entry in rule.ledger:
        silent = tuple(other for other in rule.ledger if other is not entry)
        if not entry.channel.startswith("pool"):
            assert Observer(rule.equations, silent, layer).violations(), entry


def test_the_same_seed_makes_the_same_rule_and_the_same_code() -> None:
    for seed in range(5):
        assert random_rule(seed) == random_rule(seed)
        for backend in ("torch", "jax"):
            assert parsed(seed).compile(backend).source == parsed(seed).compile(backend).source


def test_breaking_lines_changes_no_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {seed: parsed(seed).compile("torch").source for seed in range(60)}
    unbroken = lambda prefix, expression, indent=4: [f"{' ' * indent}{prefix}{expression}"]  # noqa: E731
    monkeypatch.setattr(emitter, "statement", unbroken)
    for seed, source in written.items():
        assert ast.dump(ast.parse(source)) == ast.dump(ast.parse(parsed(seed).compile("torch").source))


@pytest.mark.parametrize("name", ruledsl.names())
def test_everything_that_the_ledger_of_a_library_rule_claims_is_seen(name: str) -> None:
    rule = ruledsl.load(name)
    if rule.kind != "optimizer":
        assert [claim for claim in claims(rule, SMALL) if claim.finding != "seen"] == []


def test_hardly_anything_that_the_ledger_of_a_random_rule_claims_stays_unseen() -> None:
    found = sum((findings(seed) for seed in range(40)), Counter())
    assert found["unseen"] <= 0.02 * found.total()
    assert found["seen"] >= 0.7 * found.total()


@pytest.mark.long
def test_of_a_thousand_random_ledgers_hardly_anything_stays_unseen() -> None:
    found = sum((findings(seed) for seed in range(FIRST_OF_MANY, FIRST_OF_MANY + 1000)), Counter())
    assert found["unseen"] <= 0.02 * found.total(), found


@pytest.mark.long
@pytest.mark.parametrize("check", [in_torch, in_jax, violations])
def test_ten_thousand_random_rules_pass(check: object) -> None:
    assert all_of(check, range(FIRST_OF_MANY, FIRST_OF_MANY + MANY)) == []  # type: ignore[arg-type]
