"""`ruledsl new` and `ruledsl fmt`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ruledsl.cli.main import main

CROOKED = "rule   crooked{feedback send=B@delta # the way back\nweight B:post->pre~normal(0,1)}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_rule_checks_compiles_and_is_formatted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "my_rule"]) == 0
    assert main(["check", "my_rule.rule"]) == 0
    shown = capsys.readouterr().out
    assert "rule my_rule: local" in shown and "warning" not in shown
    assert main(["compile", "my_rule.rule"]) == 0
    assert main(["fmt", "--check", "my_rule.rule"]) == 0
    assert max(map(len, (folder / "my_rule.rule").read_text().splitlines())) <= 120


def test_what_the_template_tells_to_try_is_rejected_as_it_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["new", "my_rule"])
    path = folder / "my_rule.rule"
    path.write_text(path.read_text().replace("send = B @ delta", "send = W.T @ delta"))
    assert main(["check", "my_rule.rule"]) == 1
    assert "reverse(W) -> send is not allowed" in capsys.readouterr().out


def test_a_file_that_is_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.rule").write_text("precious")
    assert main(["new", "mine"]) == 2
    assert "mine.rule is there already" in capsys.readouterr().err
    assert (folder / "mine.rule").read_text() == "precious"


def test_another_place_can_be_chosen(folder: Path) -> None:
    (folder / "inside").mkdir()
    assert main(["new", "mine", "--out", "inside"]) == 0
    assert main(["new", "mine", "--out", "inside/other.rule"]) == 0
    assert sorted(path.name for path in (folder / "inside").iterdir()) == ["mine.rule", "other.rule"]
    assert main(["new", "mine", "--out", "nowhere"]) == 2


@pytest.mark.parametrize(
    "name", ["delta", "W", "rule", "class", "9a", "a b", "_a", "../a", "a.b", "", "a {}\nrule b", "Δ", "__class__"]
)
def test_a_bad_name_is_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", name]) == 2
    assert "a rule cannot be called" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_fmt_rewrites_once_and_keeps_comments(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "crooked.rule"
    path.write_text(CROOKED)
    assert main(["fmt", "crooked.rule"]) == 0
    assert "changed crooked.rule" in capsys.readouterr().out
    text = path.read_text()
    assert "# the way back" in text and "  weight B : post -> pre ~ normal(0, 1)" in text
    assert main(["fmt", "crooked.rule"]) == 0
    assert "0 files of 1 changed" in capsys.readouterr().out and path.read_text() == text


def test_fmt_check_changes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "crooked.rule").write_text(CROOKED)
    assert main(["fmt", "--check", "crooked.rule"]) == 1
    assert "would change crooked.rule" in capsys.readouterr().out
    assert (folder / "crooked.rule").read_text() == CROOKED


def test_fmt_leaves_a_file_with_errors_alone_and_formats_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.rule").write_text("rule bad { grad W = = 1 }")
    (folder / "crooked.rule").write_text(CROOKED)
    assert main(["fmt", "bad.rule", "gone.rule", "crooked.rule"]) == 2
    shown = capsys.readouterr()
    assert "error[E0101]" in shown.err and "cannot read gone.rule" in shown.err
    assert "changed crooked.rule" in shown.out
    assert (folder / "bad.rule").read_text() == "rule bad { grad W = = 1 }"


def test_fmt_keeps_links_and_permissions_and_leaves_nothing_else_behind(folder: Path) -> None:
    target, link = folder / "crooked.rule", folder / "link.rule"
    target.write_text(CROOKED)
    target.chmod(0o640)
    link.symlink_to(target)
    assert main(["fmt", "link.rule"]) == 0
    assert link.is_symlink() and target.read_text() != CROOKED
    assert os.stat(target).st_mode & 0o777 == 0o640
    assert sorted(path.name for path in folder.iterdir()) == ["crooked.rule", "link.rule"]
