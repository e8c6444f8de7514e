"""The modules that the PyTorch templates are held to: one written by hand first, two as the templates made them."""

from __future__ import annotations

from pathlib import Path

import pytest

import ruledsl

FOLDER = Path(__file__).parent / "torch"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_what_is_emitted_is_what_was_reviewed(name: str) -> None:
    assert ruledsl.load(name).compile("torch").source == (FOLDER / f"{name}.py").read_text(encoding="utf-8")


def test_there_are_three_of_them() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {
        "feedback_alignment",
        "weight_mirror",
        "dense_feedback_alignment",
    }
