"""The README shows what the compiler does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ruledsl

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("backend", "opening"), [("torch", "def send("), ("jax", "@partial(jax.custom_vjp")])
def test_the_first_screen_is_cut_from_what_is_emitted(backend: str, opening: str) -> None:
    shown = [block for block in blocks("python") if block.startswith(opening)]
    assert len(shown) == 1
    text = next(block for block in blocks("") if block.startswith("rule usf_init"))
    source = ruledsl.parse(text).compile(backend).source
    assert shown[0].strip() in source
