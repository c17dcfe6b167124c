"""Figures of learning curves, and of what they show together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from leap_rl.evaluation.comparison import Comparison
from leap_rl.evaluation.statistics import Statistics
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
    comparison: Comparison, file: Path, title: str = "", random_policy: Mapping[str, np.ndarray] | None = None
) -> None:
    """
    Draw the moving average of the return against steps: the mean over the seeds, and over the meta-trainings of a
    learner, shaded by one standard deviation of these runs. A run that diverged is not drawn.

    :param comparison: what to draw, one panel per task, four in a row
    :param file: PNG to write
    :param title: above all panels
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
    for ax, task in zip(axes, tasks, strict=False):
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
        _steps_below(ax)
        ax.set_ylabel(f"mean return of the last {next(iter(comparison.curves.values()))[task][0].window} episodes")
        ax.set_title(task, parse_math=False)  # names are no formulas
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
    if title:
        figure.suptitle(title, wrap=True, parse_math=False)
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=150)


def plot_statistics(statistics: Statistics, file: Path) -> None:
    """
    Draw what a comparison shows, and how surely (Agarwal et al., NeurIPS 2021), with 95 % bootstrap intervals.

    From left to right: the area above a random policy's, by that of the reference, over the tasks that the reference
    learns; how probably a run has a larger area than one of the reference, over all tasks on which episodes end; and
    how much has been learned by when, in units of the reference's area.

    :param statistics: of the comparison
    :param file: PNG to write
    """
    how = styles(statistics.learners)
    starts = [start for start in statistics.learners if start != statistics.reference]
    figure = Figure(figsize=(13, max(3.4, 2 + 0.4 * len(starts))), layout="constrained")
    ratios, probabilities, curves = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    for height, start in enumerate(reversed(starts)):
        colour = how[start]["color"]
        if learned := statistics.learned(start):
            ratio = statistics.ratio_of_areas(start, *learned)
            ratios.plot([ratio.low, ratio.high], [height, height], color=colour, linewidth=7, alpha=0.35)
            ratios.plot(ratio.value, height, "|", color=colour, markersize=18, markeredgewidth=3)
        if ranked := statistics.rankable(start):
            better = statistics.probability_of_improvement(start, *ranked)
            probabilities.plot([better.low, better.high], [height, height], color=colour, linewidth=7, alpha=0.35)
            probabilities.plot(better.value, height, "|", color=colour, markersize=18, markeredgewidth=3)
    shares = np.linspace(0.02, 1, 50)
    of_all = set.intersection(*(set(statistics.learned(start)) for start in statistics.learners))
    tasks = [task for task in statistics.tasks if task in of_all]
    for start in statistics.learners if tasks else ():
        value, low, high = statistics.sample_efficiency(start, shares, *tasks)
        (line,) = curves.plot(100 * shares, value, linewidth=2, label=start, **how[start])
        curves.fill_between(100 * shares, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    for ax, what, nothing in (
        (ratios, f"area above a random policy's, × {statistics.reference}", 1),
        (probabilities, f"probability of a larger area than {statistics.reference}", 0.5),
    ):
        ax.axvline(nothing, **RANDOM)
        ax.set_yticks(range(len(starts)), reversed(starts) if ax is ratios else [""] * len(starts), parse_math=False)
        ax.set_ylim(-0.7, len(starts) - 0.3)
        ax.set_title(what, fontsize="medium", parse_math=False)
        ax.grid(alpha=0.25, axis="x")
    probabilities.set_xlim(0, 1)
    curves.set_title(
        f"return above a random policy's, × {statistics.reference}'s area", fontsize="medium", parse_math=False
    )
    curves.set_xlabel("% of the steps")
    curves.set_ylabel("gain, normalized")
    curves.grid(alpha=0.25)
    if tasks:
        for text in curves.legend(frameon=False).get_texts():
            text.set_parse_math(False)
    else:
        curves.text(0.5, 0.5, f"{statistics.reference} learns no task", ha="center", transform=curves.transAxes)
    seeds = len(statistics.comparison.seeds)
    figure.suptitle(
        f"{', '.join(tasks or statistics.tasks)}: {seeds} seeds, 95 % intervals", wrap=True, parse_math=False
    )
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=150)


def _steps_below(ax: Axes) -> None:
    ax.set_xlabel("steps")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k: seven digits at each tick run into one another
    ax.grid(alpha=0.25)
