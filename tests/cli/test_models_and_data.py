"""`ruledsl models` and `ruledsl data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ruledsl import architectures, data
from ruledsl.cli.main import main


def test_every_network_is_listed_with_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["network"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows.keys() == architectures.TABLE.keys()
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert rows["liao_mnist"]["multiply_adds"] == 2_293_000
    assert main(["models"]) == 0
    assert "60,192,808" in capsys.readouterr().out


def test_the_layers_of_a_network_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "resnet18_cifar", "--json"]) == 0
    layers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(layer["parameters"] for layer in layers) == architectures.usual("resnet18_cifar").parameter_count()
    assert main(["models", "resnet19"]) == 2
    assert "did you mean `resnet18`" in capsys.readouterr().err


def test_every_dataset_is_listed_with_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RULEDSL_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cifar10" / "cifar-10-batches-bin").mkdir(parents=True)
    assert main(["data", "--json"]) == 0
    rows = {row["dataset"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows.keys() == data.TABLE.keys()
    assert rows["cifar10"]["there"] == str(tmp_path / "cifar10")
    assert rows["mnist"]["there"] is None and "train-" in rows["mnist"]["needs"]
    assert main(["data"]) == 0
    assert "cifar-100-python.tar.gz" in capsys.readouterr().out


def test_what_is_in_a_dataset_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "digits"]) == 0
    shown = capsys.readouterr().out
    assert "1442" in shown and "1 x 8 x 8" in shown
