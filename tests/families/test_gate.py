"""The ratio of benchmarks/families.py, and its interval."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def families() -> Any:
    folder = Path(__file__).parents[2] / "benchmarks"
    spec = importlib.util.spec_from_file_location("families_benchmark", folder / "families.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def test_the_ratio_is_of_gains_above_the_random_policy(families: Any) -> None:
    rng = np.random.default_rng(1)
    floor = np.full((1, 2, 10), 10.0)
    random, runs = 20 + rng.normal(size=(1, 2, 10)), 40 + rng.normal(size=(3, 2, 10))
    value, low, high = families.estimate(runs, random, floor)
    assert value == pytest.approx((runs.mean() - 10) / (random.mean() - 10)) and low < value < high
    assert families.said(2, 1.5, 2.5) == "2.00 (1.50 to 2.50)"


def test_where_random_weights_learn_nothing_there_is_no_ratio(families: Any) -> None:
    """Both worse than the random policy would else be a gain."""
    floor, random, runs = (np.full((n, 2, 10), v) for n, v in ((1, 10.0), (1, 9.0), (3, 7.0)))
    assert all(map(math.isnan, families.estimate(runs, random, floor)))
    assert families.said(*families.estimate(runs, random, floor)) == "random weights learn nothing"
    random = random + np.linspace(-9, 12, 10)  # some variants more, most less
    value, low, high = families.estimate(runs, random, floor)
    assert value < 0 and math.isnan(low) and math.isnan(high)
    assert families.said(value, low, high).endswith("(no interval)")


def test_what_a_seed_draws_is_shared_by_all_variants(families: Any) -> None:
    """Two seeds that differ are two draws, not twenty: the interval is as wide as theirs."""
    floor, runs = np.zeros((1, 2, 10)), np.full((3, 2, 10), 4.0)
    random = np.stack([np.full((1, 10), 1.0), np.full((1, 10), 3.0)], axis=1)
    _, low, high = families.estimate(runs, random, floor)
    assert low == pytest.approx(4 / 3) and high == pytest.approx(4)
