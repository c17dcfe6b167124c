"""What a comparison shows, and how surely, against rliable's own figures and ones that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rliable import metrics
from rliable.library import score_distributions
from scipy.stats import trim_mean

from leap_rl.core import LearningCurve
from leap_rl.core.lead import too_narrow
from leap_rl.evaluation import Comparison, plot_statistics
from leap_rl.evaluation.statistics import Statistics, estimate, interquartile_mean, probability_of_improvement, ratio


@pytest.fixture(autouse=True)
def fewer_resamples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not the interval that is looked at."""
    if not any(word in request.node.name for word in ("interval", "noise", "interquartile")):
        monkeypatch.setattr("leap_rl.evaluation.statistics.RESAMPLES", 200)


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


SKEWED = {
    "random": {"small": [10.0, 11.0, 9.5, 10.5, 16.0], "large": [1_000.0, 1_100.0, 950.0, 1_040.0, 1_020.0]},
    "leap": {"small": [12.0, 10.0, 13.0, 12.5, 30.0], "large": [1_900.0, 1_300.0, 1_350.0, 4_000.0, 1_320.0]},
}
"""Areas of five seeds on two games of other sizes; final scores are a tenth of them."""
SKEWED_FLOORS = {"small": np.array([2.0, 3.0, 1.0, 4.0, 2.5]), "large": np.array([600.0, 640.0, 580.0, 660.0, 610.0])}


def skewed() -> Comparison:
    """Both games are learned; whoever takes means, final scores or one game for the other finds something else."""

    def curve(area: float) -> LearningCurve:
        last = area / 10
        return LearningCurve(np.array([1, 95]), np.array([(area - 0.05 * last) / 0.95, last]), 100, window=1)

    return Comparison({s: {t: [*map(curve, a)] for t, a in of.items()} for s, of in SKEWED.items()}, range(5))


def ratio_written_out(leap: np.ndarray, random: np.ndarray, floor: np.ndarray) -> float:
    """Shapes (seeds, games)."""
    unit = random.mean(axis=0) - floor.mean(axis=0)
    gains = [trim_mean((runs - floor.mean(axis=0)) / unit, 0.25, axis=None) for runs in (leap, random)]
    return float(gains[0] / gains[1])


def stacked(of: Mapping[str, list[float] | np.ndarray]) -> np.ndarray:
    return np.stack([np.asarray(of[game]) for game in ("small", "large")], axis=-1)


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


def test_the_ratio_is_of_interquartile_means_of_areas_above_the_random_policys() -> None:
    shown = Statistics(skewed(), SKEWED_FLOORS)
    assert shown.learns("small") and shown.learns("large")
    runs = [stacked(SKEWED["leap"]), stacked(SKEWED["random"]), stacked(SKEWED_FLOORS)]
    found = shown.ratio_of_areas("leap", "small", "large")
    assert found.value == pytest.approx(ratio_written_out(*runs))
    means = [(of - runs[2].mean(axis=0)) / (runs[1] - runs[2]).mean(axis=0) for of in runs[:2]]
    assert abs(found.value - means[0].mean() / means[1].mean()) > 0.1  # which would be another figure
    # The bootstrap, written out: of every start, and of the random policy, the seeds of each game by themselves.
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(4_000):
        rows = [rng.integers(5, size=of.shape) for of in runs]
        drawn.append(ratio_written_out(*(np.take_along_axis(of, r, axis=0) for of, r in zip(runs, rows, strict=True))))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.06) and found.high == pytest.approx(high, abs=0.06)
    # And the table says so, of areas and of final scores, of each game and of both.
    rows_of = [row.strip("| ").split(" | ") for row in shown.table().splitlines()]
    small, both = rows_of[4], rows_of[8]
    middle = trim_mean(SKEWED["leap"]["small"], 0.25)
    assert small[:2] == ["small", "leap"] and small[2].startswith(f"{middle:.1f} (")
    assert small[3].startswith(f"{middle / 10:.2f} (")
    assert both[0] == "ratio: 2 of 2, probability: 2 of 2" and both[-2] == f"{found:.2f}"


