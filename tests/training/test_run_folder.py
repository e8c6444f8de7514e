"""Run folders: nothing is overwritten, nothing is half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ruledsl.errors import UserError
from ruledsl.training.run_folder import RunFolder
from ruledsl.writing import write_whole


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        folder = RunFolder.create(tmp_path / "run")
        folder.write_text("config.toml", "x")
        names.append(folder.path.name)
    assert names == ["run", "run-2", "run-3"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunFolder.create(tmp_path / "run").path == tmp_path / "run"


@pytest.mark.parametrize("path", ["file", "file/run", "file/deep/run"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.create(tmp_path / path)


def test_the_root_is_no_run_folder() -> None:
    with pytest.raises(UserError, match="cannot be a run folder"):
        RunFolder.create(Path("/"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a", b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_metrics_are_whole_lines_of_valid_json(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.add_metrics({"epoch": 0, "loss": float("nan")})
    folder.add_metrics({"epoch": 1, "loss": 0.5})
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 0, "loss": None}, {"epoch": 1, "loss": 0.5}]
