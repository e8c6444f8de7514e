"""Configurations: reading, settings of the command line, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ruledsl.errors import UserError
from ruledsl.training.settings import parse_setting, read_config, to_toml


def test_a_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    settings = [
        'rule=odd "name"\\ .rule',
        "parameters.decay=1e-05",
        "parameters.scaled=true",
        'parameters.alpha={start=0.1, end=0.001, shape="geometric"}',
        "constraints=['constant_norm']",
        "optimizers.other={name='manhattan_1', parameters={decay=0.1}}",
        "model.options.hidden=[3, 4]",
        "optimizers.align.lr=0.1",
        "schedule.at=[2, 3]",
        'layers."block1_*.conv*"={rule="kolen_pollack", parameters={decay=0.1}}',
        "layers.fc1.rule=none",
        "data.train_images=100",
        f"out={tmp_path / 'süß'}",
    ]
    config = read_config(settings=settings)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config), "utf-8")
    assert read_config(path) == config


def test_every_field_is_written_with_its_meaning() -> None:
    for line in to_toml(read_config()).splitlines():
        assert not line or len(line.partition("  # ")[2]) > 3, line


def test_settings_go_over_flags_and_flags_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('epochs = 1\nseed = 1\n[model]\nname = "mlp"\n[data]\nname = "mnist"\nbatch_size = 7\n')
    config = read_config(path, ["epochs=3"], epochs=2, seed=2, backend=None, data={"name": "digits"})
    assert (config.epochs, config.seed, config.backend) == (3, 2, "torch")
    assert (config.data.name, config.data.batch_size, config.model.name) == ("digits", 7, "mlp")


def test_patterns_of_the_call_come_before_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[layers."*"]\nrule = "usf"\n[layers.fc1]\nrule = "none"\n')
    config = read_config(path, ["layers.fc2.rule=oja"], layers={"fc3": {"rule": "usf"}, "fc1": {"rule": "drtp"}})
    assert {pattern: layer.rule for pattern, layer in config.layers.items()} == {
        "fc3": "usf",
        "fc1": "drtp",
        "fc2": "oja",
        "*": "usf",
    }
    assert list(config.layers) == ["fc3", "fc1", "fc2", "*"]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("optimizer.lr=0.1", {"optimizer": {"lr": 0.1}}),
        ("model.name=mlp", {"model": {"name": "mlp"}}),
        ("compile=true", {"compile": True}),
        ('layers."b.*".rule=usf', {"layers": {"b.*": {"rule": "usf"}}}),
        ("rule=a=b", {"rule": "a=b"}),
        ('rule="3"', {"rule": "3"}),
    ],
)
def test_a_setting_is_a_path_and_a_value(setting: str, values: dict[str, object]) -> None:
    assert parse_setting(setting) == values


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.lrr=0.1", "has no field `lrr` in [optimizer]\n  help: did you mean `lr`?"),
        ("layers=3", "layers cannot be 3"),
        ("layers.fc1.parameters.decay=1", "layers.fc1.rule cannot be"),
        ('layers."fc1.rule=usf', "cannot read the setting"),
        ('layers.fc1={rule="none", parameters={decay=1}}', "layers that are left alone have no parameters"),
        ("epoch=3", "has no field `epoch`\n  help: did you mean `epochs`?"),
        ("optimizers.align.momntum=0", "did you mean `momentum`?"),
        ("optimizer.lr=-1", "optimizer.lr cannot be -1"),
        ("optimizer.lr=nan", "optimizer.lr cannot be nan"),
        ("optimizer.name=adm", "did you mean `adam`?"),
        ("optimizer.name=backprop", "backprop is a rule, no optimizer"),
        ('optimizer={name="manhattan_1", momentum=0.5}', "manhattan_1 takes its own, as parameters.momentum"),
        ("parameters.decay=x", "the setting parameters.decay cannot be 'x'"),
        ("parameters.decay.begin=1", "parameters.decay.start cannot be {'begin': 1}: Field required"),
        ("optimizer.parameters.momentum=0.5", "adam has no `parameters`"),
        ('parameters.decay={start=0.1, end=-1, shape="geometric"}', "of the same sign"),
        ("epochs=many", "epochs cannot be 'many'"),
        ("data.batch_size=0", "data.batch_size cannot be 0"),
        ("data=3", "data cannot be 3"),
        ("optimizer.lr", "write it as --set optimizer.lr=0.1"),
        ("=3", "cannot read the setting"),
        ("seed.x=3", "seed cannot be"),
        ("optimizer={name='adam', nesterov=true}", "nesterov is for sgd"),
        ('optimizer={name="sgd", betas=[0.5, 0.5]}', "betas is for adam"),
        ("rules=3", "rules cannot be 3"),
        ("rules.usf=3", "rules.usf cannot be 3"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_config(settings=[setting])
    assert said in str(caught.value)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match="needs a momentum"):
        read_config(settings=["optimizer.nesterov=true", "optimizer.momentum=0"])


def test_the_usual_learning_rate_follows_the_optimizer() -> None:
    assert read_config().optimizer.lr == 0.001
    assert read_config(settings=["optimizer.name=sgd"]).optimizer.lr == 0.01


@pytest.mark.parametrize(("content", "said"), [(b"epochs = ", "not valid TOML"), (b"\xff\xfe", "not valid TOML")])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_config(tmp_path / "absent.toml")
