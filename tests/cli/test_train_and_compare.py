"""`ruledsl train` and `ruledsl compare` as a user calls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import ruledsl
from ruledsl.cli.main import COMMANDS, main

QUICK = [
    "--data=synthetic",
    "--set=data.options.train=128",
    "--set=model.options.hidden=[20]",
]


def test_train_tells_the_error_and_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "feedback_alignment", *QUICK, "--epochs=2", "--seed=5", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "feedback_alignment on synthetic (mlp, seed 5)" in said
    assert "epoch   2/2" in said
    assert "images/s" in said
    assert f"the run is in {out}" in said
    assert json.loads((out / "summary.json").read_text())["epochs"] == 2


def test_optimizer_and_constraints_are_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    flags = ["--optimizer=manhattan_1", "--constraint=frozen_signs", "--constraint=constant_norm"]
    assert main(["train", "feedback_alignment", *QUICK, *flags, "--epochs=1", f"--out={out}"]) == 0
    assert {"frozen_signs.rule", "constant_norm.rule"} <= {path.name for path in out.iterdir()}
    capsys.readouterr()
    assert main(["train", "backprop", *QUICK, "--optimizer=manhatan_1", "--epochs=1"]) == 2
    assert "did you mean `manhattan_1`?" in capsys.readouterr().err


def test_layers_get_rules_by_their_names(tmp_path: Path) -> None:
    file, out = tmp_path / "run.toml", tmp_path / "run"
    file.write_text('[layers."fc*"]\nrule = "kolen_pollack"\nparameters = { decay = 0.1 }\n')
    flags = [f"--config={file}", "--layer", "fc2=backprop", "--set", 'layers."fc*".parameters.decay=0.2']
    assert main(["train", "usf", *QUICK, *flags, "--epochs=1", f"--out={out}"]) == 0
    written = tomllib.loads((out / "config.toml").read_text())["layers"]
    assert [(pattern, layer["rule"]) for pattern, layer in written.items()] == [
        ("fc2", "backprop"),  # what the call says comes before what the file says
        ("fc*", "kolen_pollack"),
    ]
    assert written["fc*"]["parameters"] == {"decay": 0.2}
    compared = ["compare", "usf", "feedback_alignment", *QUICK, "--layer", "fc2=backprop", "--epochs=1", "--seeds=1"]
    assert main([*compared, f"--out={tmp_path / 'c'}"]) == 0
    assert len(list((tmp_path / "c").glob("*/layers1_backprop.rule"))) == 2


def test_compare_prints_one_table_and_names_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c"
    assert main(["compare", "backprop", "usf", *QUICK, "--epochs=1", "--seeds=2", f"--out={out}"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["rule", "test", "error", "spread", "seconds/epoch", "verdict"] in lines
    assert [line[0] for line in lines if line[-1:] == ["nonlocal"]] == ["backprop", "usf"]
    assert str(out / "comparison.png") in said


def test_a_rule_of_ones_own_is_trained_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.rule"
    path.write_text('rule mine "Mine" {\n  fixed B : post -> pre ~ normal(0, 0.1)\n  feedback send = B @ delta\n}\n')
    assert main(["train", str(path), *QUICK, "--epochs=1", f"--out={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "there is no command called `trian`\n  = help: did you mean `train`?"),
        (["train", "backpropp"], "did you mean `backprop`"),
        (["train", "backprop", "--data=mnits"], "did you mean `mnist`"),
        (["train", "backprop", "--model=liao"], "no network called `liao`"),
        (["train", "backprop", "--backend=tensorflow"], "no backend called"),
        (["train", "backprop", "--set=optimizer.lrr=1"], "did you mean `lr`"),
        (["train", "adam"], "no rule but of the kind optimizer"),
        (["train", "kolen_pollack", "--set=parameters.dekay=1"], "did you mean `decay`"),
        (["train", "backprop", "--config=absent.toml"], "cannot read the configuration absent.toml"),
        (["train", "backprop", "--data=mnist", "--data-dir=absent"], "train-images-idx3-ubyte.gz of mnist is missing"),
        (["train", "backprop", "--out=/dev/null/run"], "cannot write"),
        (["train", "backprop", "--layer=fc1"], "cannot read the layers `fc1`"),
        (["train", "backprop", "--layer=fc9=usf", *QUICK], "the pattern 'fc9' of rules names no layer of fc1, fc2"),
        (["train", "backprop", "--layer=fc1=ufs", *QUICK], "did you mean `usf`"),
        (["compare", "backprop", "absent"], "absent"),
    ],
)
def test_a_wrong_call_is_one_message_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err + output.out


def test_a_rule_with_errors_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.rule"
    path.write_text('rule wrong "Wrong" {\n  feedback send = W.T @ dleta\n}\n')
    assert main(["train", str(path)]) == 1
    assert "wrong.rule:2:" in capsys.readouterr().err


def test_a_parameter_outside_of_its_interval_is_status_1_or_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "kolen_pollack", "--set=parameters.decay=-1"]) in (1, 2)
    assert "decay" in capsys.readouterr().err


def test_ctrl_c_is_one_message_and_status_130(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ruledsl", "train", "backprop", *QUICK, "--epochs=100000", f"--out={out}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("error: interrupted by SIGINT in epoch")
    assert "Traceback" not in said
    assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == ruledsl.__version__


def test_every_command_of_the_table_exists() -> None:
    assert main(["--help"]) == 0
    assert set(COMMANDS) >= {"list", "new", "check", "explain", "compile", "fmt", "train", "compare"}


def test_a_comparison_in_which_a_rule_was_not_possible_says_so_in_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growing = "--set=data.batch_size_after={1 = 64}"  # which a phase that draws its own input cannot follow
    call = ["compare", "weight_mirror", "backprop", *QUICK, growing, "--epochs=1", "--seeds=1"]
    assert main([*call, f"--out={tmp_path}/c"]) == 1
    said = capsys.readouterr().out
    assert "1 failed" in said and "backprop" in said
