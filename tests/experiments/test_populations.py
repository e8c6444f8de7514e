"""Grids, and runs that go on at the same time: what comes of each is what would come of it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ruledsl.cli.main import main
from ruledsl.errors import UserError
from ruledsl.experiments import Comparison, compare, parse_grid
from ruledsl.training import Config, Listener, read_config, train

QUICK = ["data.name=synthetic", "data.options.train=128", "data.batch_size=16", "epochs=2", "model.options.hidden=[20]"]


class Notes(Listener):
    """Who writes down what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def quick(out: Path, *settings: str) -> Config:
    return read_config(settings=[*QUICK, f"out={out}", *settings])


def compared(out: Path, rules: list[str], *settings: str, seeds: int = 2, **grid: Any) -> tuple[Comparison, list[str]]:
    notes = Notes()
    named = {name.replace("__", "."): values for name, values in grid.items()}
    return compare(quick(out, *settings), rules, range(seeds), notes, named), notes.said


@pytest.mark.parametrize("rule", ["kolen_pollack", "weight_mirror_ad", "brsf", "direct_feedback_alignment"])
def test_members_of_a_population_learn_what_they_learn_alone(rule: str, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    rates = [0.001, 0.01]
    together, said = compared(tmp_path / "c", [rule], "backend=jax", optimizer__lr=rates)
    assert "these runs go on at the same time" in said
    assert [row.label for row in together.rows] == [f"{rule} (lr={rate:g})" for rate in rates]
    for row, rate in zip(together.rows, rates, strict=True):
        for seed, run in enumerate(row.runs):
            settings = "backend=jax", f"rule={rule}", f"seed={seed}", f"optimizer.lr={rate}"
            alone = train(quick(tmp_path / f"{rate}-{seed}", *settings))
            for one, other in zip(run.epochs, alone.epochs, strict=True):
                assert one.test.loss == pytest.approx(other.test.loss, rel=1e-5)
                assert (one.train is None) == (other.train is None)
                if one.train and other.train:
                    assert one.train.loss == pytest.approx(other.train.loss, rel=1e-5)
            weights, expected = (load_file(each.folder / "weights.safetensors") for each in (run, alone))
            for name, value in expected.items():
                np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
            files = [{path.name for path in each.folder.iterdir()} for each in (run, alone)]
            assert files[0] == files[1]
            assert read_config(run.folder / "config.toml").seed == seed


def test_parameters_of_rules_are_axes_for_the_rules_that_have_them(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    rules = ["kolen_pollack", "feedback_alignment"]
    comparison, _ = compared(tmp_path / "c", rules, "backend=jax", seeds=1, decay=[0.0, 0.5])
    labels = [row.label for row in comparison.rows]
    assert labels == ["kolen_pollack (decay=0)", "kolen_pollack (decay=0.5)", "feedback_alignment"]
    decays = [json.loads(comparison.results.read_text())["rules"][index]["parameters"] for index in range(3)]
    assert decays == [{"decay": 0.0}, {"decay": 0.5}, {}]
    alone = train(quick(tmp_path / "alone", "backend=jax", "rule=kolen_pollack", "parameters.decay=0.5"))
    assert comparison.rows[1].runs[0].epochs[-1].test.loss == pytest.approx(alone.epochs[-1].test.loss, rel=1e-5)
    assert comparison.rows[0].runs[0].epochs[-1].test.loss != pytest.approx(alone.epochs[-1].test.loss, rel=1e-3)
    source = (comparison.rows[1].runs[0].folder / "kolen_pollack_jax.py").read_text()
    assert "decay: ArrayLike = 0.5" in source


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_member_that_diverges_is_named_and_the_others_finish(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    settings = f"backend={backend}", "optimizer.name=sgd"
    comparison, said = compared(tmp_path / "c", ["feedback_alignment"], *settings, optimizer__lr=[0.01, 1e30])
    statuses = [[run.status for run in row.runs] for row in comparison.rows]
    assert statuses == [["finished"] * 2, ["diverged"] * 2]
    for seed in (0, 1):
        told = f"feedback_alignment (lr=1e+30), seed {seed}: the run diverged in epoch 1"
        assert sum(text.startswith(told) for text in said) == 1
    assert all("layer" in text for text in said if "diverged" in text)
    alone = train(quick(tmp_path / "alone", *settings, "rule=feedback_alignment", "optimizer.lr=0.01"))
    assert comparison.rows[0].runs[0].epochs[-1].test.loss == pytest.approx(alone.epochs[-1].test.loss, rel=1e-5)
    summary = json.loads((comparison.rows[1].runs[1].folder / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("diverged", 0)


def test_points_that_need_other_programs_are_trained_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    grid = {"optimizer__name": ["sgd", "adam"], "model__options__hidden": [[8], [12, 8]]}
    comparison, _ = compared(tmp_path / "c", ["feedback_alignment"], "backend=jax", seeds=1, **grid)
    assert [row.label for row in comparison.rows][:2] == [
        "feedback_alignment (name=sgd, hidden=[8])",
        "feedback_alignment (name=sgd, hidden=[12, 8])",
    ]
    assert [run.status for row in comparison.rows for run in row.runs] == ["finished"] * 4
    assert load_file(comparison.rows[1].runs[0].folder / "weights.safetensors")["fc2.kernel"].shape == (12, 8)


def test_a_note_that_holds_for_all_runs_is_said_once(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    _, said = compared(
        tmp_path / "c", ["feedback_alignment", "kolen_pollack"], "backend=jax", optimizer__lr=[0.01, 0.1]
    )
    assert len(said) == len(set(said)) > 0


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("optimizer.lr", "cannot read the grid"),
        ("optimizer.lr=", "cannot read the grid"),
        ("optimizer.lr=0.1,,0.2", "cannot read the grid"),
        ("seed=1,2", "--seeds says how many"),
        ("backend=torch,jax", "the same for all runs"),
        ("dekay=0.1", "did you mean `decay`"),
        ("optimizer.lrr=0.1", "lrr"),
        ("optimizer.lr=fast", "lr"),
        ("decay=-1", "decay"),
    ],
)
def test_a_wrong_grid_is_one_message(
    grid: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["compare", "kolen_pollack", "--grid", grid, "--out", str(tmp_path / "c")])
    assert status in (1, 2)
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_grid_is_read_as_settings_are() -> None:
    assert parse_grid(["optimizer.lr=0.01, 0.1", "decay=1e-4"]) == {"optimizer.lr": [0.01, 0.1], "decay": [1e-4]}
    with pytest.raises(UserError, match="--grid a=1,2"):
        parse_grid(["a=1", "a=2"])


def test_the_command_shows_a_row_for_each_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for text in QUICK for part in ("--set", text)]
    call = ["compare", "feedback_alignment", *settings, "--seeds", "1", "--out", str(tmp_path / "c")]
    assert main([*call, "--grid", "optimizer.lr=0.01,0.1"]) == 0
    shown = capsys.readouterr().out
    assert "(lr=0.01)" in shown and "(lr=0.1)" in shown
    assert {path.name for path in (tmp_path / "c").iterdir() if path.is_dir()} == {
        "feedback_alignment-lr=0.01-seed0",
        "feedback_alignment-lr=0.1-seed0",
    }


def test_runs_of_different_length_do_not_go_on_together(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    comparison, _ = compared(tmp_path / "c", ["backprop"], "backend=jax", epochs=[1, 3], data__batch_size=[16, 32])
    for row in comparison.rows:
        assert [len(run.epochs) - 1 for run in row.runs] == [row.config.epochs] * 2
    assert len({run.test_error for row in comparison.rows for run in row.runs}) > 2


def test_what_runs_share_is_no_axis_and_no_section_of_a_rule(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`rules\.usf\.optimizer\.lr` is the same for all"):
        compared(tmp_path / "c", ["usf"], rules__usf__optimizer__lr=[0.1, 0.001])
    for setting in (
        "rules.usf.data.train_images=20",
        "rules.usf.output=backprop",
        "rules.usf.layers.fc1.rule=backprop",
    ):
        with pytest.raises(UserError, match=r"\[rules.usf\] sets .*the same for all runs"):
            compared(tmp_path / "c", ["usf"], setting)
    comparison, _ = compared(tmp_path / "c", ["usf", "backprop"], "rules.usf.data.batch_size=32", seeds=1)
    assert [row.config.data.batch_size for row in comparison.rows] == [32, 16]
