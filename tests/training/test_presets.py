"""Presets that ship: they can be read, name what there is, and give way to what a user says."""

from __future__ import annotations

from pathlib import Path

import pytest

import ruledsl
from ruledsl import architectures, data
from ruledsl.cli.main import main
from ruledsl.data.augment import augmentations
from ruledsl.training import presets, read_config
from ruledsl.training.preparation import prepare
from ruledsl.training.settings import for_rule


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_names_what_there_is(name: str) -> None:
    config = read_config(preset=name)
    assert config.model.name in ("", *architectures.TABLE)
    assert config.data.name in data.TABLE
    augmentations(config.data.augment)
    for rule in config.rules:
        loaded = ruledsl.load(rule)
        own = for_rule(config, rule)
        assert set(own.parameters) <= set(loaded.parameters)
        assert set(own.optimizers) <= set(loaded.compile("torch").optimizers)
    assert presets.title(name) and not presets.title(name).startswith("#")


@pytest.mark.parametrize("name", [name for name in presets.names() if name != "default"])
def test_a_preset_says_where_its_numbers_are_from(name: str) -> None:
    text = presets.text(name)
    assert "et al." in text.splitlines()[0]
    assert "Left open by the paper, and chosen here" in text


def test_the_papers_settings() -> None:
    config = read_config(preset="moskovitz_mnist", rule="usf_sn")
    assert (config.epochs, config.data.batch_size, config.optimizer.name, config.optimizer.lr) == (25, 50, "adam", 1e-4)
    assert (config.schedule.at, config.schedule.factor) == ([20], 0.1)
    mirror = read_config(preset="akrout_imagenet_resnet18", rule="weight_mirror")
    assert (mirror.schedule.at, mirror.optimizer.lr) == ([30, 60, 80], 1.0)
    assert read_config(preset="akrout_imagenet_resnet18", rule="usf").optimizer.lr == 0.5


def test_what_is_said_goes_over_what_a_preset_has_for_a_rule(tmp_path: Path) -> None:
    assert read_config(rule="brsf_p").optimizer.lr == 0.005
    assert read_config(rule="usf").optimizer.lr == 0.001
    assert read_config(rule="brsf_p", settings=["optimizer.lr=0.1"]).optimizer.lr == 0.1
    assert read_config(rule="brsf_p", settings=["optimizer.name=sgd"]).optimizer.lr == 0.01
    assert read_config(rule="brsf_p", model={"name": "mlp"}).model.batch_norm is False
    path = tmp_path / "mine.toml"
    path.write_text("[optimizer]\nlr = 0.2\n[rules.usf.optimizer]\nlr = 0.3\n")
    assert read_config(path, rule="brsf_p").optimizer.lr == 0.2
    assert read_config(path, rule="usf").optimizer.lr == 0.3
    assert for_rule(read_config(path), "usf").optimizer.lr == 0.3


def test_presets_are_listed_and_a_wrong_one_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--presets"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in presets.names())
    assert main(["train", "usf", "--preset", "moskovitz_mnst"]) == 2
    assert "did you mean `moskovitz_mnist`" in capsys.readouterr().err


CAN = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule" and not name.startswith("oja")]
ALIGNED = ("kolen_pollack", "weight_mirror", "symmetric_", "activation_", "information_alignment")


@pytest.mark.long
@pytest.mark.parametrize("rule", CAN)
def test_a_rule_learns_the_digits_with_nothing_else_set(rule: str, tmp_path: Path) -> None:
    from ruledsl.training import train

    bound = 0.06 if rule.startswith(ALIGNED) else 0.15
    for seed in range(3):
        run = train(read_config(rule=rule, epochs=12, seed=seed, probe_every=0, out=tmp_path / f"{seed}"))
        assert run.test_error < bound


@pytest.mark.parametrize("rule", [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"])
def test_a_rule_that_cannot_learn_labels_says_so_before_it_starts(rule: str, tmp_path: Path) -> None:
    notes = prepare(read_config(rule=rule, out=tmp_path / "run")).notes
    assert any("classifies by guessing" in note for note in notes) == rule.startswith("oja")
