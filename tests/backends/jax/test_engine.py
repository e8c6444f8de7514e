"""The training engine of JAX: what it compiles, where it computes, how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
from jax import monitoring
from safetensors.numpy import load_file

import ruledsl
from ruledsl import architectures, data
from ruledsl.cli.main import main
from ruledsl.errors import UserError
from ruledsl.training import Config
from ruledsl.training.engine import Diverged, Steps
from ruledsl.training.loop import steps_of
from ruledsl.training.preparation import resolved
from ruledsl_jax.engine import Engine

HERE = Path(__file__).parent
COMPILED = "/jax/core/compile/backend_compile_duration"
RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]


def ready(rule: str | None, model: str = "mlp", **settings: Any) -> tuple[Engine, list[Steps], data.Dataset]:
    """An engine, the steps of its epochs, and what it learns from: 160 digits, in batches of 16."""
    dataset = data.load("digits").limited(160, 64).standardized()
    program = ruledsl.load(rule).compile("jax") if rule else None
    config = Config.model_validate({"backend": "jax", "epochs": 3, "data": {"batch_size": 16}, **settings})
    config = resolved(config, dataset, (program, None))
    network = architectures.get(model, dataset.shape, dataset.classes)
    engine = Engine()
    engine.init(network, program, None, config)
    schedule = program.schedule if program else None
    runs = [steps_of(dataset, config, schedule or engine.schedule, epoch) for epoch in range(config.epochs)]
    return engine, runs, dataset


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What JAX compiles meanwhile."""
    found: list[str] = []

    def heard(event: str, duration: float, **_: Any) -> None:
        if event == COMPILED:
            found.append(event)

    monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        monitoring.unregister_event_duration_listener(heard)


def test_compilations_are_heard_of() -> None:
    with compilations() as found:
        jax.jit(lambda x: x * 3.25 + len(found))(1.0)
    assert found


@pytest.mark.parametrize("model", ["mlp", "digits_lenet"])
@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("weight_mirror", {"epochs": 4}),
        ("weight_mirror_ad", {}),
        ("brsf_p", {}),
        ("direct_feedback_alignment", {"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}}),
        ("dense_feedback_alignment", {"schedule": {"warmup": 0.5}}),
        ("kolen_pollack", {"parameters": {"decay": {"start": 0.1, "end": 0.001, "shape": "geometric"}}}),
        (None, {}),
    ],
)
def test_nothing_is_compiled_after_the_first_epoch(rule: str | None, settings: dict[str, Any], model: str) -> None:
    engine, runs, dataset = ready(rule, model, **settings)
    engine.evaluate(dataset.test, 50)
    list(engine.steps(runs[0]))
    engine.evaluate(dataset.test, 50)
    engine.probe(dataset.test), engine.state()
    with compilations() as found:
        for run in runs[1:]:
            list(engine.steps(run))
            engine.evaluate(dataset.test, 50)
            engine.probe(dataset.test), engine.state()
    assert not found


def test_runs_that_differ_in_numbers_alone_share_their_programs() -> None:
    one, runs, dataset = ready("kolen_pollack", "digits_lenet", seed=1)
    list(one.steps(runs[0]))
    one.evaluate(dataset.test, 50)
    with compilations() as found:
        settings = {"seed": 2, "optimizer": {"lr": 0.003}, "parameters": {}}
        other, runs, dataset = ready("kolen_pollack", "digits_lenet", **settings)
        list(other.steps(runs[0]))
        other.evaluate(dataset.test, 50)
    assert not found


@pytest.mark.parametrize("model", ["mlp", "digits_lenet"])
def test_a_run_that_diverges_says_where_and_learns_nothing_more(model: str) -> None:
    engine, runs, _ = ready("feedback_alignment", model, optimizer={"name": "sgd", "lr": 1e20})
    scores = []
    with pytest.raises(Diverged) as ended:
        for score in engine.steps(runs[0]):
            scores.append(score)
    assert 0 < len(scores) < 10 and all(score is not None and np.isfinite(score.loss) for score in scores)
    assert "layer" in ended.value.where
    before = engine.state()
    with pytest.raises(Diverged):
        list(engine.steps(runs[1]))
    after = engine.state()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


