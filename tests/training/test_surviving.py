"""Runs that are killed, asked to stop, damaged or short of disk: what was done is not lost, and it is said."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ruledsl
from ruledsl.errors import UserError
from ruledsl.experiments import compare
from ruledsl.experiments import resume as resume_comparison
from ruledsl.rule import Rule
from ruledsl.training import Config, Interrupted, Listener, TrainingDiverged, loop, read_config, resume, train
from ruledsl.training.checkpoints import Checkpoint, Checkpoints
from ruledsl.training.engine import Score
from ruledsl.training.preparation import Prepared
from ruledsl.training.run_folder import RunFolder
from ruledsl.training.schedule import Clock

QUICK = ["data.name=synthetic", "data.options.train=256", "epochs=4", "model.options.hidden=[20,12]"]
IMAGES = ["data.name=synthetic", "data.options={train=256, shape=[1,28,28]}", "epochs=3", "model.name=liao_mnist_bn"]
comparisons = import_module("ruledsl.experiments.compare")
BACKENDS = ["torch", "jax"]


def quick(out: Path, *settings: str) -> Config:
    network = [] if any("model.name" in setting for setting in settings) else QUICK
    return read_config(settings=[*network, "checkpoint_every=0", f"out={out}", *settings])


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two steps."""
    monkeypatch.setattr(loop, "BETWEEN_PAUSES", 0.0)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "weights.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def status(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["status"])


class StoppingAt(Listener):
    """Somebody who sends a signal in a step."""

    def __init__(self, step: int, which: signal.Signals = signal.SIGTERM) -> None:
        self.at, self.which = step, which
        self.notes: list[str] = []

    def step(self, clock: Clock, score: Score | None) -> None:
        if clock.step == self.at:
            os.kill(os.getpid(), self.which)

    def note(self, text: str) -> None:
        self.notes.append(text)


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ruledsl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed_at_random(out: Path, moments: random.Random, rule: str, *settings: str) -> None:
    """A run that is killed somewhere after its first checkpoint, and resumed to its end."""
    given = [argument for setting in (*QUICK, "checkpoint_every=0", *settings) for argument in ("--set", setting)]
    process = command("train", rule, "--out", str(out), *given)
    while not list(out.glob("checkpoints/*.safetensors")) and process.poll() is None:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.4))
    process.kill()
    process.communicate()
    run = resume(out)
    assert run.status == status(out) == "finished"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_run_ends_as_if_it_had_never_been_killed(backend: str, tmp_path: Path) -> None:
    settings = [f"backend={backend}", "epochs=12"]
    train(quick(tmp_path / "undisturbed", "rule=brsf", *settings))
    moments = random.Random(0)
    for number in range(2):
        killed_at_random(tmp_path / f"{number}", moments, "brsf", *settings)
        assert same(tmp_path / f"{number}", tmp_path / "undisturbed")


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_fifty_killed_runs_end_the_same(backend: str, tmp_path: Path) -> None:
    settings = [f"backend={backend}", "epochs=12"]
    train(quick(tmp_path / "undisturbed", "rule=weight_mirror", *settings))
    moments = random.Random(1)
    for number in range(50):
        killed_at_random(tmp_path / f"{number}", moments, "weight_mirror", *settings)
        assert same(tmp_path / f"{number}", tmp_path / "undisturbed"), number


RULES = ["backprop", "kolen_pollack", "weight_mirror", "brsf", "information_alignment", "backprop_noise"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not(
    backend: str, rule: str, tmp_path: Path, pausing: None
) -> None:
    settings = [f"rule={rule}", f"backend={backend}", "optimizer.name=noisy_sgd"]
    whole = train(quick(tmp_path / "whole", *settings))
    with pytest.raises(Interrupted, match="interrupted by SIGTERM in epoch 2 of 4") as caught:
        train(quick(tmp_path / "stopped", *settings), StoppingAt(11))
    assert caught.value.signal == signal.SIGTERM
    assert f"ruledsl train --resume {tmp_path / 'stopped'}" in str(caught.value)
    assert status(tmp_path / "stopped") == "interrupted"
    run = resume(tmp_path / "stopped")
    assert same(run.folder, whole.folder)
    assert [(e.epoch, e.train, e.test, e.rate) for e in run.epochs] == [
        (e.epoch, e.train, e.test, e.rate) for e in whole.epochs
    ]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4]
    assert status(run.folder) == "finished"


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_normalisation_dropout_and_changing_parameters_go_on_too(
    backend: str, tmp_path: Path, pausing: None
) -> None:
    settings = [*IMAGES, "rule=kolen_pollack", f"backend={backend}", "constraints=['constant_norm']"]
    settings += ["parameters.decay={start=0.1, end=0.001}", "schedule.warmup=2", "optimizer.name=sgd"]
    whole = train(quick(tmp_path / "whole", *settings))
    with pytest.raises(Interrupted):
        train(quick(tmp_path / "stopped", *settings), StoppingAt(11))
    resume(tmp_path / "stopped")
    assert same(tmp_path / "stopped", whole.folder)


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run = train(quick(tmp_path / "run"))
    assert [epoch for epoch, _ in Checkpoints(run.folder).positions()] == [4, 3]
    assert len(list((run.folder / "checkpoints").iterdir())) == 2


