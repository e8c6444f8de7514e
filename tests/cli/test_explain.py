"""`ruledsl explain`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ruledsl import library
from ruledsl.cli.main import main
from ruledsl.explain.terminal import WIDTH

HOSTILE = r"""
rule hostile "\\input{/etc/passwd} $ & # % _ ^ ~ { } \" < > ø ☃ 中" {
  source "\\end{document} %"
  param a_b = 1e-7 in [0, inf) "100 % & \\write18{ls}"
  grad W = a_b * outer(delta, x)
  locality { allow reverse(W) -> send }
}
"""


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(explained(capsys, "--json", *arguments))
    return found


def test_the_equations_of_every_phase_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(capsys, "weight_mirror").splitlines()
    assert "  send   = B @ delta" in lines
    assert "  B <- (1 - decay_B) * B + eta_B * outer(x, z - mean(z, batch), mean=all)" in lines
    assert "    z = relu(W @ x + b)" in lines
    assert "  for the first 2 epochs mirror; then in each step task, mirror" in lines
    assert any(line.split()[:4] == ["param", "eta_B", "=", "0.1"] for line in lines)


def test_what_minimize_became_stands_below_the_energy(capsys: pytest.CaptureFixture[str]) -> None:
    shown = explained(capsys, "symmetric_alignment")
    energy = shown.index("minimize alpha * decay + beta * self over B by align")
    assert energy < shown.index("self  = -dot(W, B.T)") < shown.index("grad B = 2 * alpha * B - beta * W.T")


@pytest.mark.parametrize("name", library.names())
def test_every_definition_fits_the_screen_and_is_valid_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = explained(capsys, name, "--model", "liao_mnist")
    assert max(map(len, shown.splitlines())) <= WIDTH
    found = as_json(capsys, name, "--model", "liao_mnist")
    assert found["name"] == name and found["phases"] and found["cost"]["phases"]
    assert all(entry["bits"] > 0 for entry in found["ledger"])


def test_bits_follow_from_the_sizes_of_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    """An MLP of 784, 256 and 10 units: the first layer sends to nobody, the second has 2560 synapses."""
    (sign,) = as_json(capsys, "usf", "--model", "mlp")["ledger"]
    (reverse,) = as_json(capsys, "backprop", "--model", "mlp")["ledger"]
    (value,) = as_json(capsys, "symmetric_alignment", "--model", "mlp")["ledger"]
    (broadcast,) = as_json(capsys, "direct_feedback_alignment", "--model", "mlp")["ledger"]
    (pool,) = as_json(capsys, "weight_mirror", "--model", "mlp")["ledger"]
    assert (sign["bits"], reverse["bits"], value["bits"]) == (2560, 32 * 2560, 32 * 2560)
    assert (broadcast["bits"], pool["bits"]) == (32 * 10, 32 * 10)
    norm, _ = as_json(capsys, "usf_sn", "--model", "mlp")["ledger"]
    assert (norm["channel"], norm["count"], norm["bits"]) == ("norm", 2, 64)  # of W, and of its signs


def test_costs_are_those_counted_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """Backprop: forward and kernel gradient in both layers, the error only through the second."""
    first, second, batch = 784 * 256, 256 * 10, 32
    backprop = batch * (2 * (first + second) + second)

    def step(rule: str) -> dict[str, Any]:
        found: dict[str, Any] = as_json(capsys, rule, "--model", "mlp")["cost"]["phases"][-1]
        return found

    assert step("backprop")["multiply_adds"] == backprop
    assert step("backprop")["relative_bytes"] == 1.0
    assert step("kolen_pollack")["multiply_adds"] == backprop  # one outer product serves W and B
    assert step("kolen_pollack")["relative_bytes"] > 1.0
    assert step("weight_mirror")["multiply_adds"] == backprop + batch * 2 * second  # B of the first layer is not needed
    assert step("activation_alignment")["phase"] == "step"


def test_time_counts_what_is_drawn_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    def phases(rule: str) -> dict[str, Any]:
        found = as_json(capsys, rule, "--model", "mlp")["cost"]["phases"]
        return {phase["phase"]: phase for phase in found}

    assert phases("backprop")["step"]["relative_time"] == 1.0
    assert phases("frsf")["step"]["drawn"] == 0
    assert phases("brsf")["step"]["drawn"] == 256 * 10  # M of the second layer, drawn anew in each step
    mirror = phases("weight_mirror")["mirror"]
    assert mirror["drawn"] == 32 * 256  # the input of the second layer
    assert mirror["relative_time"] < phases("weight_mirror")["step"]["relative_time"]
    assert phases("brsf")["step"]["relative_time"] > phases("frsf")["step"]["relative_time"] > 1.0


def test_an_optimizer_and_a_constraint_cost_what_comes_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    (adam,) = as_json(capsys, "adam", "--model", "mlp")["cost"]["phases"]
    assert adam["multiply_adds"] == 0 and adam["bytes"] > 0


@pytest.mark.parametrize("name", library.names())
def test_latex_is_balanced(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_balance(explained(capsys, name, "--latex", "--model", "mlp"))


def test_latex_shows_all_text_of_a_rule_as_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "hostile.rule"
    path.write_text(HOSTILE)
    document = explained(capsys, str(path), "--latex")
    check_balance(document)
    assert r"\input" not in document and r"\write" not in document and document.count(r"\end{document}") == 1
    assert "[U+2603]" in document and "ø" in document
    typeset(document, tmp_path)


def test_latex_of_the_longest_rules_compiles(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("information_alignment_tpe", "frozen_signs", "adam", "dense_feedback_alignment", "backprop_noise"):
        typeset(explained(capsys, name, "--latex", "--model", "liao_mnist"), tmp_path)


def check_balance(document: str) -> None:
    bare = re.sub(r"\\[\\{}$&#%_]", "", document)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert document.count(r"\left(") == document.count(r"\right)")
    opened: list[str] = []
    for verb, environment in re.findall(r"\\(begin|end)\{(\w+\*?)\}", document):
        if verb == "begin":
            opened.append(environment)
        else:
            assert opened.pop() == environment
    assert not opened


def typeset(document: str, folder: Path) -> None:
    """Run pdfLaTeX, where there is one."""
    if shutil.which("pdflatex") is None:
        return
    (folder / "rule.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "rule.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["usf", "--model", "resnet"], "there is no network called `resnet`"),
        (["usf", "--model", "mlp", "--input", "3xx2"], "`3xx2` is no input"),
        (["usf", "--model", "liao_mnist", "--input", "1x4x4"], "does not fit inputs of 1 x 4 x 4"),
        (["usf", "--input", "1x4x4"], "there is no --model"),
        (["usf", "--latex", "--json"], "choose one of them"),
        (["usff"], "did you mean `usf`?"),
    ],
)
def test_a_wrong_call_is_one_clear_message(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *arguments]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and not shown.out


def test_signs_that_the_terminal_lacks_are_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "a.rule"
    path.write_text('rule a "Nøkland" { fixed B : post -> pre ~ xavier() feedback send = B @ delta }', encoding="utf-8")
    for command in ("explain", "check", "compile"):
        call = [
            sys.executable,
            "-m",
            "ruledsl",
            command,
            str(path),
            *(["--backend=torch"] if command == "compile" else []),
        ]
        done = subprocess.run(call, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
        assert done.returncode == 0, done.stderr
    assert b"N\\xf8kland" in done.stdout
