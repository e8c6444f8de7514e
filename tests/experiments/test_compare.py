"""Comparisons of rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ruledsl.errors import UserError
from ruledsl.experiments import compare
from ruledsl.training import read_config

QUICK = ["data.name=synthetic", "data.options.train=128", "epochs=2", "model.options.hidden=[20]"]
PNG = b"\x89PNG\r\n\x1a\n"


def test_a_comparison_has_a_row_for_each_rule_and_a_run_for_each_seed(tmp_path: Path) -> None:
    config = read_config(settings=[*QUICK, f"out={tmp_path / 'c'}", "parameters.decay=0.001"])
    comparison = compare(config, ["backprop", "kolen_pollack"], [3, 4])
    assert [row.label for row in comparison.rows] == ["backprop", "kolen_pollack"]
    assert [row.rule.verdict for row in comparison.rows] == ["nonlocal", "local"]
    for row in comparison.rows:
        assert row.test_error is not None
        assert row.spread is not None
        assert row.seconds_per_epoch
    assert comparison.plot.read_bytes().startswith(PNG)
    results = json.loads(comparison.results.read_text())
    assert results["rules"][1]["parameters"] == {"decay": 0.001}
    assert [run["seed"] for run in results["rules"][0]["runs"]] == [3, 4]
    assert len(results["rules"][0]["runs"][0]["test_errors"]) == 3
    assert (comparison.folder / results["rules"][1]["runs"][1]["folder"] / "weights.safetensors").exists()


def test_a_rule_that_diverges_does_not_stop_the_others(tmp_path: Path) -> None:
    settings = [*QUICK, f"out={tmp_path / 'c'}", "optimizer.name=sgd", "optimizer.lr=1e30"]
    comparison = compare(read_config(settings=settings), ["backprop", "backprop"], [0])
    assert [row.label for row in comparison.rows] == ["backprop", "backprop-2"]
    assert [run.status for row in comparison.rows for run in row.runs] == ["diverged", "diverged"]
    assert comparison.rows[0].test_error is None
    assert comparison.plot.exists()


def test_nothing_is_written_when_one_of_the_rules_does_not_exist(tmp_path: Path) -> None:
    config = read_config(settings=[*QUICK, f"out={tmp_path / 'c'}"])
    with pytest.raises(UserError):
        compare(config, ["backprop", "backpropp"], [0])
    assert not list(tmp_path.iterdir())


def test_a_parameter_that_no_rule_has_gets_a_suggestion(tmp_path: Path) -> None:
    config = read_config(settings=[*QUICK, f"out={tmp_path / 'c'}", "parameters.dekay=1"])
    with pytest.raises(UserError, match="did you mean `decay`"):
        compare(config, ["backprop", "kolen_pollack"], [0])
