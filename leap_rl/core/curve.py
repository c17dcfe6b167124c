"""The learning curve of one learning process, and the two numbers it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTHING = 1e-9
"""An area of which nothing can be relative to: that of a game in which nothing was scored."""


def gain(area: float, reference: float, maximize: bool = True) -> float:
    """
    How much better an area is than another, relative to that one: games have scales of their own.

    :param area: under a learning curve
    :param reference: that of another one of the same task
    :param maximize: whether more is better
    :return: NaN for a reference of 0, as of a game in which nothing was scored: it has no scale
    """
    if not abs(reference) > NOTHING:
        return float("nan")
    found = (area - reference) / abs(reference)
    return found if maximize else -found


@dataclass
class LearningCurve:
    """
    What a learning process achieved, as it went.

    :param steps: when each value was known (for episodes: the step at which it ended), increasing, shape ``(n,)``
    :param values: the value: an episode's return, a minibatch's loss, ..., shape ``(n,)``
    :param budget: steps of the whole process
    :param window: how many of the last values a moving average is over
    :param maximize: whether more is better
    """

    steps: np.ndarray
    values: np.ndarray
    budget: int
    window: int = 50
    maximize: bool = True

    def moving_average(self) -> np.ndarray:
        """Mean of the last ``window`` values, fewer at the start, shape ``(n,)``."""
        sums = np.concatenate([[0.0], np.cumsum(self.values, dtype=np.float64)])
        ends = np.arange(1, len(self.values) + 1)
        starts = np.maximum(ends - self.window, 0)
        return (sums[ends] - sums[starts]) / (ends - starts)

    def at(self, steps: np.ndarray) -> np.ndarray:
        """The moving average at the given steps; NaN before the first value."""
        if not len(self.values):
            return np.full(len(steps), np.nan)
        last = np.searchsorted(self.steps, steps, side="right") - 1
        return np.where(last >= 0, self.moving_average()[np.maximum(last, 0)], np.nan)

    def last(self) -> float:
        """The moving average at the end; NaN without any value."""
        return float(self.values[-self.window :].mean()) if len(self.values) else float("nan")

    def area(self) -> float:
        """
        Mean over the steps of the budget of the moving average; NaN without any value. The steps before the
        first value count with that one.
        """
        if not len(self.values):
            return float("nan")
        ends = np.minimum(np.append(self.steps[1:], max(self.budget, self.steps[-1])), self.budget)
        starts = np.minimum(np.append(0, self.steps[1:]), self.budget)
        return float(np.sum(self.moving_average() * (ends - starts)) / self.budget)

    def final_score(self) -> float:
        """Mean of the values of the last 10 % of the budget; NaN where there is none."""
        last = self.values[(self.steps > 0.9 * self.budget) & (self.steps <= self.budget)]
        return float(last.mean()) if len(last) else float("nan")
