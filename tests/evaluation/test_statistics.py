"""What a comparison shows, and how surely, against rliable's own figures and ones that are known."""

from __future__ import annotations

import numpy as np
import pytest
from rliable import metrics

from leap_rl.core import LearningCurve
from leap_rl.evaluation import Comparison
from leap_rl.evaluation.statistics import Statistics, estimate, interquartile_mean, probability_of_improvement, ratio

FLOORS = {"easy": np.full(4, 100.0), "hard": np.full(4, 10.0)}


def comparison(**areas: dict[str, list[float]]) -> Comparison:
    """Of curves that are flat, so that area and final score are the same."""
    curves = {
        start: {
            task: [LearningCurve(np.array([1, 95]), np.array([a, a]), 100) for a in runs] for task, runs in t.items()
        }
        for start, t in areas.items()
    }
    return Comparison(curves, range(len(next(iter(next(iter(areas.values())).values())))))


def two_games(hard: list[float] | None = None) -> Comparison:
    """On one game random starts learn, on the other they don't."""
    return comparison(
        random={"easy": [110.0, 112.0, 108.0, 110.0], "hard": hard or [10.0, 12.0, 8.0, 11.0]},
        leap={"easy": [120.0, 122.0, 118.0, 120.0], "hard": [9.0, 12.0, 10.0, 13.0]},
    )


