"""
What a comparison shows, and how surely: aggregates of Agarwal et al. (NeurIPS 2021), by the bootstrap of their library.

The aggregates are rliable's, too, but without scipy, whose checks of every call a bootstrap would repeat for minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rliable import library

from leap_rl.core.lead import FEWEST_SEEDS
from leap_rl.evaluation.comparison import Comparison
from leap_rl.evaluation.human import SCORES
from leap_rl.running.files import json_number
from leap_rl.running.progress import return_spec

RESAMPLES = 2_000


@dataclass(frozen=True)
class Estimate:
    """
    A figure with its 95 % interval, by a percentile bootstrap over meta-trainings and over the seeds of each task.

    :param value: of all runs
    :param low: lower end
    :param high: upper end
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which knows neither NaN nor infinity."""
        return {name: json_number(value) for name, value in vars(self).items()}

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


class _MetaTrainingsAndSeeds(library.StratifiedIndependentBootstrap):
    """rliable's bootstrap of arrays (meta-trainings, seeds, tasks): meta-trainings are drawn, then seeds in each."""

    def _get_indices(
        self, num_runs: int, array_shape: tuple[int, ...], strata_indices: list[np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        meta_trainings, seeds, _ = array_shape
        drawn = np.random.choice(meta_trainings, (meta_trainings, 1, 1))
        return drawn, np.random.choice(seeds, array_shape), strata_indices[-1]


def estimate(statistic: Callable[..., float], *runs: np.ndarray) -> Estimate:
    """
    :param statistic: of arrays of shape (runs, tasks), one for each of ``runs``
    :param runs: measures of one start or several, shape (seeds, tasks), or (meta-trainings, seeds, tasks): seeds are
        drawn anew for each task and start, meta-trainings for all tasks at once, since it is one initialization that
        all of them start from
    """
    samples = [of.reshape(-1, *of.shape[-2:]) for of in runs]

    def of_all(*drawn: np.ndarray) -> np.ndarray:
        return np.array([statistic(*(of.reshape(-1, of.shape[-1]) for of in drawn))])

    interval = _interval(of_all, *samples)
    return Estimate(float(of_all(*samples)[0]), float(interval[0, 0]), float(interval[1, 0]))


def _interval(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> np.ndarray:
    """Of a statistic with n values: their lower and upper ends, shape (2, n)."""
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from numpy's global generator, whatever random_state it is given
    try:
        found = _MetaTrainingsAndSeeds(*samples).conf_int(statistic, RESAMPLES, size=0.95, method="percentile")
    finally:
        np.random.set_state(state)
    return np.asarray(found)


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
    Of a comparison of returns. Starts that are meta-trainings of one learner are taken together.

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
        self.learners = comparison.learners()
        if len(comparison.seeds) < FEWEST_SEEDS:
            raise ValueError(f"intervals over {len(comparison.seeds)} seeds say nothing: {FEWEST_SEEDS} are needed")
        unknown = [task for task in self.tasks if task not in random_policy]
        if unknown:
            raise ValueError(f"the random policy's areas are not known for {', '.join(unknown)}")

    def _areas(self, learner: str, *tasks: str) -> np.ndarray:
        """Shape (meta-trainings, seeds, tasks); a run that diverged is worse than any that did not."""
        starts, seeds, diverged = self.learners[learner], self.comparison.seeds, self.comparison.diverged
        areas = np.stack([[self.comparison.areas(start, task) for task in tasks] for start in starts])
        lost = [[[(start, task, seed) in diverged for seed in seeds] for task in tasks] for start in starts]
        return np.where(lost, -np.inf, areas).swapaxes(1, 2)

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
        areas, floor = self._areas(self.reference, task), self.random_policy[task]
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

    def lead(self, start: str, *tasks: str) -> Estimate:
        """
        Area less the reference's, each task in standard deviations of the reference's seeds; NaN where the seeds of one
        are all equal. These are the unit, as they are: the interval is that of the difference. How many standard
        deviations of other seeds it would be, few seeds can't tell.
        """
        reference = self._areas(self.reference, *tasks)
        spread = reference.std(axis=(0, 1), ddof=1)
        middle, unit = reference.mean(axis=(0, 1)), np.where(spread > 0, spread, np.nan)
        return estimate(
            lambda a, b: interquartile_mean((a - middle) / unit) - interquartile_mean((b - middle) / unit),
            self._areas(start, *tasks),
            reference,
        )

    def probability_of_improvement(self, start: str, *tasks: str, over: str | None = None) -> Estimate:
        """
        That a run has a larger area than one of another start, mean over the tasks.

        :param over: the other start; ``None``: the reference
        """
        other = self.reference if over is None else over
        return estimate(probability_of_improvement, self._areas(start, *tasks), self._areas(other, *tasks))

    def rankable(self, start: str) -> list[str]:
        """The tasks on which episodes ended in every run of the start and of the reference, if it did not diverge."""
        return self._rankable(start, self.reference)

    def learned(self, start: str) -> list[str]:
        """The tasks that a ratio to the reference can be of: measured in every run, and learned by the reference."""
        return [task for task in self._measurable(start, self.reference) if self.learns(task)]

    def gains(self, start: str, *tasks: str) -> np.ndarray:
        """
        Of every run: its area above the random policy's, by what the reference's lies above it on average.

        :param tasks: that the reference learns
        :return: shape (meta-trainings, seeds, tasks)
        """
        floor = np.array([self.random_policy[task].mean() for task in tasks])
        unit = self._areas(self.reference, *tasks).mean(axis=(0, 1)) - floor
        return np.asarray((self._areas(start, *tasks) - floor) / unit)

    def performance_profile(self, start: str, thresholds: np.ndarray, *tasks: str) -> np.ndarray:
        """
        Share of the runs whose gain is above each threshold, with its 95 % interval.

        :param thresholds: gains
        :param tasks: that the reference learns
        :return: estimate, lower end, upper end, shape (3, number of thresholds)
        """

        def above(gains: np.ndarray) -> np.ndarray:
            return np.asarray((gains.reshape(-1, 1) > thresholds).mean(axis=0))

        gains = self.gains(start, *tasks)
        return np.vstack([above(gains), _interval(above, gains)])

    def sample_efficiency(self, start: str, steps: np.ndarray, *tasks: str) -> np.ndarray:
        """
        How much has been learned by when: interquartile mean over runs and tasks, with its 95 % interval, of the moving
        average above the random policy's area, by what the reference's area lies above it on average.

        :param steps: at which, as shares of the budget
        :param tasks: that the reference learns
        :return: estimate, lower end, upper end, shape (3, number of steps); NaN where an episode has yet to end
        """
        values = np.stack(
            [
                [
                    [
                        (curve.at(steps * curve.budget) - self.random_policy[task].mean())
                        / (self._areas(self.reference, task).mean() - self.random_policy[task].mean())
                        for task in tasks
                        for curve in [self.comparison.curves[each][task][seed]]
                    ]
                    for seed in range(len(self.comparison.seeds))
                ]
                for each in self.learners[start]
            ]
        )
        flat = values.reshape(-1, len(steps))

        def of_drawn(numbers: np.ndarray) -> np.ndarray:
            ordered = np.sort(flat[numbers.reshape(-1)], axis=0)  # NaN, of which there may be some early on, come last
            quarter = len(ordered) // 4
            early = np.isnan(ordered).any(axis=0)
            return np.where(early, np.nan, ordered[quarter : len(ordered) - quarter].mean(axis=0))

        numbers = np.arange(len(flat)).reshape(values.shape[:-1])
        return np.vstack([of_drawn(numbers), _interval(of_drawn, numbers)])

    def as_dict(self) -> dict[str, Any]:
        """
        For JSON: of each learner but the reference the gain over the tasks that the reference learns, the lead over the
        others, and the probability of improvement, each with its interval.
        """
        found: dict[str, Any] = {}
        for learner in self.learners:
            if learner == self.reference:
                continue
            learned, ranked = self.learned(learner), self.rankable(learner)
            others = [task for task in self._measurable(learner, self.reference) if task not in learned]
            found[learner] = {
                "learned": learned,
                "gain": self.ratio_of_areas(learner, *learned).as_dict() if learned else None,
                "probability_of_improvement": (
                    self.probability_of_improvement(learner, *ranked).as_dict() if ranked else None
                ),
                "gains": {task: self.ratio_of_areas(learner, task).as_dict() for task in learned},
                "lead": self.lead(learner, *others).as_dict() if others else None,
                "leads": {task: self.lead(learner, task).as_dict() for task in others},
            }
        return found

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
            for start, meta_trainings in self.learners.items():
                cells = [
                    _returns(np.stack([measure(each, task) for each in meta_trainings])[..., None])
                    for measure in (self.comparison.areas, self.comparison.final_scores)
                ]
                rows.append(f"| {task} | {start} | {' | '.join(cells + self._against_reference(start, task))} |")
        of_all = f"of {len(self.tasks)}"
        for start in self.learners:
            if start != self.reference and len(self.tasks) > 1:
                learned = self.learned(start)
                ranked = self._rankable(start, self.reference)
                measured = self._measurable(start, self.reference)
                cells = [f"{self.ratio_of_areas(start, *learned):.2f}" if learned else ""]
                if measured and not learned:
                    cells = [self._lead_said(start, *measured)]
                cells += [_probability(self.probability_of_improvement(start, *ranked)) if ranked else ""]
                counts = f"ratio: {len(learned)} {of_all}, probability: {len(ranked)} {of_all}"
                rows.append(f"| {counts} | {start} | | | {' | '.join(cells)} |")
        return "\n".join(rows)

    def in_short(self) -> list[str]:
        """A sentence for each start: whether it is better than the reference, and by how much."""
        said = []
        for start in self.learners:
            measured, learned = self._measurable(start, self.reference), self.learned(start)
            if start == self.reference or not measured:
                continue
            found = self.ratio_of_areas(start, *learned) if learned else self.lead(start, *measured)
            none = 1.0 if learned else 0.0
            verdict = f"no difference from {self.reference} is shown"
            if found.low > none or found.high < none:
                verdict = f"{'better' if found.low > none else 'worse'} than {self.reference}"
            by = f"{found:.2f} times its gain" if learned else f"{found:+.1f} standard deviations of its seeds"
            larger = self.probability_of_improvement(start, *self.rankable(start)).value
            said.append(f"{start}: {verdict}: {by}, a larger area in {larger:.0%} of all pairs of runs.")
        return said

    def human_normalized(self) -> str:
        """
        Markdown: interquartile mean of the human-normalized final scores of each start, over the games with a published
        human score; nothing, if there is none.
        """
        games = [task for task in self.tasks if task in SCORES]
        if not games:
            return ""
        low, high = np.array([SCORES[game] for game in games]).T
        rows = [f"| start | human-normalized final score of {', '.join(games)} |", "|---|---|"]
        for learner, starts in self.learners.items():
            scores = np.stack([[self.comparison.final_scores(start, game) for game in games] for start in starts])
            runs = (scores.swapaxes(1, 2) - low) / (high - low)
            missing = int(np.isnan(runs).sum())
            measured = (
                f"{missing} of {runs.size} not measured" if missing else f"{estimate(interquartile_mean, runs):.3f}"
            )
            rows.append(f"| {learner} | {measured} |")
        return "\n".join(rows)

    def each_against_each(self) -> str:
        """Markdown: the probability that a run of the row's start has a larger area than one of the column's."""
        starts = list(self.learners)
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
            gain = self._lead_said(start, task)
        return [gain, _probability(self.probability_of_improvement(start, task)) if ranked else ""]

    def _lead_said(self, start: str, *tasks: str) -> str:
        lead = self.lead(start, *tasks)
        return "no spread" if np.isnan(lead.value) else f"{lead:+.1f} SD"


def _returns(runs: np.ndarray) -> str:
    """Shape ((meta-trainings,) seeds, 1)."""
    missing = int((~np.isfinite(runs)).sum())
    if missing:  # a middle of those that are left would be another one
        return f"{missing} of {runs.size} not measured"
    found = estimate(interquartile_mean, runs)
    return f"{found:{return_spec(found.value)}}"
