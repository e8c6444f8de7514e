"""Every example runs as it stands, and says what it is about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SAID = {
    "1_write_a_rule.py": ["E0306", "E0501", "verdict: nonlocal", "kolen_pollack"],
    "2_your_own_loop.py": ["angle between B and W.T", "degrees"],
    "3_jax_function.py": ["(3, 10) -> (3, 50)", "(4, 64, 50)", "step 300"],
    "4_compare_rules.py": ["feedback_alignment", "test error", "plot:"],
    "5_plain_jax.py": ["angle between W and B", "of the images that it has not seen are right"],
    "6_flax_nnx.py": [
        "direct_kolen_pollack",
        ": local; broadcast(e) -> send",
        "of the images that it has not seen are right",
    ],
    "7_equinox.py": ["angle between W and B", "of the images that it has not seen are right"],
}


NEEDS = {"7_equinox.py": "equinox"}


def run(example: str, folder: Path) -> str:
    """What an example prints; it runs in an empty folder, so that it writes nothing here."""
    pytest.importorskip(NEEDS.get(example, "ruledsl"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, str(EXAMPLES / example)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", SAID)
def test_an_example_runs_and_says_what_it_is_about(example: str, tmp_path: Path) -> None:
    said = run(example, tmp_path)
    for words in SAID[example]:
        assert words in said
    last = said.strip().splitlines()[-1]
    if last.endswith("are right"):
        assert float(last.partition("%")[0]) > 80


def test_kolen_pollack_aligns_in_somebodys_own_loop(tmp_path: Path) -> None:
    last = run("2_your_own_loop.py", tmp_path).strip().splitlines()[-1]
    assert float(last.split()[-2]) < 10  # degrees between B and W.T


def test_every_numbered_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("[0-9]_*.py")} == SAID.keys()