def test_random_starts_learn_where_they_are_two_standard_deviations_above_a_random_policy() -> None:
    areas, floor = np.array([100.0, 102.0, 98.0, 100.0]), np.array([50.0, 52.0, 49.0, 49.0])
    spread = np.hypot(areas.std(ddof=1), floor.std(ddof=1))
    for gap, learns in ((1.95, False), (2.05, True)):
        random = {"game": (areas - areas.mean() + floor.mean() + gap * spread).tolist()}
        assert Statistics(comparison(random=random), {"game": floor}).learns("game") is learns


def test_what_is_not_known_of_the_random_policy_is_in_the_interval() -> None:
    known = Statistics(two_games(), FLOORS).ratio_of_areas("leap", "easy")
    noisy = {**FLOORS, "easy": np.array([97.0, 103.0, 98.0, 102.0])}
    estimated = Statistics(two_games(), noisy).ratio_of_areas("leap", "easy")
    assert estimated.value == pytest.approx(known.value)
    assert estimated.low < known.low and known.high < estimated.high
    far = {**FLOORS, "easy": np.array([80.0, 130.0, 70.0, 120.0])}
    assert not Statistics(two_games(), far).learns("easy")


def test_the_noise_between_meta_trainings_is_in_the_interval() -> None:
    """Against a bootstrap that is written out: of three meta-trainings, then of the seeds of each game in each."""
    rng = np.random.default_rng(0)
    games = ("a", "b")
    runs = {f"leap/{i}": {g: (10 * i + rng.normal(120, 3, 5)).tolist() for g in games} for i in range(3)}
    games_of = comparison(random={g: rng.normal(110, 3, 5).tolist() for g in games}, **runs)
    shown = Statistics(games_of, dict.fromkeys(games, np.full(5, 100.0)))
    found = shown.ratio_of_areas("leap", *games)

    leap = np.stack([[games_of.areas(start, g) for g in games] for start in runs])  # meta-trainings, games, seeds
    random = np.stack([games_of.areas("random", g) for g in games]) - 100

    def gain(leap: np.ndarray, random: np.ndarray) -> float:
        unit = random.mean(axis=1, keepdims=True)
        return float(trim_mean((leap - 100) / unit, 0.25, axis=None) / trim_mean(random / unit, 0.25, axis=None))

    drawn = []
    for _ in range(3_000):
        chosen = [[[rng.choice(of, 5) for of in leap[m]]] for m in rng.integers(3, size=3)]
        drawn.append(gain(np.concatenate(chosen), np.stack([rng.choice(of, 5) for of in random])))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.value == pytest.approx(gain(leap, random))
    assert found.low == pytest.approx(low, abs=0.1) and found.high == pytest.approx(high, abs=0.1)
    # As if they were runs of one initialization, it is narrower by far.
    pooled = comparison(
        random={g: games_of.areas("random", g).tolist() * 3 for g in games},
        leap={g: np.concatenate([games_of.areas(start, g) for start in runs]).tolist() for g in games},
    )
    narrow = Statistics(pooled, dict.fromkeys(games, np.full(15, 100.0))).ratio_of_areas("leap", *games)
    assert found.high - found.low > 1.5 * (narrow.high - narrow.low)
    rows = [row.strip("| ").split(" | ")[:2] for row in shown.table().splitlines()]
    assert rows[2:] == [
        *([g, start] for g in games for start in ("a random policy", "random", "leap")),
        ["ratio: 2 of 2, probability: 2 of 2", "leap"],
    ]


def test_where_random_starts_are_all_equal_nothing_is_a_lead() -> None:
    equal = Statistics(two_games(hard=[10.0] * 4), FLOORS)
    assert (
        np.isnan(equal.lead("leap", "hard").value) and " | no spread | " in equal.table() and "SD" not in equal.table()
    )


