"""One file that needs JAX alone: pasted, it learns what the imported module learns, where nothing of ruledsl is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

from backends.jax import alone

import ruledsl
from ruledsl.emit.standalone import paste_imports

NAMES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]
OTHERS = [name for name in NAMES if name not in alone.KINDS]


@pytest.mark.parametrize("names", [alone.KINDS, pytest.param(OTHERS, marks=pytest.mark.long)], ids=["kinds", "others"])
def test_every_rule_learns_alike_from_one_file(names: Sequence[str], tmp_path: Path) -> None:
    """All of them in one process, which takes a second to import JAX."""
    for name in names:
        (tmp_path / f"{name}.py").write_text(paste_imports(ruledsl.load(name).compile("jax").source), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, alone.__file__, str(tmp_path), *names],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Any = np.load(tmp_path / "learned.npz")
    for name in names:
        learned = alone.learn(ruledsl.load(name).compile("jax").module)
        assert len(learned) > 2
        for index, value in enumerate(learned):
            np.testing.assert_allclose(found[f"{name} {index}"], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_is_pasted_passes_ruff(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(paste_imports(ruledsl.load(name).compile("jax").source), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(tmp_path)]
    ruff = subprocess.run(command, capture_output=True, text=True)
    assert ruff.returncode == 0, ruff.stdout
