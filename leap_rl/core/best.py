"""Which θ⁰ was best, by tasks that are never learned from."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from leap_rl.core.curve import gain
from leap_rl.core.initialization import Initialization
from leap_rl.core.learners import NoPretraining
from leap_rl.core.meta_settings import MetaSettings
from leap_rl.core.task import Job, Task, TaskFamily, TaskResult

_log = logging.getLogger(__name__)


class BestInitialization:
    """
    The θ⁰ from which the evaluation tasks were learned best. They are learned with the same seeds each time; the score
    is the mean over them of the area under the learning curve relative to that of the first evaluation, since games
    have scales of their own; a task that had no area then, or an area of 0, decides nothing. Of tasks of one scale
    (``TaskFamily.share_scale``) it is their mean area relative to that of the first evaluation.

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
        is_first = not self.reference
        areas, gains = {}, []
        for result in results:
            if is_first:
                result.raise_for_status(f"evaluation task {result.name}")
            areas[result.name] = area = result.curve.area() if result.status == "ok" else float("nan")
            reference = self.reference.setdefault(result.name, area)
            if not self.share_scale and _is_scale(reference):
                gains.append(gain(area, reference, result.curve.maximize))
        if self.share_scale:
            gains = self._gain_of_means(areas, results[0].curve.maximize)
        decides = math.isfinite if self.share_scale else _is_scale
        unknown = [name for name, reference in self.reference.items() if not decides(reference)]
        if is_first and unknown:
            _log.warning(
                "%s had no learning curve in the first evaluation, or scored nothing, so it won't decide which "
                "initialization is best: give evaluation tasks more timesteps, in which an episode ends and scores",
                ", ".join(unknown),
            )
        score = float(np.mean(gains)) if gains else math.nan
        is_best = score > self.score
        if is_best:
            self.score, self.initialization = score, theta
        return areas, score, is_best

    def _gain_of_means(self, areas: Mapping[str, float], maximize: bool) -> list[float]:
        known = [name for name, area in self.reference.items() if math.isfinite(area)]
        if not known:
            return []
        mean, reference = (float(np.mean([of[name] for name in known])) for of in (areas, self.reference))
        if not _is_scale(reference):  # nothing was scored at first: then the mean itself says more
            return [mean if maximize else -mean]
        return [gain(mean, reference, maximize)]


def _is_scale(area: float) -> bool:
    """Whether gains can be relative to it."""
    return math.isfinite(gain(area, area))
