"""Figures of learning curves, and of what they show together."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from leap_rl.evaluation.comparison import Comparison
from leap_rl.evaluation.statistics import Estimate, Statistics
from leap_rl.running.files import replacing_file

COLOURS = {"reptile": "C1", "finetun": "C2", "multihead": "C3", "joint": "C3", "maml": "C4", "leap": "C0"}
"""A learner's, in every figure: the first of these that its name holds. Others have what is left."""
RANDOM: dict[str, Any] = {"color": "0.5", "linestyle": "--"}


def styles(learners: Iterable[str]) -> dict[str, dict[str, Any]]:
    """
    How each learner is drawn: random starts grey and dashed, no two learners in one colour while there are ten.

    :param learners: their names
    """
    found: dict[str, dict[str, Any]] = {}
    left = [f"C{n}" for n in range(10)]
    waiting = []
    for learner in learners:
        colour = next((c for part, c in COLOURS.items() if part in learner.lower()), None)
        if learner == "random":
            found[learner] = RANDOM
        elif colour in left:
            left.remove(colour)
            found[learner] = {"color": colour}
        else:
            waiting.append(learner)
    for number, learner in enumerate(waiting):
        found[learner] = {"color": left[number] if number < len(left) else f"C{number % 10}"}
    return found


def plot_comparison(
    comparison: Comparison, file: Path, note: str = "", random_policy: Mapping[str, np.ndarray] | None = None
) -> None:
    """
    Draw the moving average of the return against steps: the mean over the seeds, and over the meta-trainings of a
    learner, shaded by one standard deviation of these runs. A run that diverged is not drawn.

    :param comparison: what to draw, one panel per task, four in a row
    :param file: PNG to write
    :param note: above all panels, behind what is drawn
    :param random_policy: by task, areas of actions drawn at random; their mean is a thin line
    """
    tasks = list(next(iter(comparison.curves.values())))
    columns = min(len(tasks), 4)
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(5.5 * columns, 3.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[len(tasks) :]:
        ax.remove()
    how = styles(comparison.learners())
    entries: dict[str, tuple[Artist, int]] = {}
    for number, (ax, task) in enumerate(zip(axes, tasks, strict=False)):
        for learner, starts in comparison.learners().items():
            known = [
                curve
                for start in starts
                for seed, curve in zip(comparison.seeds, comparison.curves[start][task], strict=True)
                if len(curve.values) and (start, task, seed) not in comparison.diverged
            ]
            if not known:
                continue
            steps = np.linspace(0, known[0].budget, 400)
            values = np.array([curve.at(steps) for curve in known])
            # Only where every seed has finished an episode is a mean over the seeds one.
            mean, spread = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(known) - 1))
            (line,) = ax.plot(steps, mean, linewidth=2, **how[learner])
            ax.fill_between(steps, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0)
            most = max(len(known), entries.get(learner, (line, 0))[1])
            entries[learner] = (line, most)
        if random_policy is not None and np.isfinite(random_policy[task]).any():
            level = float(np.nanmean(random_policy[task]))
            entries["a random policy"] = (ax.axhline(level, color="0.5", linewidth=0.8, linestyle=":"), 0)
        if not ax.lines:
            ax.text(0.5, 0.5, "no episode has ended", ha="center", transform=ax.transAxes)
        _say(ax, task, "steps", "" if number % columns else "mean return")
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k: seven digits at each tick run into one another
    if entries:
        several = any(len(starts) > 1 for starts in comparison.learners().values())
        runs = "runs" if several else "seeds"
        labels = [
            f"{name} ({n} {runs}, ± SD)" if n > 1 else f"{name} (1 seed)" if n else name
            for name, (_, n) in entries.items()
        ]
        lines = [line for line, _ in entries.values()]
        legend = figure.legend(lines, labels, loc="outside lower center", ncols=min(len(lines), 2 * columns, 4))
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    window = next(iter(comparison.curves.values()))[tasks[0]][0].window
    title = f"Mean return of the last {window} episodes" + f"; {note}" * bool(note)
    # Matplotlib's own wrapping takes what it measures for formulas.
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), parse_math=False)
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=150)


