"""Whole runs with PyTorch, small ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ruledsl
from ruledsl import architectures, data
from ruledsl.emit.backend import backend
from ruledsl.errors import UserError
from ruledsl.program import TASK, Program
from ruledsl.training import Config, Interrupted, Listener, TrainingDiverged, read_config, train
from ruledsl.training.engine import Diverged, Score
from ruledsl.training.preparation import resolved
from ruledsl.training.schedule import Clock
from ruledsl_torch.engine import Engine

QUICK = [
    "data.name=synthetic",
    "data.options.noise=0.5",
    "data.options.train=128",
    "epochs=3",
    "model.options.hidden=[20]",
]
EVERY_RULE = ["backprop", "feedback_alignment", "usf", "usf_sn", "kolen_pollack", "direct_feedback_alignment", "brsf"]


def quick(tmp_path: Path, *settings: str) -> Config:
    return read_config(settings=[*QUICK, f"out={tmp_path / 'run'}", *settings])


def engine(config: Config, rule: str | None) -> tuple[Engine, data.Dataset]:
    dataset = data.load("synthetic", **config.data.options)
    network = architectures.get("mlp", dataset.shape, dataset.classes, **config.model.options)
    made = Engine()
    made.init(network, ruledsl.load(rule).compile("torch") if rule else None, None, config)
    return made, dataset


def steps(engine: Engine, dataset: data.Dataset, epoch: int) -> list[Score]:
    batches = enumerate(dataset.train.shuffled(16, 0, epoch))
    return [engine.step(batch, {"": 1.0}, Clock(8 * epoch + i, 8, 2)) for i, batch in batches]


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_a_rule_learns_to_classify(rule: str, tmp_path: Path) -> None:
    run = train(quick(tmp_path, f"rule={rule}", "optimizer.lr=0.01", "epochs=6"))
    assert run.epochs[0].test.error > 0.7
    assert run.test_error < 0.05


def test_a_run_folder_holds_everything(tmp_path: Path) -> None:
    run = train(quick(tmp_path, "rule=kolen_pollack", "parameters.decay=0.01", "tensorboard=true"))
    files = {path.name for path in run.folder.iterdir()}
    assert files == {
        "checkpoints",
        "config.toml",
        "environment.json",
        "feedback.safetensors",
        "kolen_pollack.rule",
        "kolen_pollack_torch.py",
        "ledger.json",
        "metrics.jsonl",
        "summary.json",
        "tensorboard",
        "weights.safetensors",
    }
    config = read_config(run.folder / "config.toml")
    assert (config.model.name, config.parameters) == ("mlp", {"decay": 0.01})
    metrics = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [0, 1, 2, 3]
    assert metrics[3]["test_error"] == run.test_error
    assert 0 < metrics[3]["angle/fc2"] < 90
    assert "angle/fc1" not in metrics[3]
    assert json.loads((run.folder / "ledger.json").read_text())["verdict"] == "local"
    weights = load_file(run.folder / "weights.safetensors")
    assert weights["fc1.weight"].shape == (20, 64)
    assert weights["fc2.B"].shape == (10, 20)


def test_the_ledger_file_says_where_the_information_moves(tmp_path: Path) -> None:
    run = train(quick(tmp_path, "epochs=0"))
    (entry,) = json.loads((run.folder / "ledger.json").read_text())["ledger"]
    assert (entry["source"], entry["channel"], entry["sink"]) == ("W", "reverse", "send")


SWINGING = """
optimizer swinging {
  state side : scalar = 1
  side <- -side
  p <- p - lr * g + 0.3 * side
}
"""


def test_an_optimizer_that_moves_thresholds_is_told_of_beside_a_rule_that_reads_signs(tmp_path: Path) -> None:
    path = tmp_path / "swinging.rule"
    path.write_text(SWINGING, encoding="utf-8")

    def said(rule: str, optimizer: str) -> list[str]:
        run = train(quick(tmp_path / rule, "epochs=0", f"rule={rule}", f"optimizer.name={optimizer}"))
        network: list[str] = json.loads((run.folder / "ledger.json").read_text())["network"]
        return network

    assert any("sign(W) tells values" in line for line in said("usf", str(path)))
    assert not said("usf", "manhattan_1")
    assert not said("kolen_pollack", str(path))


def test_two_runs_of_one_seed_are_bit_identical(tmp_path: Path) -> None:
    first, second = (load_file(train(quick(tmp_path, "rule=brsf")).folder / "weights.safetensors") for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_another_seed_begins_with_other_weights_and_another_rule_with_the_same(tmp_path: Path) -> None:
    config = quick(tmp_path)
    states = [
        engine(config.model_copy(update={"seed": seed}), rule)[0].state()
        for seed, rule in [(0, "backprop"), (1, "backprop"), (0, "feedback_alignment"), (0, None)]
    ]
    weights = [state["network.fc1.weight"] for state in states]
    assert not np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])
    assert np.array_equal(weights[0], weights[3])


def test_the_rule_backprop_learns_what_autograd_learns(tmp_path: Path) -> None:
    states = []
    for rule in ("backprop", None):
        made, dataset = engine(quick(tmp_path), rule)
        steps(made, dataset, 0)
        states.append(made.state())
    for name, value in states[1].items():
        if name.startswith("network."):
            np.testing.assert_allclose(states[0][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [None, "brsf", "kolen_pollack"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_engine_goes_on_from_a_saved_state_as_if_nothing_had_happened(
    rule: str | None, optimizer: str, tmp_path: Path
) -> None:
    config = quick(tmp_path, f"optimizer.name={optimizer}")
    first, dataset = engine(config, rule)
    steps(first, dataset, 0)
    saved = first.state()
    scores = steps(first, dataset, 1)
    second, _ = engine(config, rule)
    second.load_state(saved)
    assert steps(second, dataset, 1) == scores
    ends = first.state(), second.state()
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_evaluating_leaves_no_trace(tmp_path: Path) -> None:
    made, dataset = engine(quick(tmp_path), "brsf")
    before = made.state()
    score = made.evaluate(dataset.test, 100)
    assert (score.images, made.evaluate(dataset.test, 7).wrong) == (256, score.wrong)
    after = made.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_diverging_run_stops_and_says_where_and_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged) as caught:
        train(quick(tmp_path, "optimizer.name=sgd", "optimizer.lr=1e30"))
    message = str(caught.value)
    assert "appeared first in layer fc2: its activity" in message
    assert "optimizer.lr is 1e+30" in message
    run = caught.value.run
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "diverged"
    assert (run.folder / "weights.safetensors").exists()


def test_broken_weights_are_found_from_the_output_down(tmp_path: Path) -> None:
    made, dataset = engine(quick(tmp_path), "feedback_alignment")
    state = made.state()
    for name in ("network.fc1.weight", "network.fc2.bias"):
        state[name] = np.full_like(state[name], np.nan)
    made.load_state(state)
    with pytest.raises(Diverged) as caught:
        steps(made, dataset, 0)
    assert caught.value.where == "layer fc2: its bias"


def test_activity_that_overflows_is_found_from_the_input_up(tmp_path: Path) -> None:
    made, dataset = engine(quick(tmp_path), "backprop")
    state = made.state()
    state["network.fc1.weight"] = np.full_like(state["network.fc1.weight"], 1e38)
    made.load_state(state)
    with pytest.raises(Diverged) as caught:
        steps(made, dataset, 0)
    assert caught.value.where == "layer fc1: its activity"


class Heard(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class InterruptedAt(Listener):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, clock: Clock, score: Score) -> None:
        if clock.step == self.at:
            raise KeyboardInterrupt


def test_an_interrupted_run_keeps_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="interrupted in epoch 2 of 3") as caught:
        train(quick(tmp_path), InterruptedAt(5))
    run = caught.value.run
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "interrupted"
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 2
    whole = train(quick(tmp_path, "epochs=1"))
    kept, same = (load_file(folder / "weights.safetensors") for folder in (run.folder, whole.folder))
    assert all(np.array_equal(kept[name], same[name]) for name in same)
    assert not list(run.folder.glob("*.partial")) + list(run.folder.glob(".*"))


def test_nothing_is_written_when_the_call_is_wrong(tmp_path: Path) -> None:
    for settings in (["data.name=absent"], ["model.name=absent"], ["backend=absent"], ["parameters.absent=1"]):
        with pytest.raises(UserError):
            train(quick(tmp_path, *settings))
    assert not list(tmp_path.iterdir())


def test_a_backend_without_an_engine_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ruledsl.training.engine.backend", lambda name: replace(backend(name), engine=None))
    with pytest.raises(UserError, match="the backend jax compiles rules, but it has no training engine"):
        train(quick(tmp_path, "backend=jax"))


def test_the_last_layer_can_follow_another_rule(tmp_path: Path) -> None:
    run = train(quick(tmp_path, "rule=feedback_alignment", "output=backprop"))
    weights = load_file(run.folder / "weights.safetensors")
    assert "fc2.B" not in weights
    assert "backprop_torch.py" in {path.name for path in run.folder.iterdir()}


def test_the_verdict_of_a_run_is_that_of_all_that_trains_it(tmp_path: Path) -> None:
    alone = train(quick(tmp_path / "a", "rule=feedback_alignment", "epochs=0"))
    assert (alone.verdict, alone.summary()["verdict"]) == ("local", "local")
    heard = Heard()
    run = train(quick(tmp_path / "b", "rule=feedback_alignment", "output=backprop", "epochs=0"), heard)
    found = json.loads((run.folder / "ledger.json").read_text())
    assert run.verdict == found["verdict"] == "nonlocal"
    assert [(part["role"], part["verdict"]) for part in found["parts"]] == [
        ("rule", "local"),
        ("output rule", "nonlocal"),
    ]
    assert any("with one hidden layer this is backpropagation itself" in note for note in heard.notes)
    constrained = train(quick(tmp_path / "c", "rule=feedback_alignment", "constraints=['constant_norm']", "epochs=0"))
    found = json.loads((constrained.folder / "ledger.json").read_text())
    assert found["verdict"] == "nonlocal"
    assert {(entry["part"], entry["channel"]) for entry in found["ledger"]} == {("constant_norm", "norm")}


def test_a_layer_that_is_left_to_the_framework_sends_backwards(tmp_path: Path) -> None:
    deep = ["rule=feedback_alignment", "model.options.hidden=[12,12]", "epochs=0"]
    first = train(quick(tmp_path / "first", *deep, "layers.fc1.rule=none"))
    assert first.verdict == "local"  # the first layer sends to nobody
    last = train(quick(tmp_path / "last", *deep, "layers.fc3.rule=none"))
    assert last.verdict == "nonlocal"
    parts = json.loads((last.folder / "ledger.json").read_text())["parts"]
    assert [(part["verdict"], part["where"]) for part in parts] == [("local", "fc1, fc2"), ("nonlocal", "fc3")]


def test_an_optimizer_that_reads_a_norm_makes_a_run_nonlocal(tmp_path: Path) -> None:
    lars = tmp_path / "lars.rule"
    lars.write_text("optimizer lars { p <- p - lr * norm(p) * g  locality { allow norm(p) } }")
    run = train(quick(tmp_path / "run", "rule=feedback_alignment", f"optimizer.name={lars}", "epochs=0"))
    assert run.verdict == "nonlocal"


def test_layers_can_follow_rules_by_their_names(tmp_path: Path) -> None:
    settings = ["rule=usf", "layers.fc2.rule=kolen_pollack", "layers.fc2.parameters.decay=0.01", "epochs=1"]
    run = train(quick(tmp_path, *settings))
    weights = load_file(run.folder / "weights.safetensors")
    assert "fc2.B" in weights and "fc1.B" not in weights
    assert {"layers1_kolen_pollack.rule", "usf.rule"} <= {p.name for p in run.folder.iterdir()}
    again = train(read_config(run.folder / "config.toml", [f"out={tmp_path / 'again'}"]))
    same = load_file(again.folder / "weights.safetensors")
    assert all((same[name] == weights[name]).all() for name in weights)


def test_layers_that_are_left_alone_learn_by_autograd(tmp_path: Path) -> None:
    found = [
        load_file(train(quick(tmp_path / name, *settings, "epochs=1")).folder / "weights.safetensors")
        for name, settings in {"a": ["rule=backprop"], "b": ["rule=backprop", "layers.fc1.rule=none"]}.items()
    ]
    assert found[0].keys() == found[1].keys()
    assert all(abs(found[0][name] - found[1][name]).max() < 1e-5 for name in found[0])


def test_a_pattern_of_no_layer_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'conv1' of rules names no layer of fc1, fc2"):
        train(quick(tmp_path, "layers.conv1.rule=usf"))


def test_weight_decay_of_the_optimizer_leaves_alone_what_the_rule_decays(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Listener):
        def note(self, text: str) -> None:
            notes.append(text)

    train(quick(tmp_path, "rule=kolen_pollack", "optimizer.weight_decay=0.1", "epochs=0"), Notes())
    assert len(notes) == 1
    assert "the rule decays B, W itself" in notes[0]
    made, _ = engine(quick(tmp_path, "optimizer.weight_decay=0.1"), "kolen_pollack")
    groups = made.optimizers[TASK].param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 2), (0.0, 4)]


def test_an_optimizer_of_the_rule_is_a_default_that_settings_override(tmp_path: Path) -> None:
    config = quick(tmp_path, "optimizer.momentum=0.5", "optimizers.align.lr=0.3")
    optimizers = {"task": ("sgd", {"lr": 0.1, "momentum": 0.9}), "align": ("adam", {"lr": 0.0098})}
    program = Program("r", "torch", "", (), (), {}, optimizers)
    chosen = resolved(config, data.load("synthetic"), (program, None))
    assert (chosen.optimizer.name, chosen.optimizer.lr, chosen.optimizer.momentum) == ("sgd", 0.1, 0.5)
    assert (chosen.optimizers["align"].name, chosen.optimizers["align"].lr) == ("adam", 0.3)


LEARNERS = [
    "activation_alignment",
    "dense_feedback_alignment",
    "direct_kolen_pollack",
    "direct_sign_symmetry",
    "information_alignment",
    "symmetric_alignment",
    "weight_mirror",
]


@pytest.mark.parametrize("rule", LEARNERS)
def test_a_rule_with_phases_learns_to_classify_and_is_resumed_exactly(rule: str, tmp_path: Path) -> None:
    run = train(quick(tmp_path, f"rule={rule}", "optimizer.lr=0.01", "epochs=8"))
    assert run.test_error < 0.35  # nine in ten by chance
    config = resolved(quick(tmp_path, f"rule={rule}"), data.load("synthetic"), (compiled(rule), None))
    first, dataset = engine(config, rule)
    scheduled(first, dataset, rule, 0)
    saved = first.state()
    scores = scheduled(first, dataset, rule, 1)
    second, _ = engine(config, rule)
    second.load_state(saved)
    assert scheduled(second, dataset, rule, 1) == scores
    ends = first.state(), second.state()
    assert ends[0].keys() == ends[1].keys()
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def compiled(rule: str) -> Program:
    return ruledsl.load(rule).compile("torch")


def scheduled(engine: Engine, dataset: data.Dataset, rule: str, epoch: int) -> list[Score]:
    batches = enumerate(dataset.train.shuffled(16, 0, epoch))
    clocks = [(Clock(8 * epoch + i, 8, 2), batch) for i, batch in batches]
    return [engine.step(batch, {"": 1.0}, clock) for clock, batch in clocks]


def test_a_phase_without_the_batch_has_no_score(tmp_path: Path) -> None:
    run = train(quick(tmp_path, "rule=weight_mirror", "epochs=3"))
    assert [epoch.train is None for epoch in run.epochs] == [True, True, True, False]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["train_loss"] is None for line in lines] == [True, True, True, False]
    assert run.seconds_per_epoch is not None


def test_what_diverges_without_the_batch_stops_the_run_as_well(tmp_path: Path) -> None:
    path = tmp_path / "growing.rule"
    path.write_text(
        "rule growing { fixed B : post -> pre ~ xavier() feedback send = B @ delta\n"
        "phase grow { drive x = normal(0, 1)  W <- 1e9 * W }\n"
        "schedule { first 2 epochs : grow  each step : task } }"
    )
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        train(quick(tmp_path, f"rule={path}", "epochs=2"))


def test_mirroring_alone_moves_no_forward_weight(tmp_path: Path) -> None:
    runs = [train(quick(tmp_path, "rule=weight_mirror", f"epochs={epochs}")) for epochs in (0, 2, 3)]
    states = [load_file(run.folder / "weights.safetensors") for run in runs]
    assert np.array_equal(states[0]["fc1.weight"], states[1]["fc1.weight"])
    assert not np.array_equal(states[0]["fc2.B"], states[1]["fc2.B"])
    assert not np.array_equal(states[1]["fc1.weight"], states[2]["fc1.weight"])


@pytest.mark.parametrize("optimizer", ["manhattan_1", "manhattan_2", "manhattan_3", "noisy_sgd"])
def test_every_optimizer_of_the_library_trains(optimizer: str, tmp_path: Path) -> None:
    lr = {"noisy_sgd": 0.1, "manhattan_1": 0.001}.get(optimizer, 0.005)
    settings = ["rule=feedback_alignment", f"optimizer.name={optimizer}", f"optimizer.lr={lr}", "epochs=6"]
    run = train(quick(tmp_path, *settings))
    assert run.test_error < 0.35
    assert read_config(run.folder / "config.toml").optimizer.name == optimizer


def test_constraints_hold_in_a_run(tmp_path: Path) -> None:
    settings = (
        "rule=backprop",
        "constraints=['frozen_signs', 'constant_norm']",
        "constraint_parameters.frozen_signs.at=0.3",
    )
    runs = [train(quick(tmp_path, *settings, "optimizer.lr=0.1", f"epochs={epochs}")) for epochs in (0, 3)]
    before, after = (load_file(run.folder / "weights.safetensors") for run in runs)
    for layer in ("fc1", "fc2"):
        sizes = [np.linalg.norm(state[f"{layer}.weight"]) for state in (before, after)]
        assert sizes[1] == pytest.approx(sizes[0], rel=1e-4)
        assert np.array_equal(np.sign(after[f"{layer}.weight"]), after[f"{layer}.frozen_signs_s"])
        assert not np.array_equal(after[f"{layer}.frozen_signs_s"], before[f"{layer}.frozen_signs_s"])
    assert {"constant_norm.rule", "frozen_signs_torch.py"} <= {path.name for path in runs[1].folder.iterdir()}
    with pytest.raises(UserError, match="no constraint but of the kind rule"):
        train(quick(tmp_path, "constraints=['backprop']"))
    with pytest.raises(UserError, match="no parameter `att`"):
        train(quick(tmp_path, "constraints=['frozen_signs']", "constraint_parameters.frozen_signs.att=1"))


def test_a_parameter_follows_its_schedule(tmp_path: Path) -> None:
    config = quick(tmp_path, "rule=kolen_pollack", "parameters.decay={start=0.5, end=0.1}")
    made, dataset = engine(config, "kolen_pollack")
    batch = next(iter(dataset.train.shuffled(16, 0, 0)))
    for step, value in ((0, 0.5), (8, 0.3)):
        made.step(batch, {"": 1.0}, Clock(step, 8, 2))
        assert float(made.net.ruledsl.settings["decay"]) == pytest.approx(value)  # type: ignore[union-attr, arg-type]
    run = train(config)
    assert read_config(run.folder / "config.toml").schedules["decay"].end == 0.1


def test_the_optimizer_of_a_rule_has_the_defaults_of_its_definition(tmp_path: Path) -> None:
    chosen = resolved(quick(tmp_path), data.load("synthetic"), (compiled("weight_mirror_tpe"), None)).optimizers[
        "align"
    ]
    assert (chosen.name, chosen.lr, chosen.momentum) == ("sgd", 1.0, 0.0)


@pytest.mark.parametrize("rule", ["activation_alignment", "weight_mirror", "dense_feedback_alignment"])
def test_a_compiled_network_trains_in_phases(rule: str, tmp_path: Path) -> None:
    settings = ["epochs=3", "data.options.train=64", "optimizer.lr=0.01"]
    plain, fast = (
        train(quick(tmp_path, f"rule={rule}", f"compile={flag}", *settings)).epochs[-1].test.loss
        for flag in ("false", "true")
    )
    assert fast == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize(
    ("rule", "settings", "angle"),
    [
        ("weight_mirror", ["parameters.decay_B=0.05"], 35),
        ("symmetric_alignment", ["optimizers.align.lr=0.01"], 10),
        ("kolen_pollack", ["parameters.decay=0.1", "optimizer.name=sgd", "optimizer.lr=0.02"], 10),
    ],
)
def test_the_angle_between_feedback_and_forward_weights_closes(
    rule: str, settings: list[str], angle: float, tmp_path: Path
) -> None:
    run = train(quick(tmp_path, f"rule={rule}", "epochs=20", "data.batch_size=16", *settings))
    angles = [epoch.probes["angle/fc2"] for epoch in run.epochs]
    assert angles[0] > 60
    assert angles[-1] < angle