@pytest.mark.parametrize("shape", [(3, 1), (4, 2), (5, 3), (10, 8)])
def test_the_aggregates_are_those_of_rliable(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    runs, reference = rng.integers(0, 9, (2, *shape)).astype(float)  # with ties
    assert interquartile_mean(runs) == pytest.approx(metrics.aggregate_iqm(runs))
    assert probability_of_improvement(runs, reference) == pytest.approx(
        metrics.probability_of_improvement(runs, reference)
    )


def test_a_ratio_gives_every_task_the_same_weight() -> None:
    reference = np.array([[1.0, 1_000.0], [1.0, 1_000.0]])
    assert ratio(reference * [2.0, 2.0], reference) == pytest.approx(2)
    assert ratio(reference * [3.0, 1.0], reference) == pytest.approx(2)


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Of the mean of ten normal draws, 40 times: a percentile bootstrap over so few is somewhat narrow."""
    rng = np.random.default_rng(0)
    draws = [rng.normal(5, 1, (10, 1)) for _ in range(40)]
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    intervals = [estimate(lambda runs: float(runs.mean()), runs) for runs in draws]
    assert 0.80 <= np.mean([i.low <= 5 <= i.high for i in intervals]) <= 0.99
    assert all(i.low < i.value < i.high for i in intervals)
    assert estimate(lambda runs: float(runs.mean()), draws[0]) == intervals[0]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # a script's own draws go on as they would


def test_a_ratio_only_where_random_starts_learn() -> None:
    shown = Statistics(two_games(), FLOORS)
    assert shown.learns("easy") and not shown.learns("hard")
    gain = shown.ratio_of_areas("leap", "easy")
    assert gain.value == pytest.approx(2) and 1.5 < gain.low < 2 < gain.high < 2.6
    deviation = np.std([10, 12, 8, 11], ddof=1)
    assert shown.lead("leap", "hard").value == pytest.approx((11.0 - 10.5) / deviation)
    assert shown.probability_of_improvement("leap", "easy").value == 1
    rows = [row.split(" | ") for row in shown.table().splitlines()]
    assert "| easy | a random policy | 100.0 (100.0 to 100.0) | | | |" in shown.table()
    assert rows[4][:2] == ["| easy", "leap"] and rows[4][4].startswith("2.00 (")
    assert rows[6][4] == "not clearly above" and rows[7][4].endswith("SD")
    assert rows[8][0] == "| ratio: 1 of 2, probability: 2 of 2" and "2.00 (" in shown.table().splitlines()[8]


def test_what_is_not_known_of_the_random_policy_is_in_the_interval() -> None:
    known = Statistics(two_games(), FLOORS).ratio_of_areas("leap", "easy")
    noisy = {**FLOORS, "easy": np.array([97.0, 103.0, 98.0, 102.0])}
    estimated = Statistics(two_games(), noisy).ratio_of_areas("leap", "easy")
    assert estimated.value == pytest.approx(known.value)
    assert estimated.low < known.low and known.high < estimated.high
    far = {**FLOORS, "easy": np.array([80.0, 130.0, 70.0, 120.0])}
    assert not Statistics(two_games(), far).learns("easy")


def test_where_random_starts_are_all_equal_nothing_is_a_lead() -> None:
    equal = Statistics(two_games(hard=[10.0] * 4), FLOORS)
    assert np.isnan(equal.lead("leap", "hard").value) and " | – | " in equal.table() and "SD" not in equal.table()


def test_a_task_without_a_whole_episode_is_left_out() -> None:
    shown = Statistics(two_games(hard=[10.0, float("nan"), 9.0, 10.0]), FLOORS).table()
    assert (
        "| hard | random | nan" in shown and "| hard | leap | 11.0 (9.0 to 13.0) | 11.0 (9.0 to 13.0) |  |  |" in shown
    )
    assert shown.splitlines()[-1].startswith("| ratio: 1 of 2, probability: 1 of 2 | leap |")


def test_a_run_that_diverged_is_worse_than_any_other_and_has_no_ratio() -> None:
    games = two_games()
    games.curves["rival"] = games.curves["leap"]
    games.diverged = {("leap", "easy", 3)}
    shown = Statistics(games, FLOORS)
    assert shown.probability_of_improvement("leap", "easy").value == 0.75
    # Of the rival's 118, 120, 120, 122 the one that was 120 in leap, too, is below all now.
    before = Statistics(two_games(), FLOORS).probability_of_improvement("leap", "easy", over="leap").value
    assert before == 0.5 and shown.probability_of_improvement("leap", "easy", over="rival").value == 0.375
    rows = {tuple(row.strip("| ").split(" | ")[:2]): row for row in shown.table().splitlines()}
    assert rows["easy", "leap"].startswith("| easy | leap | nan | nan |  | 0.75 (")
    assert ("ratio: 0 of 2, probability: 2 of 2", "leap") in rows
    # What became of one start takes nothing from another.
    assert rows["easy", "rival"] == Statistics(two_games(), FLOORS).table().splitlines()[4].replace("leap", "rival")
    assert ("ratio: 1 of 2, probability: 2 of 2", "rival") in rows


def test_each_start_is_held_against_each() -> None:
    games = two_games()
    games.curves["rival"] = comparison(rival={"easy": [115.0, 121.0, 119.0, 123.0], "hard": [10.0] * 4}).curves["rival"]
    shown = Statistics(games, FLOORS)
    rows = [row.strip("| ").split(" | ") for row in shown.each_against_each().splitlines()]
    assert rows[0] == ["a larger area", "than random", "than leap", "than rival"]
    leap = {task: games.areas("leap", task) for task in ("easy", "hard")}
    rival = {task: games.areas("rival", task) for task in ("easy", "hard")}
    expected = np.mean([metrics.probability_of_improvement(leap[t][:, None], rival[t][:, None]) for t in leap])
    assert rows[3][3].startswith(f"{expected:.2f} (") and rows[4][2].startswith(f"{1 - expected:.2f} (")
    no_floor = {"easy": np.full(4, np.nan), "hard": np.full(4, np.nan)}
    assert Statistics(games, no_floor).each_against_each() == shown.each_against_each()
    games.curves["rival"]["hard"] = [LearningCurve(np.array([]), np.array([]), 100)] * 4
    rows = [row.strip("| ").split(" | ") for row in Statistics(games, FLOORS).each_against_each().splitlines()]
    assert rows[3][3].endswith("), 1 of 2") and rows[3][1].endswith(")")


def test_too_little_to_say_anything() -> None:
    with pytest.raises(ValueError, match="intervals over 2 seeds say nothing: 3 are needed"):
        Statistics(comparison(random={"easy": [1.0, 2.0]}), FLOORS)
    with pytest.raises(ValueError, match="areas are not known for other"):
        Statistics(comparison(random={"other": [1.0, 2.0, 3.0]}), FLOORS)
