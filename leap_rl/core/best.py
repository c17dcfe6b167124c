"""Which θ⁰ was best, by tasks that are never learned from."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from leap_rl.core.curve import NOTHING
from leap_rl.core.initialization import Initialization
from leap_rl.core.learners import NoPretraining
from leap_rl.core.meta_settings import MetaSettings
from leap_rl.core.task import Job, Task, TaskFamily, TaskResult

_log = logging.getLogger(__name__)


class BestInitialization:
    """
    The θ⁰ from which the evaluation tasks were learned best. They are learned with the same seeds each time; the score
    is the mean over them of the area under the learning curve relative to that of the first evaluation, since games
    have scales of their own. Of tasks of one scale (``TaskFamily.share_scale``) it is their mean area relative to that
    of the first evaluation. A task that had no area then, or an area of 0 where scales differ, decides nothing, nor
    does one in an evaluation in which none of its episodes ended.

    :param tasks: that decide
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)
        self.share_scale = isinstance(tasks, TaskFamily) and tasks.share_scale
        self.initialization: Initialization | None = None
        self.score = -math.inf
        self.reference: dict[str, float] = {}
        """Areas of the first evaluation."""

    def jobs(self, theta: Initialization, settings: MetaSettings) -> list[Job]:
        """:param theta: to judge"""
        return [
            Job(task, theta, NoPretraining(), settings.evaluation_seed(index), settings.device)
            for index, task in enumerate(self.tasks)
        ]

    def judge(self, theta: Initialization, results: Sequence[TaskResult]) -> tuple[dict[str, float], float, bool]:
        """
        :param theta: what the tasks were learned from
        :param results: of ``jobs``
        :return: the area of each task, the score of ``theta``, and whether it is the best so far
        :raises RuntimeError: if a task fails in the first evaluation: the same seeds would fail in every one
        """
        areas = {result.name: result.area for result in results}
        if is_first := not self.reference:
            for result in results:
                result.raise_for_status(f"evaluation task {result.name}")
            self.reference = areas
        # That no episode ended says nothing of θ⁰: agents that stay alive end none. That one diverged says all.
        silent = {result.name for result in results if result.status == "ok" and math.isnan(areas[result.name])}
        scales = self._scales()
        unknown = self.reference.keys() - scales
        if is_first and unknown:
            _log.warning(
                "%s had no learning curve in the first evaluation, or scored nothing, so it won't decide which "
                "initialization is best: give evaluation tasks more timesteps, in which an episode ends and scores",
                ", ".join(name for name in self.reference if name in unknown),
            )
        elif silent - unknown:
            _log.warning(
                "no episode of %s ended in this evaluation, so it does not decide now which initialization is best: "
                "give evaluation tasks more timesteps",
                ", ".join(name for name in self.reference if name in silent - unknown),
            )
        sign = 1 if results[0].curve.maximize else -1
        gains = [sign * (areas[n] - self.reference[n]) / scale for n, scale in scales.items() if n not in silent]
        score = float(np.mean(gains)) if gains else math.nan
        is_best = score > self.score
        if is_best:
            self.score, self.initialization = score, theta
        return areas, score, is_best

    def _scales(self) -> dict[str, float]:
        """What the gain of each task is relative to; a task that is not in it decides nothing."""
        known = {name: area for name, area in self.reference.items() if math.isfinite(area)}
        if self.share_scale and known:
            mean = abs(float(np.mean(list(known.values()))))
            return dict.fromkeys(known, mean if mean > NOTHING else 1.0)  # of nothing, it is relative to nothing
        return {name: abs(area) for name, area in known.items() if abs(area) > NOTHING}
