"""Probes: every rule, both backends, from one state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("jax")
pytest.importorskip("torch")

from backends.both import Side, both, digits

import ruledsl
from ruledsl.training import read_config, train
from ruledsl.training.loop import steps_of

RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]
GENTLE = {"optimizer": {"name": "sgd", "lr": 0.002, "momentum": 0.9}}
WITHOUT_MAP = {"oja", "oja_subspace"}

pytestmark = pytest.mark.filterwarnings("ignore::ruledsl.errors.RuleWarning")


def probed(side: Side) -> dict[str, float]:
    """What the second of two probes finds, an epoch after the first; and that no probe changes the state."""
    found: dict[str, float] = {}
    for epoch in range(2):
        list(side.engine.steps(steps_of(side.dataset, side.config, side.schedule, epoch)))
        before = side.engine.state()
        found = side.engine.probe(side.dataset.test)
        after = side.engine.state()
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name], equal_nan=True) for name in before)
    return found


@pytest.mark.parametrize("name", RULES)
def test_both_backends_measure_the_same_of_every_rule(name: str) -> None:
    ours, theirs = both(name, "digits_lenet", digits(48), epochs=4, **GENTLE)
    found, expected = probed(ours), probed(theirs)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # A sign that changed in one of the two, of a thousand, and the arc cosine near 1, are coarser than the state.
        tolerance = 0.2 if "angle" in key else 2e-3 if "sign" in key else 1e-3
        assert found[key] == pytest.approx(value, abs=tolerance, rel=1e-3, nan_ok=True), key
    assert {f"delta_angle/{path}" for path in ours.engine.learner.maps} <= found.keys()
    assert any(key.startswith("angle/") for key in found) == (name not in WITHOUT_MAP)


# Averages of a normalisation and noise that drives layers; dropout and noise in every pass.
NORMALISED, DROPPED = ("weight_mirror", "model.batch_norm=true"), ("backprop_noise", "model.name=moskovitz_mnist")


@pytest.mark.parametrize(
    ("backend", "rule", "model"),
    [
        ("torch", *NORMALISED),
        ("jax", *NORMALISED),
        ("torch", *DROPPED),
        pytest.param("jax", *DROPPED, marks=pytest.mark.long),
    ],
)
def test_a_run_does_not_notice_its_probes(backend: str, rule: str, model: str, tmp_path: Path) -> None:
    settings = [f"rule={rule}", f"backend={backend}", "epochs=3", "threads=1", "data.train_images=96", model]
    for every in (0, 1):
        train(read_config(settings=[*settings, f"probe_every={every}", f"out={tmp_path}/{every}"]))
    found, expected = (load_file(tmp_path / every / "weights.safetensors") for every in ("1", "0"))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
