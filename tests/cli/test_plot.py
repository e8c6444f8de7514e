"""`ruledsl plot` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ruledsl.cli.main import main

QUICK = ["--data=synthetic", "--set=data.options.train=128", "--set=model.options.hidden=[20]", "--epochs=1"]


def test_plot_draws_a_run_and_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "angles.svg"
    assert main(["train", "usf", *QUICK, f"--out={run}"]) == 0
    assert main(["plot", str(run)]) == 0
    assert str(run / "curves.png") in capsys.readouterr().out
    assert main(["plot", str(run), "--what=angles", "--bands=sem", f"--out={out}"]) == 0
    assert out.read_bytes().startswith(b"<?xml")
    assert main(["plot", str(run), f"--out={tmp_path / 'a.bmp'}"]) == 2
    assert "there are png, svg, pdf" in capsys.readouterr().err


def test_plot_of_no_run_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path / "absent")]) == 2
    assert "there is no run folder" in capsys.readouterr().err