def test_without_an_interval_there_is_one_at_the_end(tmp_path: Path) -> None:
    run = train(quick(tmp_path / "run", "checkpoint_every=1000"))
    assert Checkpoints(run.folder).positions() == [(4, 0)]


def damage(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [0.0, 0.01, 0.5, 1.0])
def test_a_damaged_checkpoint_is_found_and_the_one_before_it_used(at: float, tmp_path: Path) -> None:
    whole = train(quick(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train(quick(tmp_path / "run"), StoppingAt(20))
    folder = Checkpoints(tmp_path / "run")
    last = max(folder.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damage(last, at)
    heard = StoppingAt(-1)
    run = resume(tmp_path / "run", heard)
    assert any("is damaged" in note and "the one before it is used" in note for note in heard.notes)
    assert same(run.folder, whole.folder)
    assert all(isinstance(one, Checkpoint) for one in folder.sound())


def test_without_a_sound_checkpoint_a_run_starts_again(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(quick(tmp_path / "run"), StoppingAt(20))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    heard = StoppingAt(-1)
    run = resume(tmp_path / "run", heard)
    assert any("the run starts again" in note for note in heard.notes)
    assert same(run.folder, train(quick(tmp_path / "whole")).folder)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run = train(quick(tmp_path / "run"))
    before = (run.folder / "weights.safetensors").stat().st_mtime_ns
    again = resume(run.folder)
    assert (again.test_error, len(again.epochs)) == (run.test_error, 5)
    assert (run.folder / "weights.safetensors").stat().st_mtime_ns == before


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(quick(tmp_path / "run"), StoppingAt(20))
    holder = RunFolder.open(tmp_path / "run")
    holder.hold()
    with pytest.raises(UserError, match="another process is writing"):
        resume(tmp_path / "run")
    assert status(tmp_path / "run") == "interrupted"
    holder.release()
    assert resume(tmp_path / "run").status == "finished"


def test_a_rule_that_changed_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.rule"
    text = "rule mine { feedback send = %s * W.T @ delta  locality { allow reverse(W) -> send } }"
    path.write_text(text % "2")
    with pytest.raises(Interrupted):
        train(quick(tmp_path / "run", f"rule={path}"), StoppingAt(20))
    path.write_text(text % "3")
    with pytest.raises(UserError, match="has changed since it began"):
        resume(tmp_path / "run")
    path.write_text(text % "2")
    assert resume(tmp_path / "run").status == "finished"


def test_a_full_disk_is_a_message_and_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(quick(tmp_path / "whole"))
    real, left = Path.replace, [15]

    def full(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        train(quick(tmp_path / "run"))
    assert "ruledsl train --resume" in str(caught.value)
    monkeypatch.undo()
    assert status(tmp_path / "run") == "running"  # nothing more could be written
    assert same(resume(tmp_path / "run").folder, whole.folder)


def test_a_folder_of_something_else_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder"):
        resume(tmp_path)
    with pytest.raises(UserError, match="is no folder of a comparison"):
        resume_comparison(tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_comparison_runs_only_what_is_missing(backend: str, tmp_path: Path) -> None:
    rules, seeds = ["backprop", "kolen_pollack"], [0, 1]
    whole = compare(quick(tmp_path / "whole", f"backend={backend}"), rules, seeds)
    stopping = StoppingAt(20)
    with pytest.raises(Interrupted, match="interrupted by SIGTERM") as caught:
        compare(quick(tmp_path / "stopped", f"backend={backend}"), rules, seeds, stopping)
    assert f"ruledsl compare --resume {tmp_path / 'stopped'}" in str(caught.value)
    again = resume_comparison(tmp_path / "stopped")
    assert [len(row.runs) for row in again.rows] == [2, 2]
    for row, other in zip(again.rows, whole.rows, strict=True):
        for run, undisturbed in zip(row.runs, other.runs, strict=True):
            assert same(run.folder, undisturbed.folder)
    assert again.plot.exists()
    before = {path: path.stat().st_mtime_ns for path in again.folder.rglob("weights.safetensors")}
    once_more = resume_comparison(tmp_path / "stopped")
    assert [row.test_error for row in once_more.rows] == [row.test_error for row in again.rows]
    assert {path: path.stat().st_mtime_ns for path in again.folder.rglob("weights.safetensors")} == before


def test_a_run_that_is_not_possible_costs_its_own_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = comparisons.prepare_with

    def refusing(config: Config, rule: Rule, *others: Any) -> Prepared:
        if rule.name == "usf":
            raise UserError("this network is nothing for usf")
        return real(config, rule, *others)

    monkeypatch.setattr(comparisons, "prepare_with", refusing)
    comparison = compare(quick(tmp_path / "c"), ["usf", "backprop"], [0, 1])
    assert [len(row.runs) for row in comparison.rows] == [0, 2]
    assert comparison.rows[0].failures == ["this network is nothing for usf"] * 2
    assert json.loads(comparison.results.read_text())["rules"][0]["failures"]
    with pytest.raises(UserError, match="nothing for usf"):
        compare(quick(tmp_path / "d"), ["usf"], [0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_no_network_comes_back_from_is_divergence_too(backend: str, tmp_path: Path) -> None:
    config = quick(tmp_path / "run", f"backend={backend}", "optimizer.name=adam", "optimizer.lr=1e6")
    with pytest.raises(
        TrainingDiverged, match=r"in epoch 1, step \d+: the loss is .*e\+\d+, .*layer fc\d: its"
    ) as caught:
        train(config)
    assert "optimizer.lr is 1e+06" in str(caught.value)
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["status"] == "diverged" and "the loss is" in found["message"]


def test_a_run_of_mirror_phases_alone_says_so(tmp_path: Path) -> None:
    heard = StoppingAt(-1)
    run = train(quick(tmp_path / "run", "rule=weight_mirror", "epochs=1"), heard)
    assert any("W has learnt nothing of the task" in note for note in heard.notes)
    assert "W has learnt nothing of the task" in json.loads((run.folder / "summary.json").read_text())["message"]


def test_all_of_a_population_are_saved_when_one_is_asked_to_stop(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    config = quick(tmp_path / "c", "backend=jax", "checkpoint_every=1000")
    with pytest.raises(Interrupted):
        compare(config, ["backprop"], [0, 1, 2], StoppingAt(15))  # before the end of the second epoch
    for seed in range(3):
        assert max(Checkpoints(tmp_path / "c" / f"backprop-seed{seed}").positions()) >= (1, 0)


# --- a folder in which somebody has been ---


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("epochs = 4", "epochs = 6", "says epochs = 6, and until its last checkpoint the run had 4"),
        ('name = "adam"', 'name = "sgd"', "optimizer.name = sgd"),
        ("seed = 0", "seed = 5", "seed = 5"),
        ("batch_size = 32", "batch_size = 16", "data.batch_size = 16"),
        ('backend = "torch"', 'backend = "jax"', "backend = jax"),
    ],
)
@pytest.mark.parametrize("ended", [True, False])
def test_a_run_goes_on_with_the_settings_that_it_began_with(
    before: str, after: str, said: str, ended: bool, tmp_path: Path, pausing: None
) -> None:
    folder = tmp_path / "run"
    if ended:
        train(quick(folder, "backend=torch"))
    else:
        with pytest.raises(Interrupted):
            train(quick(folder, "backend=torch"), StoppingAt(11))
    text = (folder / "config.toml").read_text()
    assert before in text
    (folder / "config.toml").write_text(text.replace(before, after))
    with pytest.raises(UserError) as caught:
        resume(folder)
    assert said in caught.value.message
    (folder / "config.toml").write_text(text.replace("checkpoint_every = 0.0", "checkpoint_every = 60.0"))
    assert resume(folder).status == "finished"


def test_a_finished_run_that_lost_its_checkpoints_is_run_again(tmp_path: Path) -> None:
    first = train(quick(tmp_path / "run"))
    expected = weights(first.folder)
    shutil.rmtree(first.folder / "checkpoints")
    again = resume(first.folder)
    assert again.status == "finished" and again.test_error == first.test_error
    assert all(np.array_equal(value, expected[name]) for name, value in weights(again.folder).items())


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"status": 7}'])
def test_a_summary_that_is_none_is_no_traceback(text: str, tmp_path: Path) -> None:
    run = train(quick(tmp_path / "run"))
    (run.folder / "summary.json").write_text(text)
    assert resume(run.folder).status == "finished"


def test_folders_of_comparisons_and_of_runs_are_told_apart(tmp_path: Path) -> None:
    comparison = compare(quick(tmp_path / "c"), ["backprop"], [0])
    with pytest.raises(UserError) as caught:
        resume(comparison.folder)
    assert caught.value.help == f"ruledsl compare --resume {comparison.folder}"
    for text in ("", "[]", '{"rules": ["usf"]}', '{"rules": 3, "seeds": [0], "grid": {}}'):
        (comparison.folder / "comparison.json").write_text(text)
        with pytest.raises(UserError, match=r"comparison\.json is damaged"):
            resume_comparison(comparison.folder)


def test_a_run_goes_on_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pausing: None) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("feedback_alignment", "sgd", "constant_norm"):
        text = ruledsl.load(name).text.replace(f" {name} ", f" my_{name} ", 1)
        (tmp_path / "mine" / f"my_{name}.rule").write_text(text)
    monkeypatch.chdir(tmp_path / "mine")
    settings = [
        "rule=my_feedback_alignment.rule",
        "optimizer.name=my_sgd.rule",
        "constraints=['my_constant_norm.rule']",
    ]
    settings += ["layers={fc1={rule='my_feedback_alignment.rule'}}", "output=my_feedback_alignment.rule"]
    whole = train(quick(tmp_path / "whole", *settings))
    with pytest.raises(Interrupted):
        train(quick(tmp_path / "stopped", *settings), StoppingAt(11))
    monkeypatch.chdir(tmp_path)
    resume(tmp_path / "stopped")
    assert same(tmp_path / "stopped", whole.folder)