def test_a_task_without_a_whole_episode_is_left_out() -> None:
    shown = Statistics(two_games(hard=[10.0, float("nan"), 9.0, 10.0]), FLOORS).table()
    assert (
        "| hard | random | 1 of 4 not measured" in shown
        and "| hard | leap | 11.0 (9.0 to 13.0) | 11.0 (9.0 to 13.0) |  |  |" in shown
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
    assert rows["easy", "leap"].startswith("| easy | leap | 1 of 4 not measured | 1 of 4 not measured |  | 0.75 (")
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


def test_a_probability_that_no_pair_contradicts_has_no_interval() -> None:
    level, up, down = [10.0, 11.0, 12.0], [20.0, 21.0, 22.0], [1.0, 2.0, 3.0]
    games = comparison(random={"a": level, "b": level}, up={"a": up, "b": up}, down={"a": down, "b": down})
    games.curves |= comparison(both={"a": up, "b": down}, even={"a": [11.0] * 3, "b": [11.0] * 3}).curves
    shown = Statistics(games, {"a": np.zeros(3), "b": np.zeros(3)}).table()
    cells = {tuple(row.strip("| ").split(" | ")[:2]): row.strip("| ").split(" | ")[-1] for row in shown.splitlines()}
    of_all = "ratio: 2 of 2, probability: 2 of 2"
    assert cells["a", "up"] == cells[of_all, "up"] == "1.00, all pairs"
    assert cells["a", "down"] == cells[of_all, "down"] == "0.00, no pair"
    assert cells[of_all, "both"] == "0.50 (0.50 to 0.50)" and cells["a", "even"].startswith("0.50 (")


@pytest.mark.parametrize(("seeds", "said"), [(3, "three times in four"), (4, "three times"), (5, "nine"), (9, "nine")])
def test_intervals_of_few_seeds_are_called_too_narrow(seeds: int, said: str) -> None:
    assert said in too_narrow(seeds) and not too_narrow(10)


def test_too_little_to_say_anything() -> None:
    with pytest.raises(ValueError, match="intervals over 2 seeds say nothing: 3 are needed"):
        Statistics(comparison(random={"easy": [1.0, 2.0]}), FLOORS)
    with pytest.raises(ValueError, match="areas are not known for other"):
        Statistics(comparison(random={"other": [1.0, 2.0, 3.0]}), FLOORS)


def test_sample_efficiency_is_the_gain_at_every_step_with_its_interval() -> None:
    """Against a recomputation of the estimate, and of its interval by the same draws of whole runs."""
    rng = np.random.default_rng(0)
    floors = {"a": np.array([1.0, 3.0, 2.0]), "b": np.array([100.0, 120.0, 80.0])}
    steps = np.array([10, 50, 90])
    values = {"random": rng.uniform(3, 9, (2, 3, 3)), "leap": rng.uniform(5, 9, (2, 3, 3))}
    curves = {
        start: {
            task: [LearningCurve(steps, scale * run, 100, window=1) for run in values[start][number]]
            for number, (task, scale) in enumerate((("a", 1.0), ("b", 40.0)))
        }
        for start in values
    }
    compared = Comparison(curves, range(3))
    found = Statistics(compared, floors).sample_efficiency("leap", np.array([0.05, 0.1, 0.6, 1.0]), "a", "b")
    assert found.shape == (3, 4) and np.isnan(found[:, 0]).all()
    gains = []
    for number, (task, scale) in enumerate((("a", 1.0), ("b", 40.0))):
        unit = compared.areas("random", task).mean() - floors[task].mean()
        gains += [(scale * run - floors[task].mean()) / unit for run in values["leap"][number]]
    assert found[0, 1:] == pytest.approx([trim_mean(at, 0.25) for at in np.transpose(gains)])
    assert (found[1, 1:] <= found[0, 1:]).all() and (found[0, 1:] <= found[2, 1:]).all()
    assert (found[2, 1:] - found[1, 1:] > 0.01).all()


@pytest.mark.parametrize("hard", [None, [10.0, 10.0, 10.0, 10.0]])
def test_the_figure_of_the_statistics_shows_its_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard: list[float] | None
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, dpi: file.touch() or figures.append(self))
    statistics = Statistics(two_games(hard), FLOORS)
    plot_statistics(statistics, tmp_path / "statistics.png")
    ratios, probabilities, *rest = figures[0].axes
    ratio = statistics.ratio_of_areas("leap", "easy")
    assert list(ratios.lines[0].get_xdata()) == [ratio.low, ratio.high]
    assert ratios.lines[1].get_xdata()[0] == pytest.approx(2.0)
    assert probabilities.lines[1].get_xdata()[0] == statistics.probability_of_improvement("leap", "easy", "hard").value
    assert len(rest) == 2 and all([line.get_linestyle() for line in ax.lines] == ["--", "-"] for ax in rest)
    assert "easy: 4 seeds" in figures[0].get_suptitle()
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "leap"]


def test_a_figure_has_no_empty_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, dpi: file.touch() or figures.append(self))
    plot_statistics(Statistics(two_games(), dict.fromkeys(FLOORS, np.full(4, 500.0))), tmp_path / "statistics.png")
    (probabilities,) = figures[0].axes  # random starts learn nothing, so there is no gain
    assert probabilities.get_title() == "Probability of improvement"


