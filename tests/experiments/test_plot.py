"""Pictures of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ruledsl.errors import UserError
from ruledsl.experiments import compare
from ruledsl.experiments.plot import BANDS, FORMATS, WHAT, Curves, Style, _band, picture, read_runs
from ruledsl.training import read_config, train

QUICK = ["data.name=synthetic", "data.options.train=128", "epochs=1", "model.options.hidden=[20]"]
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = read_config(settings=[*QUICK, f"out={tmp_path_factory.mktemp('plot') / 'c'}"])
    return compare(config, ["usf", "direct_feedback_alignment", "oja"], [0, 1]).folder


@pytest.mark.parametrize("what", WHAT)
def test_a_comparison_of_one_epoch_can_be_drawn(compared: Path, what: str) -> None:
    runs = read_runs([compared])
    assert [run.label for run in runs] == ["usf", "direct_feedback_alignment", "oja"]
    for format in FORMATS:
        assert picture(runs, what, "std", format).startswith(MAGIC[format])


def test_the_sample_holds_the_effective_feedback(compared: Path) -> None:
    usf, direct, oja = read_runs([compared])
    (weights, feedback) = usf.pairs[0]["fc2"]
    np.testing.assert_array_equal(feedback, np.sign(weights))
    assert direct.pairs[0].keys() == {"fc2"}
    assert not oja.pairs[0]


def test_a_run_without_probes_says_so(tmp_path: Path) -> None:
    run = train(read_config(settings=[*QUICK, "rule=usf", "probe_every=0", f"out={tmp_path / 'r'}"]))
    runs = read_runs([run.folder])
    assert picture(runs).startswith(MAGIC["png"])
    for what in WHAT[1:]:
        with pytest.raises(UserError, match="these runs hold no"):
            picture(runs, what)


def test_a_folder_that_holds_no_run_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"no metrics\.jsonl|no run folder"):
            read_runs([path])
    (tmp_path / "config.toml").write_text('rule = "usf"')
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0, "te')
    with pytest.raises(UserError, match="cannot read"):
        read_runs([tmp_path])


def test_runs_of_different_lengths_and_a_diverged_one_are_drawn_together() -> None:
    def record(epoch: int, error: float | None) -> dict[str, float | None]:
        return json.loads(json.dumps({"epoch": epoch, "test_error": error, "angle/fc2": 90.0 - epoch}))  # type: ignore[no-any-return]

    long, short = [record(i, 0.9 / (i + 1)) for i in range(9)], [record(0, 0.9), record(1, None)]
    runs = [Curves("a", [long, short]), Curves("b", [short])]
    np.testing.assert_array_equal(np.isfinite(runs[0].matrix("test_error")).sum(1), [9, 1])
    for what in ("curves", "angles"):
        assert picture(runs, what, "sem").startswith(MAGIC["png"])


def test_bands_are_what_they_are_called() -> None:
    values = np.array([[1.0, 1.0], [2.0, np.nan], [6.0, np.nan]])
    for name, half in (("std", 7**0.5), ("sem", (7 / 3) ** 0.5), ("range", None)):
        low, high = (1, 6) if half is None else (3 - half, 3 + half)
        assert name in BANDS
        np.testing.assert_allclose([each[0] for each in _band(values, name)], [3, low, high])
        np.testing.assert_allclose([each[1] for each in _band(values, name)], [1, 1, 1])


def test_thirty_rules_look_different() -> None:
    looks = [Style(index).options(25) for index in range(30)]
    assert len({(look["color"], look["linestyle"], look["marker"]) for look in looks}) == 30


def test_runs_that_differ_in_more_than_their_seed_are_curves_of_their_own(tmp_path: Path) -> None:
    folders = []
    for number, settings in enumerate((["seed=0"], ["seed=1"], ["seed=0", "optimizer.lr=0.1"])):
        config = read_config(settings=[*QUICK, *settings, "rule=usf", f"out={tmp_path / str(number)}"])
        folders.append(train(config).folder)
    runs = read_runs([*folders, folders[0]])
    assert [(run.label, len(run.records)) for run in runs] == [("usf (lr=0.001)", 2), ("usf (lr=0.1)", 1)]
    assert [run.label for run in read_runs(folders[:2])] == ["usf"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics.jsonl", "3\n", "metrics.jsonl:1 is no record"),
        ("metrics.jsonl", '{"test_error": 1}\n', "metrics.jsonl:1 is no record"),
        ("results.json", "{}", "is not what ruledsl compare writes"),
        ("results.json", "[]", "is not what ruledsl compare writes"),
        ("config.toml", "x = [", "cannot read"),
    ],
)
def test_folders_in_which_somebody_has_been_are_messages(name: str, text: str, said: str, tmp_path: Path) -> None:
    run = train(read_config(settings=[*QUICK, f"out={tmp_path / 'run'}"]))
    (run.folder / name).write_text(text)
    with pytest.raises(UserError) as caught:
        read_runs([run.folder])
    assert said in caught.value.message
    (run.folder / "config.toml").write_text("data = 3\n")
    (run.folder / "metrics.jsonl").write_text('{"epoch": 0, "test_error": 0.5}\n')
    (run.folder / "results.json").unlink(missing_ok=True)
    assert read_runs([run.folder])[0].dataset == "digits"
