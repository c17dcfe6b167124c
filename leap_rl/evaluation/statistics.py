"""
What a comparison shows, and how surely: aggregates of Agarwal et al. (NeurIPS 2021), by the bootstrap of their library.

The aggregates are rliable's, too, but without scipy, whose checks of every call a bootstrap would repeat for minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from rliable import library

from leap_rl.evaluation.comparison import Comparison, return_spec

RESAMPLES = 2_000
FEWEST_SEEDS = 3
"""With fewer a bootstrap over seeds has next to nothing to draw from."""


@dataclass(frozen=True)
class Estimate:
    """
    A figure with its 95 % interval, by a percentile bootstrap over the seeds of each task.

    :param value: of all runs
    :param low: lower end
    :param high: upper end
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def estimate(statistic: Callable[..., float], *runs: np.ndarray) -> Estimate:
    """
    :param statistic: of arrays like ``runs``
    :param runs: measures of one start or several, shape (seeds, tasks); seeds are drawn anew for each task and start
    """
    scores = runs[0] if len(runs) == 1 else list(runs)
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from numpy's global generator, whatever random_state it is given
    try:
        values, intervals = library.get_interval_estimates(
            {"": scores}, lambda *drawn: np.array([statistic(*drawn)]), reps=RESAMPLES
        )
    finally:
        np.random.set_state(state)
    return Estimate(float(values[""][0]), *(float(end) for end in intervals[""][:, 0]))


def interquartile_mean(runs: np.ndarray) -> float:
    """The mean without the lowest and the highest quarter of all runs, shape (seeds, tasks)."""
    ordered = np.sort(runs, axis=None)
    quarter = ordered.size // 4
    return float(ordered[quarter : ordered.size - quarter].mean())


def ratio(runs: np.ndarray, reference: np.ndarray) -> float:
    """Interquartile mean by that of the reference, each task in units of the reference's mean, shape (seeds, tasks)."""
    unit = reference.mean(axis=0)
    return interquartile_mean(runs / unit) / interquartile_mean(reference / unit)


def _probability(found: Estimate) -> str:
    """For a table. Where all pairs agree, so do all that are drawn from them, and a bootstrap knows no interval."""
    return {0.0: "0.00, no pair", 1.0: "1.00, all pairs"}.get(found.value, f"{found:.2f}")


def probability_of_improvement(runs: np.ndarray, reference: np.ndarray) -> float:
    """That one of ``runs`` is above one of ``reference``, mean over the tasks, shapes (seeds, tasks)."""
    above, level = runs[:, None] > reference, runs[:, None] == reference
    return float(above.mean() + level.mean() / 2)


