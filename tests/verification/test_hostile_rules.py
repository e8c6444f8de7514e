"""Mutated rules get diagnostics, or become code that does nothing but compute; each within a second."""

from __future__ import annotations

import pytest

import ruledsl
from generators.hostile import harmless, judged, texts
from generators.many import all_of

FEW, MANY = 500, 100_000


@pytest.mark.parametrize("first", range(0, FEW, 100))
def test_mutated_rules_are_judged_in_peace(first: int) -> None:
    assert [problem for seed in range(first, first + 100) for problem in judged(seed)] == []


@pytest.mark.long
def test_a_hundred_thousand_mutated_rules_are_judged_in_peace() -> None:
    assert all_of(judged, range(FEW, FEW + MANY)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "print(1)",
        "def f(x):\n    return open(x)",
        "def f(x):\n    return x.__class__",
        "def f(x):\n    return (lambda: x)()",
        "def f(x):\n    import os\n    return x",
        "def f(x):\n    x.clear()\n    return x",
        "def f(x=print(1)):\n    return x",
        "def f(x):\n    global y\n    y = x\n    return y",
    ],
)
def test_code_that_was_smuggled_in_is_recognised(code: str) -> None:
    assert harmless(code)


def test_what_the_library_compiles_to_is_harmless() -> None:
    assert texts()
    for name in ruledsl.names():
        for backend in ("torch", "jax"):
            assert harmless(ruledsl.load(name).compile(backend).source) == []


def test_titles_sources_and_documentation_cannot_end_their_docstring() -> None:
    title = '\\"\\"\\"; import os; \\"\\"\\" {{ 1 }} {% raw %} \\\\'
    text = f'rule a "{title}" {{ source "{title}" param decay = 0.1 "{title}" grad W = outer(delta, x) + decay * W\n'
    rule = ruledsl.parse(text + "locality { allow reverse(W) -> send } }")
    for backend in ("torch", "jax"):
        assert harmless(rule.compile(backend).source) == []