def test_the_profile_is_the_share_of_runs_above_each_gain() -> None:
    statistics, thresholds = Statistics(skewed(), SKEWED_FLOORS), np.array([-1.0, 0.5, 1.2, 9.0])
    found = statistics.performance_profile("leap", thresholds, "small", "large")
    floor = np.array([of.mean() for of in SKEWED_FLOORS.values()])
    unit = stacked(SKEWED["random"]).mean(axis=0) - floor
    assert found[0] == pytest.approx(score_distributions((stacked(SKEWED["leap"]) - floor) / unit, thresholds))
    assert (found[1] <= found[0]).all() and (found[0] <= found[2]).all() and found[1, 2] < found[2, 2]


def test_json_holds_what_the_table_says() -> None:
    statistics = Statistics(two_games(), FLOORS)
    found = json.loads(json.dumps(statistics.as_dict(), allow_nan=False))
    assert list(found) == ["leap"] and found["leap"]["learned"] == ["easy"]
    gain, lead = found["leap"]["gain"], found["leap"]["leads"]["hard"]
    assert gain == found["leap"]["gains"]["easy"]
    said = statistics.table()
    assert f"{gain['value']:.2f} ({gain['low']:.2f} to {gain['high']:.2f})" in said
    assert f"{lead['value']:+.1f} ({lead['low']:+.1f} to {lead['high']:+.1f}) SD" in said
    both = Statistics(two_games(), {task: np.full(4, 1e3) for task in FLOORS})  # random starts learn neither
    lead = both.as_dict()["leap"]["lead"]
    areas = [np.array([both.comparison.areas(start, task) for task in both.tasks]).T for start in ("leap", "random")]
    a, b = ((of - areas[1].mean(axis=0)) / areas[1].std(axis=0, ddof=1) for of in areas)
    assert lead["value"] == pytest.approx(interquartile_mean(a) - interquartile_mean(b))
    assert f"| {lead['value']:+.1f} ({lead['low']:+.1f} to {lead['high']:+.1f}) SD |" in both.table().splitlines()[-1]
    alike = {"random": {"easy": [1.0] * 4}, "leap": {"easy": [2.0] * 4}}
    nothing = Statistics(comparison(**alike), {"easy": np.full(4, 1.0)}).as_dict()["leap"]
    assert nothing["gain"] is None and nothing["leads"]["easy"] == dict.fromkeys(("value", "low", "high"))


def test_what_was_found_is_said_in_a_sentence() -> None:
    shown = Statistics(two_games(), FLOORS)
    gain, better = shown.ratio_of_areas("leap", "easy"), shown.probability_of_improvement("leap", "easy", "hard").value
    said = f"{gain.value:.2f} ({gain.low:.2f} to {gain.high:.2f}) times its gain"
    pairs = f"a larger area in {better:.0%} of all pairs of runs"
    assert shown.in_short() == [f"leap: better than random: {said}, {pairs}."]
    (hard,) = Statistics(
        comparison(random={"g": [10.0, 12, 8]}, leap={"g": [9.0, 12, 10]}), {"g": np.full(3, 9.0)}
    ).in_short()
    assert hard.startswith("leap: no difference from random is shown: ") and "standard deviations of its seeds" in hard
    (worse,) = Statistics(
        comparison(random={"g": [10.0, 12, 11]}, leap={"g": [1.0, 2, 3]}), {"g": np.full(3, 9.5)}
    ).in_short()
    assert worse.startswith("leap: worse than random: -")


def test_scores_are_human_normalized_where_a_person_has_one() -> None:
    areas = {"Breakout": [1.7, 1.7, 1.7, 1.7], "own": [5.0, 6.0, 7.0, 8.0]}
    of = comparison(random=areas, leap={**areas, "Breakout": [30.5, 30.5, 30.5, 30.5]})
    floors = dict.fromkeys(areas, np.zeros(4))
    rows = Statistics(of, floors).human_normalized().splitlines()
    assert rows[0] == "| start | human-normalized final score of Breakout |"
    assert rows[2:] == ["| random | 0.000 (0.000 to 0.000) |", "| leap | 1.000 (1.000 to 1.000) |"]
    assert Statistics(two_games(), FLOORS).human_normalized() == ""