@pytest.mark.parametrize("rule", ["weight_mirror_ad", "brsf_p", "direct_kolen_pollack"])
@pytest.mark.parametrize("model", ["mlp", "digits_lenet"])
def test_a_run_goes_on_from_a_state_as_if_it_had_never_stopped(rule: str, model: str) -> None:
    first, runs, _ = ready(rule, model)
    list(first.steps(runs[0]))
    state = first.state()
    expected = [score and score.loss for score in first.steps(runs[1])]
    other, runs, _ = ready(rule, model)
    other.load_state(state)
    assert [score and score.loss for score in other.steps(runs[1])] == expected
    for name, value in first.state().items():
        np.testing.assert_array_equal(value, other.state()[name])


def test_weights_have_the_names_of_flax() -> None:
    engine, _, _ = ready("feedback_alignment")
    state = engine.state()
    assert state["network.fc1.kernel"].shape == (64, 256)
    assert {"network.fc1.bias", "network.fc2.B"} <= state.keys()


def test_the_engine_says_how_it_goes_through_a_run() -> None:
    assert "one program for each step" in ready("feedback_alignment", "digits_lenet")[0].notes[-1]
    assert "64 steps in one program" in ready("feedback_alignment", "mlp")[0].notes[-1]


# --- devices ---


def test_a_device_that_was_asked_for_by_name_is_there_or_an_error() -> None:
    with pytest.raises(UserError, match="JAX cannot open the device tpu"):
        ready("feedback_alignment", device="tpu")
    assert ready("feedback_alignment", device="cpu")[0].mesh.size == 1


def test_more_devices_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match="7 devices were asked for"):
        ready("feedback_alignment", devices=7)


def test_a_device_that_cannot_be_opened_is_a_message_and_the_cpu() -> None:
    code = (
        "import jax; from ruledsl_jax.devices import mesh_of; mesh, note = mesh_of(None, None, None, 16);"
        "print(mesh.devices.flat[0].platform, note)"
    )
    env = {**os.environ, "JAX_PLATFORMS": "tpu"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.startswith("cpu computing on the CPU: JAX cannot open another device (")


def test_four_devices_learn_what_one_learns() -> None:
    found = subprocess.run(
        [sys.executable, HERE / "engine_on_a_mesh.py", *RULES], capture_output=True, text=True, env={**os.environ}
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("the same on 4 devices") == len(RULES)


def test_compiled_programs_are_found_by_the_next_process(tmp_path: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_ENABLE_COMPILATION_CACHE": "true"}
    kept = []
    for run in ("one", "two"):
        call = ["-m", "ruledsl", "train", "feedback_alignment", "--backend", "jax", "--epochs", "1"]
        call += ["--set", "data.train_images=64", "--out", str(tmp_path / run)]
        subprocess.run([sys.executable, *call], env=env, check=True, capture_output=True)
        kept.append(sorted(path.name for path in tmp_path.glob("ruledsl/programs/*/*-cache")))
    assert kept[0] and kept[0] == kept[1]


def test_two_processes_share_a_run(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def started(out: Path, processes: int, number: int) -> subprocess.Popen[str]:
        env = {**os.environ, "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_ID": str(number)}
        call = ["-m", "ruledsl", "train", "kolen_pollack", "--backend", "jax", "--epochs", "1", "--out", str(out)]
        call += ["--set", "data.train_images=128", "--set", f"processes={processes}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, *call], env=env, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    both = [started(tmp_path / "shared", 2, number) for number in (0, 1)]
    said = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert "test error" in said[0][0] and "JAX on cpu x 2" in said[0][0] and "test error" not in said[1][0]
    assert started(tmp_path / "alone", 1, 0).wait(timeout=120) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"shared", "alone"}
    weights, expected = (load_file(tmp_path / name / "weights.safetensors") for name in ("shared", "alone"))
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=1e-5)


def test_processes_that_do_not_find_each_other_are_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "usf", "--backend", "jax", "--set", "processes=2"]) == 2
    assert "the 2 processes do not find each other" in capsys.readouterr().err
    assert main(["train", "usf", "--backend", "torch", "--set", "processes=2"]) == 2
    assert "2 processes were asked for" in capsys.readouterr().err
    assert main(["compare", "usf", "--backend", "jax", "--set", "processes=2"]) == 2
    assert "a comparison runs in one process" in capsys.readouterr().err
