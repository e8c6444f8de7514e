"""`ruledsl compile`."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ruledsl.cli.main import main


@pytest.mark.parametrize(("backend", "imported"), [("torch", "import torch"), ("jax", "import jax")])
def test_the_source_is_printed_and_is_a_module(backend: str, imported: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "direct_feedback_alignment", "--backend", backend]) == 0
    source = capsys.readouterr().out
    compile(source, "emitted", "exec")
    assert imported in source and "def send(" in source


def test_a_file_holds_what_would_be_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["compile", "kolen_pollack"])
    printed = capsys.readouterr().out
    assert main(["compile", "kolen_pollack", "-o", str(tmp_path / "kp.py")]) == 0
    assert (tmp_path / "kp.py").read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["kp.py"]


def test_a_parameter_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "kolen_pollack", "--set", "decay=0.25"]) == 0
    assert "decay=0.25" in capsys.readouterr().out


def test_a_switch_can_be_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "switch.rule"
    path.write_text("rule switch { static param half = false  when half { grad W = 0.5 * outer(delta, x) }\n"
                    "weight B : post -> pre ~ normal(0, 1)  feedback send = B @ delta }")  # fmt: skip
    assert main(["compile", str(path), "--set", "half=true"]) == 0
    with_half = capsys.readouterr().out
    assert main(["compile", str(path), "--set", "half=false"]) == 0
    assert "0.5 *" in with_half and "0.5 *" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "status", "says"),
    [
        ("decay=-1", 1, "decay = -1 lies outside [0, inf)"),
        ("deacy=1", 1, "did you mean `decay`?"),
        ("decay=true", 1, "`decay` must be a number"),
        ("name=1", 1, "has no parameter called `name`"),
        ("decay=much", 2, "`much` is no value for decay"),
        ("decay=nan", 2, "`nan` is no value for decay"),
        ("decay", 2, "write name=value"),
    ],
)
def test_a_wrong_setting_is_one_clear_message(
    setting: str, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "kolen_pollack", "--set", setting]) == status
    shown = capsys.readouterr()
    assert says in shown.err and not shown.out


def test_an_unknown_rule_or_backend_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "kolen_polack"]) == 2
    assert "kolen_pollack" in capsys.readouterr().err
    assert main(["compile", "kolen_pollack", "--backend", "tensorflow"]) == 2
    assert "installed: jax, torch" in capsys.readouterr().err


def test_a_rule_with_errors_leaves_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.rule").write_text("rule bad { feedback send = W @ delta }")
    assert main(["compile", str(tmp_path / "bad.rule"), "-o", str(tmp_path / "bad.py")]) == 1
    assert "error[E0306]" in capsys.readouterr().err
    assert not (tmp_path / "bad.py").exists()


@pytest.mark.parametrize("place", ["nowhere/rule.py", "folder"])
def test_a_place_that_cannot_be_written_is_a_wrong_call(
    place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    assert main(["compile", "usf", "-o", str(tmp_path / place)]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_file_of_somebody_else_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.rule"
    own.write_text("rule own { }")
    assert main(["compile", "usf", "-o", str(own)]) == 2
    assert own.read_text() == "rule own { }" and "is a rule's file" in capsys.readouterr().err
    assert main(["compile", "usf", "-o", str(own), "--force"]) == 2
    thesis = tmp_path / "thesis.py"
    thesis.write_text("results = 1\n")
    assert main(["compile", "usf", "-o", str(thesis)]) == 2
    assert thesis.read_text() == "results = 1\n" and "--force" in capsys.readouterr().err
    assert main(["compile", "usf", "-o", str(thesis), "--force"]) == 0
    assert main(["compile", "kolen_pollack", "-o", str(thesis)]) == 0, "ruledsl wrote it"
    assert "Kolen-Pollack" in thesis.read_text()


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    assert main(["compile", "usf", "-o", "/dev/null"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = threading.Thread(target=lambda: received.append(pipe.read_text()))
    received: list[str] = []
    read.start()
    assert main(["compile", "usf", "-o", str(pipe)]) == 0
    read.join(10)
    assert "def send(" in received[0] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.py").symlink_to(tmp_path / "real.py")
    assert main(["compile", "usf", "-o", str(tmp_path / "link.py")]) == 0
    assert (tmp_path / "link.py").is_symlink() and "def send(" in (tmp_path / "real.py").read_text()
