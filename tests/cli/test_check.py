"""`ruledsl check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ruledsl import library
from ruledsl.cli.main import main
from ruledsl.explain.terminal import WIDTH
from ruledsl.locality.labels import CHANNELS

SIGNS = "rule signs { feedback send = sign(W.T) @ delta  locality { allow sign(W) -> send } }"
MISSPELT = "rule misspelt {\n  feedback send = W.T @ dleta\n  grad W = outer(delta, u) * z\n}"
NOT_ALLOWED = "rule not_allowed { feedback send = W.T @ delta }"
UNREADABLE = "rule unreadable { grad W = = 1 }"
BROADCASTS = {"broadcast(e)", "broadcast(target)", "broadcast(delta[k])"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"signs": SIGNS, "misspelt": MISSPELT, "not_allowed": NOT_ALLOWED, "bad": UNREADABLE}.items():
        (tmp_path / f"{name}.rule").write_text(text)
    return tmp_path


def objects(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    main(["check", "--json", *arguments])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_sound_rule_is_shown_with_its_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "signs.rule"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "rule signs: nonlocal  (signs.rule:1)"
    assert shown[1].split() == ["source", "channel", "sink", "phase", "line", "term"]
    assert shown[2].split() == ["W", "sign", "send", "task", "1", "sign(W.T)"]
    assert shown[-1] == "1 definition in 1 file: 1 nonlocal"


def test_a_library_rule_is_checked_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "kolen_pollack"]) == 0
    assert "rule kolen_pollack: local" in capsys.readouterr().out


def test_every_rule_of_the_library_is_sound_and_fits_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *library.names()]) == 0
    shown = capsys.readouterr().out
    assert f"{len(library.names())} definitions in" in shown.splitlines()[-1]
    tables = [line for line in shown.splitlines() if line.startswith("  ")]
    assert max(map(len, tables)) <= WIDTH


def test_all_errors_of_a_file_are_shown_in_one_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "misspelt.rule"]) == 1
    shown = capsys.readouterr().out
    assert "  --> misspelt.rule:2:25" in shown and "= help: did you mean `delta`?" in shown
    assert "there is nothing called `z` here" in shown
    assert "Traceback" not in shown


def test_a_transport_that_is_not_allowed_is_an_error_beside_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "not_allowed.rule"]) == 1
    shown = capsys.readouterr().out
    assert "error[E0501]" in shown and "reverse" in shown
    (found,) = objects(capsys, "not_allowed.rule")
    assert found["verdict"] == "nonlocal" and len(found["ledger"]) == 1


def test_a_missing_file_is_status_2_and_the_others_are_checked_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "gone.rule", "misspelt.rule", "signs.rule"]) == 2
    shown = capsys.readouterr()
    assert "cannot read gone.rule" in shown.err
    assert "E0201" in shown.out and "rule signs: nonlocal" in shown.out


def test_an_unknown_name_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "kolen_polack"]) == 2
    assert "did you mean `kolen_pollack`?" in capsys.readouterr().err


def test_json_has_the_promised_fields_and_channels(capsys: pytest.CaptureFixture[str]) -> None:
    for found in objects(capsys, *library.names()):
        assert list(found) == ["file", "name", "kind", "verdict", "ledger", "diagnostics"]
        assert found["verdict"] in ("local", "nonlocal")
        for entry in found["ledger"]:
            assert list(entry) == ["source", "sink", "channel", "phase", "line", "column", "term", "count", "bits"]
            assert entry["channel"] in CHANNELS


def test_json_of_a_diagnostic_has_its_span_and_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = objects(capsys, "misspelt.rule")
    first = found["diagnostics"][0]
    assert list(first) == ["code", "severity", "message", "line", "column", "end_line", "end_column", "help"]
    assert (first["code"], first["severity"], first["line"], first["column"]) == ("E0201", "error", 2, 25)
    assert (first["end_line"], first["end_column"]) == (2, 30)
    assert found["verdict"] is None and found["ledger"] == []


def test_json_of_a_text_that_cannot_be_read_has_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = objects(capsys, "bad.rule")
    assert found["name"] is None and found["kind"] is None and found["file"] == "bad.rule"
    assert found["diagnostics"][0]["code"] == "E0101"


def test_a_file_that_is_no_text_is_an_error_of_the_rule(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "binary.rule").write_bytes(b"\xff\xfe\x00rule")
    assert main(["check", "binary.rule"]) == 1
    assert "E0109" in capsys.readouterr().out


def test_a_cold_process_ends_with_the_right_status_and_loads_no_framework(folder: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = (
            "import sys; from ruledsl.cli.main import main; status = main(); "
            "heavy = {'torch', 'jax', 'numpy', 'jinja2', 'rich', 'ruledsl.emit.emitter'} & set(sys.modules); "
            "print('loaded', sorted(heavy)); sys.exit(status)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, "check", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    fine, wrong, missing = run("signs.rule", "kolen_pollack"), run("misspelt.rule"), run("gone.rule")
    assert (fine.returncode, wrong.returncode, missing.returncode) == (0, 1, 2)
    assert "loaded []" in fine.stdout and "loaded []" in wrong.stdout
    assert "Traceback" not in fine.stderr + wrong.stderr + missing.stderr
