"""Random rules: compiled code means what the reference says, and information moves only where the ledger says so."""

from __future__ import annotations

import ast
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

import ruledsl
from ruledsl.emit import emitter, layout
from ruledsl.verification.cases import reference_layer
from ruledsl.verification.geometries import GEOMETRIES, Geometry
from ruledsl.verification.observed import Observer
from ruledsl.verification.programs import parsed, random_rule
from ruledsl.verification.witness import Witness, compare

FEW, MANY = 200, 10_000
FIRST_OF_MANY = 100_000  # other seeds than the short tests
BLOCK = 25
JAX_GEOMETRIES = [g for g in GEOMETRIES if g.name in ("dense", "everything")]  # JAX compiles anew for every shape
SMALL = [g for g in GEOMETRIES if g.name in ("dense", "conv3x3", "everything", "stride", "groups", "pointwise")]


def _witness(backend: str) -> Witness:
    if backend == "torch":
        from ruledsl_torch.witness import witness as torch_witness

        return torch_witness
    from ruledsl_jax.witness import witness as jax_witness

    return jax_witness


def differences(seed: int, backend: str, geometries: list[Geometry] | tuple[Geometry, ...] = GEOMETRIES) -> list[str]:
    """Where the code that a backend makes of the rule of a seed differs from the reference."""
    rule = parsed(seed)
    program = rule.compile(backend)
    geometry = geometries[seed % len(geometries)]
    # JAX compiles for hours otherwise: half of its rules in one precision, half in the other.
    precisions = ("float32", "float64") if backend == "torch" else (("float32", "float64")[seed // 8 % 2],)
    found = [
        deviation
        for precision in precisions
        for deviation in compare(program, rule.lowered, _witness(backend), geometry, precision, seed)  # type: ignore[arg-type]
    ]
    return [f"seed {seed}, {backend}: {deviation}" for deviation in found if not deviation.within]


def violations(seed: int) -> list[str]:
    """Where information moves in the rule of a seed although its ledger says that it does not."""
    rule = parsed(seed)
    if rule.kind != "rule":
        return []
    observer = Observer(rule.equations, rule.ledger, reference_layer(SMALL[seed % len(SMALL)]), seed)
    return [f"seed {seed}: {violation}" for violation in observer.violations()]


@pytest.mark.parametrize("first", range(0, FEW, BLOCK))
def test_random_rules_in_torch_are_what_the_reference_says(first: int) -> None:
    assert [d for seed in range(first, first + BLOCK) for d in differences(seed, "torch")] == []


@pytest.mark.parametrize("first", range(0, FEW, BLOCK))
def test_random_rules_in_jax_are_what_the_reference_says(first: int) -> None:
    seeds = range(first, first + BLOCK, 8)
    assert [d for seed in seeds for d in differences(seed, "jax", JAX_GEOMETRIES)] == []


@pytest.mark.parametrize("first", range(0, FEW, BLOCK))
def test_random_rules_move_no_information_that_the_ledger_denies(first: int) -> None:
    assert [v for seed in range(first, first + BLOCK) for v in violations(seed)] == []


def test_the_same_seed_makes_the_same_rule_and_the_same_code() -> None:
    for seed in range(5):
        assert random_rule(seed) == random_rule(seed)
        for backend in ("torch", "jax"):
            assert parsed(seed).compile(backend).source == parsed(seed).compile(backend).source


def test_breaking_lines_changes_no_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {seed: parsed(seed).compile("torch").source for seed in range(40)}
    monkeypatch.setattr(emitter, "statement", lambda prefix, expression: [f"    {prefix}{expression}"])
    monkeypatch.setattr(layout, "WIDTH", 10**9)
    for seed, source in written.items():
        assert ast.dump(ast.parse(source)) == ast.dump(ast.parse(parsed(seed).compile("torch").source))


@pytest.mark.parametrize("name", ["usf", "symmetric_alignment", "usf_init", "backprop", "activation_alignment"])
def test_a_flow_that_a_ledger_keeps_silent_about_is_seen(name: str) -> None:
    rule = ruledsl.load(name)
    layer = reference_layer(SMALL[0])
    assert Observer(rule.equations, rule.ledger, layer).violations() == []
    transported = [entry for entry in rule.ledger if not entry.channel.startswith("pool")]
    for entry in transported:
        silent = tuple(other for other in rule.ledger if other is not entry)
        assert Observer(rule.equations, silent, layer).violations(), entry


# --- the long way ---


def _all(check: Callable[[int], list[str]], seeds: range) -> list[str]:
    """What is found for every seed, in several processes."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return [line for found in pool.map(check, seeds, chunksize=BLOCK) for line in found]


def _in_torch(seed: int) -> list[str]:
    return differences(seed, "torch")


def _in_jax(seed: int) -> list[str]:
    return differences(seed, "jax", JAX_GEOMETRIES)


@pytest.mark.long
def test_ten_thousand_random_rules_in_torch_are_what_the_reference_says() -> None:
    assert _all(_in_torch, range(FIRST_OF_MANY, FIRST_OF_MANY + MANY)) == []


@pytest.mark.long
def test_ten_thousand_random_rules_in_jax_are_what_the_reference_says() -> None:
    assert _all(_in_jax, range(FIRST_OF_MANY, FIRST_OF_MANY + MANY)) == []


@pytest.mark.long
def test_ten_thousand_random_rules_move_no_information_that_the_ledger_denies() -> None:
    assert _all(violations, range(FIRST_OF_MANY, FIRST_OF_MANY + MANY)) == []