def plot_statistics(statistics: Statistics, file: Path) -> None:
    """
    Draw what a comparison shows, and how surely (Agarwal et al., NeurIPS 2021), with 95 % bootstrap intervals.

    A gain is the area above a random policy's, in units of the reference's. Four panels, of which those stay out that
    would be empty: gains, over the tasks that the reference learns; how probably a run has a larger area than one of
    the reference, over all tasks on which episodes end; which share of the runs gains more than that; and how much has
    been learned by when.

    :param statistics: of the comparison
    :param file: PNG to write
    """
    how, reference = styles(statistics.learners), statistics.reference
    starts = [start for start in statistics.learners if start != reference]
    gains = {s: statistics.ratio_of_areas(s, *tasks) for s in starts if (tasks := statistics.learned(s))}
    better = {s: statistics.probability_of_improvement(s, *tasks) for s in starts if (tasks := statistics.rankable(s))}
    of_all = set.intersection(*(set(statistics.learned(start)) for start in statistics.learners))
    tasks = [task for task in statistics.tasks if task in of_all]
    shown = [bool(gains), bool(better), bool(tasks), bool(tasks)]
    columns = 2 if all(shown) else max(1, sum(shown))
    rows = 2 if all(shown) else 1
    height = max(3.0, 1.4 + 0.45 * len(starts))
    figure = Figure(figsize=(5.5 * columns, height * rows + 0.7), layout="constrained")
    if not any(shown):
        figure.text(0.5, 0.5, "no episode has ended in every run of a start", ha="center")
    axes = iter(figure.subplots(rows, columns, squeeze=False).flatten() if any(shown) else ())
    for estimates, title, what, nothing in (
        (gains, "Gain: interquartile mean", f"× that of {reference}", 1.0),
        (better, "Probability of improvement", f"that a run has a larger area than one of {reference}", 0.5),
    ):
        if estimates:
            _intervals(ax := next(axes), estimates, how, nothing)
            _say(ax, title, what)
            if estimates is better:
                ax.set_xlim(-0.02, 1.02)  # a mark at an end is seen whole
    if tasks:
        every = np.concatenate([statistics.gains(start, *tasks).flatten() for start in statistics.learners])
        thresholds, shares = np.linspace(min(0, every.min()), every.max(), 100), np.linspace(0.02, 1, 50)
        profiles, efficiency = next(axes), next(axes)
        for start in statistics.learners:
            _band(profiles, thresholds, statistics.performance_profile(start, thresholds, *tasks), how[start])
            _band(efficiency, 100 * shares, statistics.sample_efficiency(start, shares, *tasks), how[start])
        _say(profiles, "Performance profile", f"gain τ, × the mean of {reference}", "share of runs above τ")
        _say(efficiency, "Sample efficiency", "% of the steps", "gain so far")
    handles = [Line2D([], [], linewidth=2, **how[start]) for start in statistics.learners]
    legend = figure.legend(handles, list(statistics.learners), loc="outside lower center", ncols=min(len(handles), 4))
    legend.set_frame_on(False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    judged = tasks or statistics.tasks
    named = ", ".join(judged) if len(judged) <= 4 else f"{len(judged)} tasks"
    seeds = len(statistics.comparison.seeds)
    figure.suptitle(
        f"Gains over {reference} starts on {named}: {seeds} seeds, 95 % intervals", wrap=True, parse_math=False
    )
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=150)


def _intervals(ax: Axes, estimates: Mapping[str, Estimate], how: Mapping[str, Any], nothing: float) -> None:
    """Rows of intervals, with a dashed line where there is no difference."""
    for height, (start, found) in enumerate(reversed(list(estimates.items()))):
        colour = how[start]["color"]
        ax.plot([found.low, found.high], [height, height], color=colour, linewidth=7, alpha=0.35)
        ax.plot(found.value, height, "|", color=colour, markersize=18, markeredgewidth=3)
    ax.axvline(nothing, **RANDOM)
    ax.set_yticks([])
    ax.set_ylim(-0.7, len(estimates) - 0.3)


def _band(ax: Axes, x: np.ndarray, found: np.ndarray, how: Mapping[str, Any]) -> None:
    """:param found: estimate, lower end, upper end, shape (3, len(x))"""
    (line,) = ax.plot(x, found[0], linewidth=2, **how)
    ax.fill_between(x, found[1], found[2], color=line.get_color(), alpha=0.15, linewidth=0)


def _say(ax: Axes, title: str, below: str, beside: str = "") -> None:
    ax.set_title(title, parse_math=False)  # names are no formulas
    ax.set_xlabel(below, parse_math=False)
    ax.set_ylabel(beside)
    ax.grid(alpha=0.25)
