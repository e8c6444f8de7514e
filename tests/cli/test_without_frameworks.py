"""With one framework or none, everything that needs none works, and training says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BLOCK = """
import os, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["MISSING"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Missing())
from ruledsl.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
IN_JAX = "jax jaxlib flax optax"


def said(missing: str, *call: str) -> tuple[int, str]:
    """The status of a command where packages are missing, and what it said."""
    env = {**os.environ, "MISSING": missing}
    done = subprocess.run([sys.executable, "-c", BLOCK, *call], env=env, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("missing", ["torch", IN_JAX, f"torch {IN_JAX}"])
def test_what_needs_no_framework_works_without(missing: str) -> None:
    for call in (["list"], ["check", "rules/usf.rule"], ["explain", "usf"], ["fmt", "--check", "rules/usf.rule"]):
        assert said(missing, *call)[0] == 0
    assert "torch.autograd.Function" in said(missing, "compile", "usf", "--backend", "torch")[1]
    assert "jax.custom_vjp" in said(missing, "compile", "usf", "--backend", "jax")[1]


@pytest.mark.parametrize(("backend", "missing"), [("torch", "torch"), ("jax", IN_JAX)])
def test_training_says_what_to_install(backend: str, missing: str) -> None:
    status, text = said(missing, "train", "usf", "--backend", backend)
    assert status == 2 and f'pip install "ruledsl[{backend}]"' in text and "Traceback" not in text


@pytest.mark.parametrize(("backend", "missing"), [("jax", "torch"), ("torch", IN_JAX)])
def test_one_framework_is_enough_to_train(backend: str, missing: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    call = ["train", "usf", "--backend", backend, "--epochs", "0", "--out", str(tmp_path / "run")]
    status, text = said(missing, *call)
    assert status == 0 and "92.39 %" in text  # both begin with the same weights
