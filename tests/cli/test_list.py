"""`ruledsl list`."""

from __future__ import annotations

import json

import pytest

from ruledsl import library
from ruledsl.cli.main import main
from ruledsl.explain.terminal import WIDTH


def test_every_definition_of_the_library_is_listed_under_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    rules, optimizers, constraints = (shown.index(f"{kind}s\n") for kind in ("rule", "optimizer", "constraint"))
    assert rules < shown.index("  kolen_pollack ") < optimizers < shown.index("  adam ") < constraints
    assert constraints < shown.index("  frozen_signs ")
    assert all(f"\n  {name} " in shown for name in library.names())


def test_a_line_says_verdict_and_ledger_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    (usf_sn,) = (line for line in lines if line.startswith("  usf_sn "))
    assert usf_sn.split(maxsplit=2) == ["usf_sn", "nonlocal", "norm(W), sign(W) -> send"]
    assert "Sign-concordant feedback, strict normalisation; Moskovitz et al. 2018" in lines[lines.index(usf_sn) + 1]
    assert max(map(len, lines)) <= WIDTH


def test_json_has_one_object_per_definition(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = {shown["name"]: shown for shown in map(json.loads, capsys.readouterr().out.splitlines())}
    assert sorted(found) == library.names()
    assert found["usf"]["verdict"] == "nonlocal" and found["usf"]["kind"] == "rule"
    assert [entry["channel"] for entry in found["usf"]["ledger"]] == ["sign"]
