"""Texts that are deep, long or circular are answered, and soon: no endless recursion, nothing that doubles."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ruledsl.checked import Checked
from ruledsl.library import _lookup, names
from ruledsl.pipeline import check_text
from ruledsl.rule import Rule
from ruledsl.source import Source

SOON = 20.0  # seconds; each of these takes a fraction of one
ALLOWED = (
    "locality { "
    + " ".join(f"allow {c}(W)" for c in ("value", "sign", "norm", "reverse"))
    + (" allow pool(batch) allow pool(units) }")
)


def answered(text: str) -> list[Checked]:
    started = time.perf_counter()
    checked, _ = check_text(Source(text), _lookup(Path()), names)
    for one in checked:
        if one.equations is not None and not one.errors:
            for backend in ("torch", "jax"):
                assert Rule(one).compile(backend).module
    assert time.perf_counter() - started < SOON
    return checked


def chain(length: int, step: Callable[[str], str], first: str, last: str) -> str:
    lines = [f"let a{i} = {step(f'a{i - 1}')}" for i in range(1, length + 1)]
    return "\n".join(["rule r {", first, *lines, last.format(f"a{length}"), ALLOWED, "}"])


@pytest.mark.parametrize(
    ("length", "step", "first", "last"),
    [
        (1000, lambda a: f"{a} + 1", "param a0 = 1", "feedback send = {} * x"),
        (60, lambda a: f"{a} * {a}", "param a0 = 1", "feedback send = {} * x"),
        (60, lambda a: f"{a} * {a}", "let a0 = x", "feedback send = {}"),
        (60, lambda a: f"{a} * {a} + {a}", "let a0 = W", "feedback send = {}.T @ delta"),
        (60, lambda a: f"({a} + {a}.T.T).T.T", "let a0 = W", "feedback send = sign({}).T @ delta"),
        (60, lambda a: f"if {a} > 0 then {a} else -{a}", "let a0 = x", "feedback send = {}"),
        (60, lambda a: f"norm({a}) * {a}", "let a0 = W", "feedback send = {}.T @ delta"),
        (60, lambda a: f"{a} + {a}", "param a0 = 1", "fresh M : pre -> post ~ normal(0, {})\ngrad W = M"),
        (30, lambda a: f"center({a} * {a}, units)", "let a0 = W @ x", "minimize dot({}, delta) over W"),
        (200, lambda a: f"relu({a} + 1)", "let a0 = W", "minimize sq({}) over W"),
    ],
)
def test_names_that_are_defined_by_names_are_no_matter(
    length: int, step: Callable[[str], str], first: str, last: str
) -> None:
    (rule,) = answered(chain(length, step, first, last))
    assert rule.errors == []


def test_names_in_the_wrong_order_are_followed_so_far() -> None:
    lines = [f"let a{i} = a{i - 1} + 1" for i in range(1, 500)]
    (rule,) = answered("rule r {\nparam a0 = 1\n" + "\n".join(reversed(lines)) + "\nfeedback send = a499 * x\n}")
    assert {d.code for d in rule.errors} == {"E0105"}


def test_definitions_extend_one_another_so_far() -> None:
    rules = [f"rule r{i} {{ extends r{i - 1} }}" for i in range(1, 80)]
    checked = answered("rule r0 { feedback send = x }\n" + "\n".join(rules))
    assert [one.errors == [] for one in checked] == [True] * 51 + [False] * 29
    assert {d.code for one in checked for d in one.errors} == {"E0105"}


def test_definitions_that_extend_two_others_each_are_no_matter() -> None:
    rules = [f"rule {a}{i} {{ extends a{i - 1}  extends b{i - 1} }}" for i in range(1, 40) for a in "ab"]
    checked = answered("rule a0 { feedback send = x }\nrule b0 { feedback send = x }\n" + "\n".join(rules))
    assert all(one.errors == [] for one in checked)


@pytest.mark.parametrize("kind", ["rule", "optimizer", "constraint"])
def test_a_definition_that_extends_or_uses_itself_is_answered(kind: str) -> None:
    for word in ("extends", "use"):
        (one,) = answered(f"{kind} r {{ {word} r }}")
        assert one.errors


def test_many_conditions_and_many_states_are_no_matter() -> None:
    whens = "\n".join(f"when step > {i} {{ W <- {i} * W }}" for i in range(300))
    states = "\n".join(f"state s{i} : scalar = 0  s{i} <- s{i} + s{max(i - 1, 0)}" for i in range(300))
    (rule,) = answered(f"rule r {{\n{whens}\n{states}\nfeedback send = x\n}}")
    assert rule.errors == []


def test_many_mistakes_are_all_reported() -> None:
    lines = "\n".join(f"let a{i} = nope{i}" for i in range(2000))
    (rule,) = answered(f"rule r {{\n{lines}\n}}")
    assert len(rule.errors) == 2000
