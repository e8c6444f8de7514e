"""The papers' tables name rules, optimizers, constraints and networks that exist."""

from __future__ import annotations

import pytest

import ruledsl
from ruledsl import architectures
from ruledsl.cli.main import main
from ruledsl.experiments.papers import TABLES


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_composition_of_what_the_library_has(name: str) -> None:
    for row in TABLES[name].rows:
        rule = ruledsl.load(row.rule, **row.parameters)
        assert rule.kind == "rule"
        assert ruledsl.load(row.optimizer).kind == "optimizer"
        assert all(ruledsl.load(constraint).kind == "constraint" for constraint in row.constraints)
        image = (3, 224, 224) if "imagenet" in row.reported else (3, 32, 32)
        shape = (1, 28, 28) if "mnist" in row.network else image
        assert architectures.get(row.network, shape, 10, **row.options).weight_layers()


def test_list_prints_the_rows_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--table", "moskovitz1"]) == 0
    shown = capsys.readouterr().out
    assert "FA-uSF Const. E/I" in shown
    assert "constant_norm frozen_signs" in shown


def test_an_unknown_table_is_an_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--table", "moskovits1"]) == 2
    assert "moskovitz1" in capsys.readouterr().err
