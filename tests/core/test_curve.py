"""Area and final score, against a step-by-step re-computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap_rl.core import LearningCurve


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, max_size=20).map(sorted),
    seed=st.integers(0, 1000),
    window=st.integers(1, 6),
)
def test_area_is_the_mean_over_the_steps_of_the_budget(steps: list[int], seed: int, window: int) -> None:
    budget = 50
    values = np.random.default_rng(seed).normal(size=len(steps))
    total = 0.0
    for step in range(budget):
        done = [v for s, v in zip(steps, values, strict=True) if s <= step]
        total += np.mean(done[-window:]) if done else values[0]
    curve = LearningCurve(np.array(steps), values, budget, window)
    # Before anything has ended the first value counts, which is a mean of one.
    assert curve.area() == pytest.approx(total / budget)


def test_final_score_is_the_mean_over_the_last_tenth_of_the_steps() -> None:
    curve = LearningCurve(np.array([10, 90, 91, 100]), np.array([1.0, 2.0, 3.0, 5.0]), 100)
    assert curve.final_score() == 4.0
    # PPO fills its last rollout: what lies behind the budget is no part of it.
    longer = LearningCurve(np.append(curve.steps, 150), np.append(curve.values, 99.0), curve.budget)
    assert longer.final_score() == 4.0 and longer.area() == curve.area()


def test_without_an_episode_there_is_no_score() -> None:
    curve = LearningCurve(np.array([]), np.array([]), 100)
    assert math.isnan(curve.area()) and math.isnan(curve.final_score())
