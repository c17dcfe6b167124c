"""What a meta-training logs: a TensorBoard run of its own, and one below it for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leap_rl.core.task import TaskResult
from leap_rl.running.file_name import file_name
from leap_rl.running.logger import LoggerLike, NoLogger, TensorBoardLogger

_SHOWN = ("area", "final_score", "length", "energy", "loss_share", "top_share", "loss_to_step", "meta_gradient_norm")


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
        self, rows: Sequence[Mapping[str, Any]], results: Sequence[TaskResult], change: Mapping[str, float]
    ) -> None:
        """
        Record what a meta batch was and did.

        :param rows: of the history, one for each result
        :param results: of the tasks
        :param change: ‖Δθ⁰‖ / ‖θ⁰‖ by layer
        """
        for key in _SHOWN:
            values = {row["name"]: row[key] for row in rows if key in row and not math.isnan(row[key])}
            section = "score" if key in ("area", "final_score") else "path"
            for name, value in values.items():
                self.run.record(f"{section}/{key}/{name}", value)
            if values:
                self.run.record(f"{section}/{key}", float(np.mean(list(values.values()))))
        gradients = [r.meta_gradient for r in results if r.status == "ok" and r.meta_gradient is not None]
        self.run.record("meta/gradient_norm", _mean_norm(gradients))
        if len(gradients) > 1:
            self.run.record("meta/cosine", mean_cosine(gradients))
        self.run.record("meta/tasks_lost", len(results) - len(gradients))
        for layer, value in change.items():
            self.run.record(f"change/{layer}", value)

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


def _flatten(gradient: Mapping[str, Tensor]) -> Tensor:
    # By name: a gradient that was read from disk may have another order.
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)]).cpu()


def _mean_norm(gradients: Sequence[Mapping[str, Tensor]]) -> float:
    return torch.stack([_flatten(g) for g in gradients]).mean(dim=0).norm().item()


def mean_cosine(gradients: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean cosine between the meta gradients of two tasks, over all pairs: 1 if all pull the same way."""
    directions = torch.nn.functional.normalize(torch.stack([_flatten(g) for g in gradients]).double(), dim=1)
    cosines = directions @ directions.T
    n = len(gradients)
    return ((cosines.sum() - cosines.trace()) / (n * (n - 1))).item()
