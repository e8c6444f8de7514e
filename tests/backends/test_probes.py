"""Probes: every rule, both backends, from one state."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

from backends.both import Side, both, digits

import ruledsl
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
