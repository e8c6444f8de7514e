"""Learning rates and phases over time, and the probes."""

from __future__ import annotations

import numpy as np
import pytest

from ruledsl.program import Schedule
from ruledsl.training import probes
from ruledsl.training.config import ScheduleConfig
from ruledsl.training.schedule import Clock, rate_factor


def factor(config: ScheduleConfig, step: int, first: float = 0.0) -> float:
    return rate_factor(config, Clock(step, 10, 6), first)


def test_a_constant_rate_stays() -> None:
    assert {factor(ScheduleConfig(), step) for step in range(60)} == {1.0}


def test_steps_multiply_after_every_so_many_epochs() -> None:
    config = ScheduleConfig(every=2, factor=0.5)
    assert [factor(config, step) for step in (0, 19, 20, 39, 40)] == [1, 1, 0.5, 0.5, 0.25]


def test_steps_at_given_epochs_are_those_of_liao() -> None:
    config = ScheduleConfig(at=[3, 5], factor=0.1)
    assert [factor(config, step) for step in (29, 30, 50)] == pytest.approx([1, 0.1, 0.01])


def test_a_warm_up_rises_linearly_and_moves_from_the_first_step_on() -> None:
    config = ScheduleConfig(warmup=0.5)
    assert [factor(config, step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_the_schedule_begins_after_the_first_phases() -> None:
    assert [factor(ScheduleConfig(every=1), step, 2.0) for step in (0, 29, 30)] == pytest.approx([1, 1, 0.1])


def test_phases_follow_the_rule() -> None:
    mirror = Schedule(first=((2, ("mirror",)),), each=("task", "mirror"))
    assert mirror.phases(19, Clock(19, 10, 6).epochs_passed) == ("mirror",)
    assert mirror.phases(20, Clock(20, 10, 6).epochs_passed) == ("task", "mirror")
    turns = Schedule(alternate=("task", "align"))
    passed = [turns.phases(step, Clock(step, 10, 6).epochs_passed) for step in (0, 1, 2)]
    assert passed == [("task",), ("align",), ("task",)]


def test_progress_runs_from_zero_to_one() -> None:
    assert Clock(0, 10, 6).progress == 0
    assert Clock(59, 10, 6).progress == pytest.approx(59 / 60)
    assert Clock(59, 10, 6).epoch == 5


def test_probes_measure_angle_signs_and_norms() -> None:
    w = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert probes.angle(w, w) == pytest.approx(0, abs=1e-5)
    assert probes.angle(w, -3 * w) == pytest.approx(180)
    assert probes.angle(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(90)
    assert np.isnan(probes.angle(w, 0 * w))
    assert probes.sign_concordance(np.array([1.0, -2, 3, -4]), np.array([2.0, 2, 2, -2])) == 0.75
    assert probes.norm_ratio(w, 3 * w) == pytest.approx(3)
