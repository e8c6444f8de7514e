"""Two processes that share each batch learn what one learns with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from training import every_rule

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::ruledsl.errors.RuleWarning")]


def test_two_processes_learn_what_one_learns_under_every_rule(tmp_path: Path) -> None:
    script = str(Path(every_rule.__file__))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", script, str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    every_rule.run(str(tmp_path / "one"))
    apart = {}
    for rule in every_rule.RULES:
        found, expected = (load_file(tmp_path / name / rule / "weights.safetensors") for name in ("two", "one"))
        assert found.keys() == expected.keys()
        differences = {
            name: float(np.abs(found[name] - value).max() / max(1.0, np.abs(value).max()))
            for name, value in expected.items()
        }
        apart[rule] = max(differences.values())
    print({rule: f"{by:.1e}" for rule, by in apart.items()})
    assert all(by <= 1e-5 for by in apart.values()), apart
