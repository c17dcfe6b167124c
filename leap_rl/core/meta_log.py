"""What a meta-training logs: a TensorBoard run of its own, and one below it for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leap_rl.core.curve import gain
from leap_rl.core.meta_gradient import MetaGradient
from leap_rl.core.task import TaskResult
from leap_rl.running.file_name import file_name
from leap_rl.running.logger import LoggerLike, NoLogger, TensorBoardLogger

_TAGS: dict[str, tuple[str, str | None]] = {
    "area": ("area/mean", "area/task"),
    "gain": ("area/gain", None),
    "final_score": ("final_score/mean", "final_score/task"),
    **{
        key: (f"path/{key}", f"path/{key}")
        for key in ("length", "energy", "loss_share", "top_share", "loss_to_step", "meta_gradient_norm")
    },
}
"""Of the mean over the tasks, and what stands before the name of each. TensorBoard sorts by them: areas come first."""


def row_of(result: TaskResult, first_area: float = math.nan) -> dict[str, Any]:
    """
    What the history says of a visit.

    :param result: of the visit
    :param first_area: of the first visit of the task that had one; NaN: this is the first
    """
    row: dict[str, Any] = {key: getattr(result, key) for key in ("name", "status", "steps", "seconds")}
    row |= {"area": result.area, "final_score": result.final_score, **result.scores}
    row["gain"] = gain(result.area, first_area, result.curve.maximize)
    if result.error is not None:
        row["error"] = result.error
    return row if result.statistics is None else row | vars(result.statistics)


class MetaLog:
    """
    :param folder: of the TensorBoard run; ``None`` logs nowhere
    :param last_step: the meta step after which an interrupted run goes on; -1 for a new one
    """

    def __init__(self, folder: Path | None, last_step: int) -> None:
        self.folder = folder
        self.run: LoggerLike = NoLogger() if folder is None else TensorBoardLogger(folder, last_step)
        self._tasks: dict[str, TensorBoardLogger] = {}

    def meta_step(
        self, rows: Sequence[Mapping[str, Any]], meta_gradient: MetaGradient, change: Mapping[str, float]
    ) -> None:
        """
        Record what a meta batch was and did.

        :param rows: of the history, one for each result
        :param meta_gradient: of those that were not lost
        :param change: ‖Δθ⁰‖ / ‖θ⁰‖ by layer
        """
        for key, (of_all, of_each) in _TAGS.items():
            known = [row for row in rows if not math.isnan(row.get(key, math.nan))]
            if known:
                self.run.record(of_all, float(np.mean([row[key] for row in known])))
            for name in dict.fromkeys(row["name"] for row in known) if of_each else ():  # a task may be visited twice
                self.run.record(f"{of_each}/{name}", float(np.mean([row[key] for row in known if row["name"] == name])))
        self.run.record("meta/gradient_norm", meta_gradient.norm)
        if meta_gradient.n_tasks > 1:
            self.run.record("meta/cosine", meta_gradient.cosine)
        self.run.record("meta/tasks_lost", len(rows) - meta_gradient.n_tasks)
        for layer, value in change.items():
            self.run.record(f"meta/change/{layer}", value)

    def visit(self, result: TaskResult, steps_before: int) -> None:
        """
        What a task logged itself, in a run of its own, its visits one after the other.

        :param result: of the task
        :param steps_before: steps of its earlier visits
        """
        if self.folder is None:
            return
        if result.name not in self._tasks:
            self._tasks[result.name] = TensorBoardLogger(self.folder / file_name(result.name), steps_before)
        self._tasks[result.name].write(result.log, steps_before)
