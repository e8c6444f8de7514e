"""`ruledsl verify` passes what is right, and catches code that was tampered with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ruledsl.cli.main import main
from ruledsl.emit import emitter
from ruledsl.program import Program
from ruledsl.rule import Rule


def _tampered(monkeypatch: pytest.MonkeyPatch, old: str, new: str, *arguments: tuple[str, str]) -> None:
    """Every rule is compiled as before, but for one piece of the source text (and what the functions read)."""
    honest = emitter.emit

    def dishonest(rule: Rule, backend: str, **options: bool) -> Program:
        program = honest(rule, backend, **options)
        assert old in program.source
        more = dict(arguments)
        functions = tuple(
            replace(f, arguments=(*f.arguments, more[f.name])) if f.name in more else f for f in program.functions
        )
        return replace(program, source=program.source.replace(old, new), functions=functions)

    monkeypatch.setattr(emitter, "emit", dishonest)


@pytest.mark.parametrize(("rule", "backend"), [("usf_sn", "torch"), ("kolen_pollack", "torch"), ("adam", "torch")])
def test_verify_passes_a_rule_of_the_library(rule: str, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", rule, "--backend", backend]) == 0
    assert "all passed" in capsys.readouterr().out


def test_verify_tries_every_installed_backend_and_the_jaxpr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "feedback_alignment"]) == 0
    shown = capsys.readouterr().out
    assert "torch " in shown and "jax " in shown and "jaxpr" in shown and "float64" in shown


def test_verify_takes_a_rule_of_ones_own(tmp_path: Path) -> None:
    text = "rule mine { weight B : post -> pre ~ normal(0, 1) feedback send = B @ delta grad B = outer(x, delta) }"
    path = tmp_path / "mine.rule"
    path.write_text(text)
    assert main(["verify", str(path), "--backend", "torch"]) == 0
    path.write_text(text.replace("B @ delta", "W.T @ delta"))
    assert main(["verify", str(path), "--backend", "torch"]) == 1


def test_verify_catches_code_that_computes_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _tampered(monkeypatch, "return layer.adjoint(B, delta)", "return 1.001 * layer.adjoint(B, delta)")
    assert main(["verify", "feedback_alignment", "--backend", "torch"]) == 1
    shown = capsys.readouterr().out
    assert "equals the reference" in shown and "FAILED" in shown


def test_verify_catches_code_that_secretly_reads_the_forward_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Far below the tolerance of every comparison of numbers."""
    _tampered(
        monkeypatch,
        "send(layer, B, delta):",
        "send(layer, B, delta, W):\n    B = B + 1e-14 * W",
        ("send", "W"),
    )
    assert main(["verify", "feedback_alignment", "--backend", "torch"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert failed and all("denies" in line for line in failed)


def test_verify_catches_magnitudes_where_signs_were_promised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _tampered(monkeypatch, "torch.sign(W)", "(torch.sign(W) + 1e-14 * W)")
    assert main(["verify", "usf", "--backend", "torch"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert failed and all("signs" in line for line in failed)


def test_verify_catches_chance(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = "return layer.adjoint(B, delta)", "return layer.adjoint(B, delta) * (1 + 1e-6 * torch.rand(()))"
    _tampered(monkeypatch, old, new)
    assert main(["verify", "feedback_alignment", "--backend", "torch"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("the same twice" in line and "FAILED" in line for line in lines)


def test_verify_explains_a_call_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "usf", "--backend", "torhc"]) == 2
    assert "did you mean `torch`" in capsys.readouterr().err
    assert main(["verify", "no_such_rule"]) == 2
