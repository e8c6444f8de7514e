"""What a configuration asks for means the same in both engines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

pytest.importorskip("jax")

from backends.both import both, digits, in_torch

import ruledsl
from ruledsl.errors import UserError
from ruledsl.training import read_config, train
from ruledsl.training.config import LossConfig
from ruledsl_torch.losses import mean_loss

SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9}
SETTINGS: dict[str, dict[str, Any]] = {
    "smoothing": {"loss": {"label_smoothing": 0.1}},
    "squares": {"optimizer": {**SGD, "lr": 0.001}, "loss": {"name": "mean_squared_error", "label_smoothing": 0.2}},
    "sigmoids": {"loss": {"name": "binary_cross_entropy"}},
    "clip": {"optimizer": {**SGD, "clip": 0.05}},
    "frozen": {"frozen": ["conv*"]},
    "clip of what learns": {"optimizer": {**SGD, "clip": 0.05}, "frozen": ["conv1", "fc*"]},
    "growing": {"data": {"name": "digits", "batch_size": 16, "batch_size_after": {1: 32, 2: 48}}},
    "cosine": {"schedule": {"warmup": 0.5, "cosine": True}},
}
RULES = ["backprop", "kolen_pollack", "direct_feedback_alignment"]

pytestmark = pytest.mark.filterwarnings("ignore::ruledsl.errors.RuleWarning")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_means_the_same_in_both_engines(rule: str, name: str) -> None:
    loaded = ruledsl.load(rule)
    ours, theirs = both(loaded, "digits_lenet", digits(96), epochs=3, **{"optimizer": SGD, **SETTINGS[name]})
    np.testing.assert_allclose(ours.losses(), theirs.losses(), rtol=2e-5)
    found = theirs.engine.net.state_dict()
    for path, value in in_torch(ours, loaded.compile("jax")).items():
        np.testing.assert_allclose(value, found[path].numpy(), rtol=1e-4, atol=2e-5, err_msg=path)


def test_losses_are_what_they_are_called() -> None:
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    target = functional.one_hot(labels, 3).double()
    squares = mean_loss(LossConfig(name="mean_squared_error"), logits, labels)
    assert squares == pytest.approx(float((0.5 * (logits - target) ** 2).sum(1).mean()))
    sigmoids = mean_loss(LossConfig(name="binary_cross_entropy"), logits, labels)
    each = -(target * logits.sigmoid().log() + (1 - target) * (1 - logits.sigmoid()).log())
    assert sigmoids == pytest.approx(float(each.sum(1).mean()))


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("rule", ["backprop", "kolen_pollack", "weight_mirror"])
def test_frozen_layers_stay_where_they_were_and_the_others_learn(backend: str, rule: str, tmp_path: Path) -> None:
    settings = ["data.train_images=96", f"backend={backend}", f"rule={rule}", "model.name=digits_lenet_bn"]
    runs = [
        train(
            read_config(settings=[*settings, f"epochs={epochs}", f"out={tmp_path}/{epochs}", "frozen=['conv2','fc1']"])
        )
        for epochs in (0, 3)
    ]
    before, after = (load_file(run.folder / "weights.safetensors") for run in runs)
    layout = "kernel" if backend == "jax" else "weight"
    for layer, stays in {"conv1": False, "conv2": True, "fc1": True, "fc2": False}.items():
        assert np.array_equal(before[f"{layer}.{layout}"], after[f"{layer}.{layout}"]) == stays
    gains = "scale" if backend == "jax" else "weight"
    assert np.array_equal(before[f"conv2_norm.{gains}"], after[f"conv2_norm.{gains}"])
    assert not np.array_equal(before[f"conv1_norm.{gains}"], after[f"conv1_norm.{gains}"])


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_frozen_layer_that_is_none_is_a_message(backend: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'convv\\*' of frozen names no layer"):
        train(read_config(settings=[f"backend={backend}", "frozen=['convv*']", f"out={tmp_path}/run"]))


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("rule", ["backprop", "kolen_pollack", "usf_sn", "direct_feedback_alignment", "weight_mirror"])
def test_bfloat16_learns_what_float32_learns(backend: str, rule: str, tmp_path: Path) -> None:
    settings = [f"backend={backend}", f"rule={rule}", "data.train_images=480", "probe_every=0"]
    runs = [
        train(read_config(settings=[*settings, "epochs=5", f"precision={precision}", f"out={tmp_path}/{precision}"]))
        for precision in ("float32", "bfloat16")
    ]
    wide, narrow = (run.epochs[-1].test.loss for run in runs)
    assert wide != narrow
    assert narrow == pytest.approx(wide, rel=0.15)
    assert all(value.dtype != np.uint16 for value in load_file(runs[1].folder / "weights.safetensors").values())


def test_channels_last_changes_nothing_but_rounding(tmp_path: Path) -> None:
    runs = [
        train(
            read_config(settings=["rule=kolen_pollack", "epochs=2", f"channels_last={last}", f"out={tmp_path}/{last}"])
        )
        for last in ("false", "true")
    ]
    assert runs[1].epochs[-1].test.loss == pytest.approx(runs[0].epochs[-1].test.loss, rel=1e-3)


def test_growing_batches_and_phases_with_an_input_of_their_own_are_refused(tmp_path: Path) -> None:
    for backend in ("torch", "jax"):
        settings = ["rule=weight_mirror", f"backend={backend}", "data.batch_size_after={1 = 64}", f"out={tmp_path}/run"]
        with pytest.raises(UserError, match="needs batches of one size"):
            train(read_config(settings=settings))


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ruledsl", "train"]
QUICK = ["data.train_images=320", "optimizer.name=sgd", "threads=1", "model.name=mlp", "model.options.activation=tanh"]


@pytest.mark.parametrize("rule", ["kolen_pollack", "weight_mirror"])
def test_two_processes_learn_what_one_learns_with_the_joint_batch(rule: str, tmp_path: Path) -> None:
    epochs = 4 if rule == "weight_mirror" else 2
    given = [f"--set={setting}" for setting in QUICK]
    command = [*TORCHRUN, rule, *given, f"--epochs={epochs}", "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    train(read_config(settings=[*QUICK, f"rule={rule}", f"epochs={epochs}", f"out={tmp_path / 'one'}"]))
    found, expected = (load_file(tmp_path / name / "weights.safetensors") for name in ("two", "one"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("two")] == ["two"]
    assert done.stdout.count("test error") == epochs + 2


def test_a_second_optimizer_has_a_schedule_of_its_own_in_both_engines() -> None:
    loaded = ruledsl.load("information_alignment")
    align = {"align": {"name": "adam", "lr": 0.01, "schedule": {"warmup": 1, "at": [2]}}}
    settings = {"optimizer": SGD, "optimizers": align, "schedule": {"warmup": 2}, "epochs": 4}
    ours, theirs = both(loaded, "digits_lenet", digits(96), **settings)
    found = theirs.engine.net.state_dict()
    plain, _ = both(
        loaded, "digits_lenet", digits(96), **{**settings, "optimizers": {"align": {"name": "adam", "lr": 0.01}}}
    )
    ours.losses(), theirs.losses(), plain.losses()
    program = loaded.compile("jax")
    others = in_torch(plain, program)
    for path, value in in_torch(ours, program).items():
        np.testing.assert_allclose(value, found[path].numpy(), rtol=1e-3, atol=1e-4, err_msg=path)
    assert np.abs(others["fc2.B"] - found["fc2.B"].numpy()).max() > 1e-3


def test_a_layer_with_parameters_of_its_own_keeps_them_while_those_of_the_others_change(tmp_path: Path) -> None:
    common = ["rule=kolen_pollack", "epochs=2", "data.train_images=320", "threads=1", "model.name=mlp"]
    common += ["model.options={hidden=[24, 16], activation='tanh'}", "parameters.decay={start=0.5, end=0.1}"]
    own = ["layers.fc2={rule='kolen_pollack', parameters={decay=0.001}}", "output=kolen_pollack"]
    losses = {}
    for name, more in {"own": own, "all": []}.items():
        for backend in ("torch", "jax"):
            settings = [*common, *more, f"backend={backend}", f"out={tmp_path / name / backend}"]
            losses[name, backend] = [epoch.test.loss for epoch in train(read_config(settings=settings)).epochs]
    for name in ("own", "all"):
        assert losses[name, "torch"] == pytest.approx(losses[name, "jax"], rel=1e-4)
    assert losses["own", "jax"][-1] != pytest.approx(losses["all", "jax"][-1], rel=1e-3)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_what_would_teach_nothing_is_a_message(backend: str, tmp_path: Path) -> None:
    settings = [f"backend={backend}", f"out={tmp_path}/run", "model.name=mlp"]
    with pytest.raises(UserError, match="every weight layer of mlp: nothing is left to learn"):
        train(read_config(settings=[*settings, "frozen=['*']"]))
    with pytest.raises(UserError, match="no rule of this run trains by an optimizer `algin`") as caught:
        train(read_config(settings=[*settings, "rule=symmetric_alignment", "optimizers.algin.lr=0.5"]))
    assert caught.value.help == "did you mean `align`?"
    with pytest.raises(UserError, match="the optimizer adam: nesterov is for sgd"):
        train(read_config(settings=[*settings, "optimizer.nesterov=true"]))


def test_a_growing_batch_is_written_down_and_read_again(tmp_path: Path) -> None:
    config = read_config(
        settings=["data.batch_size_after={1 = 64}", f"out={tmp_path}/run", "epochs=2", "model.name=mlp"]
    )
    assert read_config(train(config).folder / "config.toml").data.batch_size_after == {1: 64}
