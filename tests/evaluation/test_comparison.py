"""Comparing starts: the same seeds for all, table and figure of what was measured."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from leap_rl import EnvTasks, LeapA2C
from leap_rl.core import InitializationError, InProcess, LearningCurve, Workers
from leap_rl.evaluation import Comparison, compare, plot_comparison
from leap_rl.evaluation.comparison import folder_of
from leap_rl.evaluation.figures import styles


def cartpoles(policy_kwargs: dict[str, object] | None = None, timesteps: int = 400) -> EnvTasks:
    kwargs = {} if policy_kwargs is None else {"policy_kwargs": policy_kwargs}
    return EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], timesteps, n_envs=2, algorithm_kwargs=kwargs)


def test_equal_starts_learn_the_same_curve_and_seeds_differ(tmp_path: Path) -> None:
    tasks = cartpoles()
    theta = tasks.draw_initialization(None, 5)
    comparison = compare(tasks, {"one": theta, "same": theta, "random": None}, [0, 1], InProcess(), run_dir=tmp_path)
    np.testing.assert_array_equal(comparison.areas("one", "CartPole-v1"), comparison.areas("same", "CartPole-v1"))
    assert len(set(comparison.areas("one", "CartPole-v1"))) == 2
    assert set(comparison.areas("random", "CartPole-v1")) != set(comparison.areas("one", "CartPole-v1"))
    assert len(list((tmp_path / "tensorboard").glob("CartPole-v1 from */seed */events*"))) == 6
    # A name stands for what it stood for: kept runs are no other initialization's, and of no other budget.
    with pytest.raises(ValueError, match="has runs of one with another initialization"):
        compare(tasks, {"one": tasks.draw_initialization(None, 6)}, [0, 1, 2], InProcess(), run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"has runs of CartPole-v1 with another budget \(400, now 800\)"):
        compare(cartpoles(timesteps=800), {"one": theta}, [0], InProcess(), run_dir=tmp_path)
    faster = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 400, n_envs=2, algorithm_kwargs={"learning_rate": 0.1})
    with pytest.raises(ValueError, match=r"has runs of algorithm_kwargs with another value"):
        compare(faster, {"one": theta}, [0], InProcess(), run_dir=tmp_path)
    for kwargs in ({"learning_rate": lambda progress: 7e-4}, {"policy_kwargs": {"net_arch": [8]}}):
        other = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 400, n_envs=2, algorithm_kwargs=kwargs)
        with pytest.raises(ValueError, match=r"has runs of algorithm_kwargs with another value"):
            compare(other, {"random": None}, [0], InProcess(), run_dir=tmp_path)
    # Heads of another scope may have other actions: of games all 18.
    with pytest.raises(ValueError, match=r"has runs of scope with another value \(all, now mlp_extractor\)"):
        compare(tasks, {"random": None}, [0], InProcess(), "mlp_extractor", run_dir=tmp_path)
    file, kept = tmp_path / "compared.json", (tmp_path / "compared.json").read_text()
    file.write_text(kept.replace("400", "401"))
    with pytest.raises(ValueError, match=r"compared\.json can't be read \(the sha256 in it .*start in another folder"):
        compare(tasks, {"one": theta}, [0], InProcess(), run_dir=tmp_path)
    file.write_text(kept)
    # A result under another name, or of another comparison.
    result = tmp_path / "results" / "CartPole-v1 from one seed 0"
    shutil.copytree(result, result.with_name("CartPole-v1 from one seed 9"), dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"seed 9 is damaged: it is .*seed 0' under another name\. Remove .*run again"):
        compare(tasks, {"one": theta}, [9], InProcess(), run_dir=tmp_path)
    (tmp_path / "run.json").write_text('{"run": "another"}')
    file.unlink()
    with pytest.raises(ValueError, match=r"seed 0 is of another run\. Remove .*, and it is run again"):
        compare(tasks, {"one": theta}, [0], InProcess(), run_dir=tmp_path)
    file.write_text("")
    with pytest.raises(ValueError, match=r"compared\.json can't be read .*: start in another folder"):
        compare(tasks, {"one": theta}, [0], InProcess(), run_dir=tmp_path)


def test_names_are_no_formulas_and_no_paths(tmp_path: Path) -> None:
    curve = LearningCurve(np.array([1, 2]), np.array([1.0, 2.0]), 2)
    names = ["$a^$", "a$", "[/red]", "a/b"]
    plot_comparison(Comparison({"$x_{$": {name: [curve] for name in names}}, [0]), tmp_path / "figure.png", "$^$")
    assert (tmp_path / "figure.png").stat().st_size > 0
    pairs = [("a", "b from c"), ("a from b", "c"), ("a from", "c"), ("a", "from c"), ("../a", "c"), ("a", "../c")]
    folders = {folder_of(task, start) for task, start in pairs}
    assert len(folders) == len(pairs) and all(Path(folder).name == folder for folder in folders)
    assert folder_of("SpaceInvaders", "atari-a2c-leap") == "SpaceInvaders from atari-a2c-leap"


def test_every_seed_draws_a_random_start_of_its_own() -> None:
    tasks, jobs = cartpoles(timesteps=20), []

    class Watched(InProcess):
        def run(self, given, on_progress):  # type: ignore[no-untyped-def]
            jobs.extend(given)
            return super().run(given, on_progress)

    theta = tasks.draw_initialization(None, 7)
    compare(tasks, {"one": theta, "random": None}, [0, 3], Watched())
    drawn = [tasks.draw_initialization(None, seed).sha256 for seed in (0, 3)]
    assert [job.initialization.sha256 for job in jobs] == [theta.sha256, theta.sha256, *drawn]
    assert drawn[0] != drawn[1] and [job.seed for job in jobs] == [0, 3, 0, 3]


def test_workers_measure_what_this_process_measures() -> None:
    tasks = cartpoles()
    here, there = (compare(tasks, {"random": None}, [0, 1], engine) for engine in (InProcess(), Workers(2)))
    np.testing.assert_array_equal(here.areas("random", "CartPole-v1"), there.areas("random", "CartPole-v1"))


def test_an_initialization_of_another_network_is_refused_before_any_run() -> None:
    other = cartpoles({"net_arch": [8]}).draw_initialization(None, 0)
    ran = []

    class Watched(InProcess):
        def run(self, jobs, on_progress):  # type: ignore[no-untyped-def]
            ran.append(len(jobs))
            return super().run(jobs, on_progress)

    with pytest.raises(InitializationError, match=r"mlp_extractor\.policy_net\.0\.weight \(8, 4\)"):
        compare(cartpoles(), {"other": other}, [0], Watched())
    assert not ran


def test_starts_of_different_scopes_play_different_games() -> None:
    tasks = cartpoles()
    whole = tasks.draw_initialization("all", 0)
    part = tasks.draw_initialization("mlp_extractor", 0)
    with pytest.raises(ValueError, match="different scopes can't be compared: a has 'all', b has 'mlp_extractor'"):
        compare(tasks, {"a": whole, "b": part}, [0], InProcess())
    with pytest.raises(ValueError, match="a has 'all', random has 'mlp_extractor'"):
        compare(tasks, {"a": whole, "random": None}, [0], InProcess(), scope="mlp_extractor")
    with pytest.raises(ValueError, match="0 seeds and 1 starts"):
        compare(tasks, {"a": whole}, [], InProcess())


def test_a_run_that_diverges_has_no_area() -> None:
    kwargs = {"learning_rate": 1e30, "n_steps": 64}
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 2_000, n_envs=2, algorithm_kwargs=kwargs)
    found = compare(tasks, {"random": None}, [3], InProcess())
    assert found.diverged == {("random", "CartPole-v1", 3)} and len(found.curves["random"]["CartPole-v1"][0].values)
    assert np.isnan(found.areas("random", "CartPole-v1")) and np.isnan(found.final_scores("random", "CartPole-v1"))
    (run,) = found.as_dict()["CartPole-v1"]["random"]
    assert run["diverged"] is True and run["area"] is None and run["final_score"] is None
    json.dumps(run, allow_nan=False)


def curve(values: list[float]) -> LearningCurve:
    return LearningCurve(np.linspace(10, 100, len(values)), np.array(values), 100)


def test_the_table_has_every_seed() -> None:
    table = Comparison(
        {"a": {"Game": [curve([1, 3]), curve([5, 5])]}, "b": {"Game": [curve([]), curve([2.0])]}}, [0, 1]
    )
    lines = table.table().splitlines()
    assert lines[2] == "| Game | a | 3.00 (1.00, 5.00) | 4.00 (3.00, 5.00) |"
    assert lines[3] == "| Game | b | 2.00 (-, 2.00; 1 of 2 not measured) | not measured |"
    table.curves["a"]["Other"] = table.curves["b"]["Other"] = [curve([7]), curve([7])]
    assert table.table(over_tasks=True).splitlines()[-2].startswith("| mean of 2 | a | 5.00 (4.00, 6.00) | ")
    assert "mean of 2" not in table.table()


def test_the_figure_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    comparison = Comparison({"a": {"G": [curve([1, 3]), curve([5, 5])]}, "b": {"G": [curve([]), curve([2.0])]}}, [0, 1])
    plot_comparison(comparison, tmp_path / "figure.png", "title")
    image = imread(tmp_path / "figure.png")
    assert image.shape[0] > 300 and len(np.unique(image.reshape(-1, 4), axis=0)) > 20
    assert re.match(rb"\x89PNG", (tmp_path / "figure.png").read_bytes())


def test_a_long_title_is_wrapped_not_cut_off(tmp_path: Path) -> None:
    plot_comparison(Comparison({"a": {"G": [curve([1, 3])]}}, [0]), tmp_path / "figure.png", "a word " * 40)
    image = imread(tmp_path / "figure.png")[..., :3]
    assert (image[:, [0, -1]] == 1).all(), "something touches the left or the right edge"
    assert (image[:4] == 1).all() and (image[4:60] < 1).any()


def test_the_figure_has_the_moving_averages_mean_and_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, dpi: file.touch() or figures.append(self))
    values = np.array([[0.0, 8.0, 4.0, 12.0], [2.0, 2.0, 10.0, 10.0], [5.0, 1.0, 3.0, 3.0]])
    curves = [LearningCurve(np.array([10, 40, 70, 100]), of, 100, window=2) for of in values]
    plot_comparison(Comparison({"a": {"G": curves}}, range(3)), tmp_path / "figure.png")
    (ax,) = figures[0].axes
    averages = np.array([[0.0, 4.0, 6.0, 8.0], [2.0, 2.0, 6.0, 10.0], [5.0, 3.0, 2.0, 3.0]])
    x, y = (np.asarray(of) for of in ax.lines[0].get_data())
    for step, average in zip((15, 45, 75, 100), averages.T, strict=True):
        drawn = y[np.searchsorted(x, step)]
        assert drawn == pytest.approx(average.mean())
    assert np.isnan(y[x < 10]).all()
    (shade,) = ax.collections
    last = shade.get_paths()[-1].vertices
    edge = np.asarray(last)[:, 1][np.isclose(np.asarray(last)[:, 0], 100)]
    spread = averages[:, -1].std(ddof=1)
    assert edge.min() == pytest.approx(7 - spread) and edge.max() == pytest.approx(7 + spread)


def test_random_starts_are_grey_and_dashed_and_a_learner_keeps_its_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, dpi: file.touch() or figures.append(self))
    tasks = {"G": [curve([1, 3])], "H": [curve([2, 4])]}
    for names in (["random", "my-reptile", "leap", "other"], ["other", "leap", "random"]):
        levels = {"G": np.array([0.5, 1.5]), "H": np.array([np.nan])}
        plot_comparison(Comparison(dict.fromkeys(names, tasks), [0]), tmp_path / "figure.png", "", levels)
    assert len(figures) == 2
    for figure in figures:
        (legend,) = figure.legends
        assert not any(ax.get_legend() for ax in figure.axes) and len(figure.axes) == 2
        lines = dict(zip((t.get_text().split(" (")[0] for t in legend.get_texts()), legend.get_lines(), strict=True))
        assert (lines["random"].get_color(), lines["random"].get_linestyle()) == ("0.5", "--")
        colours = [line.get_color() for name, line in lines.items() if name != "a random policy"]
        assert len(set(colours)) == len(colours) and lines["leap"].get_color() == "C0"
        # A random policy's mean area, where it is known.
        assert figure.axes[0].lines[-1].get_ydata()[0] == 1.0 and len(figure.axes[1].lines) == len(colours)
    assert {name: s["color"] for name, s in styles(["atari-a2c-leap", "atari-a2c-leap-longer"]).items()} == {
        "atari-a2c-leap": "C0",
        "atari-a2c-leap-longer": "C1",
    }


def test_the_figure_leaves_out_what_diverged(tmp_path: Path) -> None:
    def drawn(name: str, curves: list[LearningCurve], diverged: set[tuple[str, str, int]]) -> bytes:
        plot_comparison(Comparison({"a": {"G": curves}}, range(len(curves)), diverged), tmp_path / name)
        return (tmp_path / name).read_bytes()

    good, bad = curve([1, 3, 4]), curve([1, 0])
    assert drawn("a.png", [good, bad], {("a", "G", 1)}) == drawn("b.png", [good], set())
    assert drawn("c.png", [good, bad], set()) != drawn("d.png", [good], set())


@pytest.mark.parametrize("maximize", [True, False])
def test_a_start_behind_the_spread_of_random_ones_is_named(maximize: bool) -> None:
    def curves(*areas: float) -> dict[str, list[LearningCurve]]:
        signed = [a if maximize else -a for a in areas]
        return {"game": [LearningCurve(np.array([1]), np.array([a]), 10, maximize=maximize) for a in signed]}

    starts = {
        "random": curves(9, 10, 11),
        "worse": curves(7, 7, 7),
        "noisy": curves(8, 8.5, 8),
        "good": curves(20, 20, 20),
    }
    found = Comparison(starts, [0, 1, 2]).behind()
    assert found == {("game", "worse"): pytest.approx(3)}
    assert Comparison({"worse": starts["worse"]}, [0, 1, 2]).behind() == {}  # nothing to compare with
    # One run that diverged hides nothing; a start of which all did is behind whatever it is compared with.
    some = Comparison(starts, [0, 1, 2], {("worse", "game", 1)}).behind()
    assert some == {("game", "worse"): pytest.approx(3)}
    every = Comparison(starts, [0, 1, 2], {("good", "game", seed) for seed in range(3)}).behind()
    assert every == {("game", "worse"): pytest.approx(3), ("game", "good"): np.inf}
    assert Comparison(starts, [0, 1, 2], {("random", "game", 0)}).behind() == {}  # nothing is known of the random ones
    two_seeds = {name: {"game": c["game"][:2]} for name, c in starts.items()}
    assert Comparison(two_seeds, [0, 1]).behind() == {}  # too few to know a spread
