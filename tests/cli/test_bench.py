"""`ruledsl bench`."""

from __future__ import annotations

import json

import pytest

from ruledsl.cli.main import main


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_rule_is_measured_beside_native_backpropagation(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["bench", "feedback_alignment", "--model", "digits_lenet", "--backend", backend, "--rounds", "2"]
    assert main([*call, "--set", "data.batch_size=8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    native, own = found["costs"]
    assert (native["name"], own["name"], native["ratio"]) == ("native backprop", "feedback_alignment", 1.0)
    assert own["images_per_second"] == pytest.approx(8 / own["seconds"])
    assert 0.2 < own["ratio"] < 20 and own["quartiles"][0] <= own["ratio"] <= own["quartiles"][1]
    feedback = 4 * (32 * 16 * 9 + 128 * 64 + 64 * 10)
    assert feedback <= own["tensors"] - native["tensors"] < feedback + 2000
    assert own["memory"] > 10_000_000


def test_the_table_and_the_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "usf", "--model", "mlp", "--input", "20", "--rounds", "2"]) == 0
    assert "native backprop" in capsys.readouterr().out
    assert main(["bench", "usf", "--model", "mlpp"]) == 2
    assert "did you mean `mlp`" in capsys.readouterr().err
    assert main(["bench", "usf", "--model", "mlp", "--input", "3y4"]) == 2
    assert "--input 3x224x224" in capsys.readouterr().err
