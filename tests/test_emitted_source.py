"""The emitted source of every library rule is a golden file: a change of output is seen in review.

`pytest --update-golden` writes the files anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ruledsl

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("name", ruledsl.names())
def test_the_library_is_emitted_as_it_was_reviewed(
    name: str, backend: str, golden: Callable[[Path, str], None]
) -> None:
    golden(GOLDEN / backend / f"{name}.py", ruledsl.load(name).compile(backend).source)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_there_is_no_golden_file_without_its_rule(backend: str) -> None:
    assert {path.stem for path in (GOLDEN / backend).glob("*.py")} == set(ruledsl.names())