class Statistics:
    """
    Of a comparison of returns.

    :param comparison: with at least three seeds
    :param random_policy: by task, the areas of actions drawn at random over the same budget, shape ``(seeds,)``: what
        can be had without learning
    :param reference: the start that the others are compared with
    :raises ValueError: for too few seeds, or a task whose random policy is not known
    """

    def __init__(
        self, comparison: Comparison, random_policy: Mapping[str, np.ndarray], reference: str = "random"
    ) -> None:
        self.comparison = comparison
        self.random_policy = random_policy
        self.reference = reference
        self.tasks = list(next(iter(comparison.curves.values())))
        if len(comparison.seeds) < FEWEST_SEEDS:
            raise ValueError(f"intervals over {len(comparison.seeds)} seeds say nothing: {FEWEST_SEEDS} are needed")
        unknown = [task for task in self.tasks if task not in random_policy]
        if unknown:
            raise ValueError(f"the random policy's areas are not known for {', '.join(unknown)}")

    def _areas(self, start: str, *tasks: str) -> np.ndarray:
        """Shape (seeds, tasks); a run that diverged is worse than any that did not."""
        areas = np.stack([self.comparison.areas(start, task) for task in tasks], axis=-1)
        diverged = [[(start, task, s) in self.comparison.diverged for task in tasks] for s in self.comparison.seeds]
        return np.where(diverged, -np.inf, areas)

    def _rankable(self, *starts: str) -> list[str]:
        """Tasks on which episodes ended in every run of these starts, if it did not diverge."""
        return [t for t in self.tasks if not any(np.isnan(self._areas(start, t)).any() for start in starts)]

    def _measurable(self, *starts: str) -> list[str]:
        """Tasks on which every run of these starts has an area, the random policy's too."""
        return [
            task
            for task in self.tasks
            if np.isfinite(self.random_policy[task]).all()
            and all(np.isfinite(self._areas(start, task)).all() for start in starts)
        ]

    def learns(self, task: str) -> bool:
        """
        Whether the reference's areas lie, on average, more than two standard deviations (of their seeds and of the
        random policy's together) above the random policy's. Where they don't, a ratio to them means nothing.
        """
        areas, floor = self.comparison.areas(self.reference, task), self.random_policy[task]
        return bool(areas.mean() - floor.mean() > 2 * np.hypot(areas.std(ddof=1), floor.std(ddof=1)))

    def ratio_of_areas(self, start: str, *tasks: str) -> Estimate:
        """Area above the random policy's, by the reference's; the random policy's seeds are drawn anew, too."""
        floor = np.stack([self.random_policy[task] for task in tasks], axis=-1)
        return estimate(
            lambda runs, reference, floor: ratio(runs - floor.mean(axis=0), reference - floor.mean(axis=0)),
            self._areas(start, *tasks),
            self._areas(self.reference, *tasks),
            floor,
        )

    def lead(self, start: str, task: str) -> Estimate:
        """Area less the reference's, in standard deviations of the reference's seeds; NaN where these are all equal."""
        reference = self._areas(self.reference, task)
        unit = float(reference.std(ddof=1)) or np.nan
        return estimate(
            lambda a, b: (interquartile_mean(a) - interquartile_mean(b)) / unit, self._areas(start, task), reference
        )

    def probability_of_improvement(self, start: str, *tasks: str, over: str | None = None) -> Estimate:
        """
        That a run has a larger area than one of another start, mean over the tasks.

        :param over: the other start; ``None``: the reference
        """
        other = self.reference if over is None else over
        return estimate(probability_of_improvement, self._areas(start, *tasks), self._areas(other, *tasks))

    def table(self) -> str:
        """
        Markdown: each task alone, then what they say together. Where the reference does not learn, its ratio is
        replaced by the difference, and the task is no part of the ratio over all.
        """
        rows = [
            f"| task | start | area | final score | area above a random policy's, × {self.reference} | "
            f"better than {self.reference} |",
            "|---|---|---|---|---|---|",
        ]
        for task in self.tasks:
            floor = self.random_policy[task][:, None]
            rows.append(f"| {task} | a random policy | {_returns(floor)} | | | |")
            for start in self.comparison.curves:
                cells = [
                    _returns(runs[:, None])
                    for runs in (self.comparison.areas(start, task), self.comparison.final_scores(start, task))
                ]
                rows.append(f"| {task} | {start} | {' | '.join(cells + self._against_reference(start, task))} |")
        of_all = f"of {len(self.tasks)}"
        for start in self.comparison.curves:
            if start != self.reference and len(self.tasks) > 1:
                learned = [task for task in self._measurable(start, self.reference) if self.learns(task)]
                ranked = self._rankable(start, self.reference)
                cells = [f"{self.ratio_of_areas(start, *learned):.2f}" if learned else ""]
                cells += [_probability(self.probability_of_improvement(start, *ranked)) if ranked else ""]
                counts = f"ratio: {len(learned)} {of_all}, probability: {len(ranked)} {of_all}"
                rows.append(f"| {counts} | {start} | | | {' | '.join(cells)} |")
        return "\n".join(rows)

    def each_against_each(self) -> str:
        """Markdown: the probability that a run of the row's start has a larger area than one of the column's."""
        starts = list(self.comparison.curves)
        rows = [f"| a larger area | than {' | than '.join(starts)} |", "|---|" + "---|" * len(starts)]
        for start in starts:
            cells = []
            for other in starts:
                ranked = [] if other == start else self._rankable(start, other)
                cell = _probability(self.probability_of_improvement(start, *ranked, over=other)) if ranked else ""
                if 0 < len(ranked) < len(self.tasks):
                    cell += f", {len(ranked)} of {len(self.tasks)}"
                cells.append(cell)
            rows.append(f"| {start} | {' | '.join(cells)} |")
        return "\n".join(rows)

    def _against_reference(self, start: str, task: str) -> list[str]:
        ranked = task in self._rankable(start, self.reference)
        measurable = task in self._measurable(start, self.reference)
        if start == self.reference:
            return [("1" if self.learns(task) else "not clearly above") if measurable else "", ""]
        gain = ""
        if measurable and self.learns(task):
            gain = f"{self.ratio_of_areas(start, task):.2f}"
        elif measurable:
            lead = self.lead(start, task)
            gain = "–" if np.isnan(lead.value) else f"{lead:+.1f} SD"
        return [gain, _probability(self.probability_of_improvement(start, task)) if ranked else ""]


def _returns(runs: np.ndarray) -> str:
    """Shape (seeds, 1)."""
    if not np.isfinite(runs).all():
        return "nan"
    found = estimate(interquartile_mean, runs)
    return f"{found:{return_spec(found.value)}}"
