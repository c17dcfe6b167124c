"""Figures of learning curves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from leap_rl.core import LearningCurve
from leap_rl.evaluation.comparison import Comparison
from leap_rl.running.files import replacing_file


def plot_comparison(comparison: Comparison, file: Path, title: str = "") -> None:
    """
    Draw the moving average of the return against steps: the mean over the seeds, and over the meta-trainings of a
    learner, shaded by one standard deviation of these runs. A run that diverged is not drawn.

    :param comparison: what to draw, one panel per task, four in a row
    :param file: PNG to write
    :param title: above all panels
    """
    tasks = list(next(iter(comparison.curves.values())))
    columns = min(len(tasks), 4)
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[len(tasks) :]:
        ax.set_visible(False)
    for ax, task in zip(axes, tasks, strict=False):
        for color, (learner, starts) in enumerate(comparison.learners().items()):
            known = [
                curve
                for start in starts
                for seed, curve in zip(comparison.seeds, comparison.curves[start][task], strict=True)
                if len(curve.values) and (start, task, seed) not in comparison.diverged
            ]
            if not known:
                continue
            steps = np.linspace(0, known[0].budget, 400)
            values = np.array([_at(curve, steps) for curve in known])
            # Only where every seed has finished an episode is a mean over the seeds one.
            mean, spread = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(known) - 1))
            label = f"{learner} ({len(known)} {'runs' if len(starts) > 1 else 'seeds'}, ± SD)"
            if len(known) == 1:
                label = f"{learner} (1 seed)"
            ax.plot(steps, mean, color=f"C{color}", linewidth=2, label=label)
            ax.fill_between(steps, mean - spread, mean + spread, color=f"C{color}", alpha=0.2, linewidth=0)
        ax.set_xlabel("steps")
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k: seven digits at each tick run into one another
        ax.set_ylabel(f"mean return of the last {next(iter(comparison.curves.values()))[task][0].window} episodes")
        ax.set_title(task, parse_math=False)  # names are no formulas
        ax.grid(alpha=0.25)
        if ax.get_legend_handles_labels()[0]:  # none where no episode ended
            for text in ax.legend(frameon=False).get_texts():
                text.set_parse_math(False)
    if title:
        figure.suptitle(title, wrap=True, parse_math=False)
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=150)


def _at(curve: LearningCurve, steps: np.ndarray) -> np.ndarray:
    """The moving average at the given steps, NaN before the first episode ends."""
    last = np.searchsorted(curve.steps, steps, side="right") - 1
    return np.where(last >= 0, curve.moving_average()[np.maximum(last, 0)], np.nan)
