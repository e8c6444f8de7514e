"""An operation of the language is one row, and one line for each backend.

The compiler is copied, the row and the two lines are written into the copy, and a rule that uses the operation goes
all the way: its derivative, its ledger, its constants, and both backends against the reference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROW = """    Operation(
        "softsign",
        rules.numbers,
        Call("softsign", 1),
        derivative=times(lambda a, y: make("pow", make("add", 1.0, make("abs", a)), -2.0)),
        numpy=lambda np, a: a / (1 + np.abs(a)),
        number=lambda a: a / (1 + abs(a)),
        python="({0}) / (1 + abs({0}))",
        sign_determined=True,
        saturates=True,
    ),
"""
LINES = {
    "ruledsl/ir/elementwise.py": ("FUNCTIONS = (\n", ROW),
    "backends/ruledsl_torch/emission.py": (
        "    operations={\n",
        '        "softsign": forms.elementwise("torch.nn.functional.softsign"),\n',
    ),
    "backends/ruledsl_jax/emission.py": (
        "    operations={\n",
        '        "softsign": forms.elementwise("jax.nn.soft_sign"),\n',
    ),
}
RULE = """rule soft {
  param rate = 0.5 in (0, 2)
  weight B : post -> pre ~ normal(0, 1)
  feedback send = softsign(sign(W).T @ delta) * (2 - softsign(rate))
  minimize -dot(softsign(B.T @ x), u) + softsign(3) * sq(B) over B
  locality { allow sign(W) -> send  allow reverse(B) -> B  allow multiplex(post -> pre) -> B }
}
"""
SCRIPT = """
import numpy as np, ruledsl
from ruledsl.analysis.names import RESERVED
from ruledsl.ir.nodes import walk
from ruledsl.ir.operations import OPERATIONS
from ruledsl.verification.cases import random_values, reference_layer
from ruledsl.verification.geometries import DENSE
from ruledsl.reference import run_phase

rule = ruledsl.load("soft.rule")
print(ruledsl.__file__)
assert "softsign" in RESERVED
assert {entry.flow for entry in rule.ledger} == {"sign(W)", "reverse(B)", "multiplex(post -> pre)"}, rule.ledger
folded = [node for e in rule.equations.equations for node in walk(e.value) if node.constant == 1.5]
assert folded, "2 * softsign(3) is a constant"
layer = reference_layer(DENSE[0])
values = random_values(rule.equations, layer, np.random.default_rng(0))

def energy(B):
    h = layer.apply(B, values["x"])
    h = h / (1 + np.abs(h))
    return -np.sum(h * values["u"]) / len(h) + 0.75 * np.sum(B * B)

grad = run_phase(rule.lowered, "task", layer, values).grads["B", "task"]
direction = np.random.default_rng(1).normal(size=grad.shape)
slope = (energy(values["B"] + 1e-6 * direction) - energy(values["B"] - 1e-6 * direction)) / 2e-6
np.testing.assert_allclose(np.sum(grad * direction), slope, rtol=1e-6)
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the compiler that knows one more operation."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("ruledsl", "backends", "rules"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, (anchor, line) in LINES.items():
        text = (folder / path).read_text(encoding="utf-8")
        assert text.count(anchor) == 1
        (folder / path).write_text(text.replace(anchor, anchor + line), encoding="utf-8")
    (folder / "soft.rule").write_text(RULE, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'backends'}"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_has_a_derivative_a_ledger_and_constants(extended: Path) -> None:
    assert str(extended) in run(extended, "-c", SCRIPT)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_it_computes_in_a_backend_what_it_means(extended: Path, backend: str) -> None:
    said = run(extended, "-m", "ruledsl", "verify", "soft.rule", "--backend", backend)
    assert "all passed" in said
    assert "soft" in run(extended, "-m", "ruledsl", "compile", "soft.rule", "--backend", backend)
