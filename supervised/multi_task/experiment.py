"""One run: what tasks share, how their losses are balanced, a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from leap_rl.core import Engine
from supervised.balancing import BALANCING
from supervised.experiments import Run
from supervised.joint import JointTrainer
from supervised.multi_cv.data import load
from supervised.multi_cv.tasks import LEARNING_RATE, DataSets
from supervised.sharing import CrossStitch, HardSharing, SoftSharing
from supervised.visits import TaskNetwork

SHARING: dict[str, Callable[..., TaskNetwork]] = {
    "single": partial(SoftSharing, weight=0.0),  # each task alone: what sharing is compared with
    "hard": HardSharing,
    "soft": SoftSharing,
    "cross-stitch": CrossStitch,
}
TASKS = ("mnist", "fashion-mnist", "gtsrb")
"""Where no others are asked for; a table names the others."""
BATCH_SIZE = 32
"""Images of each task in an update."""
UPDATES_PER_PASS = 20


@dataclass(frozen=True)
class MultiTaskRun(Run):
    """
    The settings of a run.

    :param sharing: one of ``SHARING``
    :param balancing: one of ``BALANCING``
    :param tasks: data sets, two at least
    :param passes: of ``UPDATES_PER_PASS`` updates
    :param limit: images of a data set, at most
    :param n_filters: as of ``ConvNet``
    :param large: data set whose loss counts ``factor`` times; ``None``: none
    :param factor: of its loss
    """

    experiment = "multi-task"
    reference: ClassVar = {"sharing": "single", "balancing": "equal", "loss": ""}

    sharing: str
    balancing: str
    tasks: tuple[str, ...]
    passes: int
    limit: int
    n_filters: int = 32
    large: str | None = None
    factor: float = 1.0

    @property
    def cells(self) -> dict[str, str]:
        large = "" if self.large is None else f"{self.large} times {self.factor:g}"
        tasks = {} if self.tasks == TASKS else {"tasks": " ".join(self.tasks)}
        return {"sharing": self.sharing, "balancing": self.balancing, "loss": large, **tasks}

    def data_sets(self) -> DataSets:
        """
        :raises ValueError: if they can't be learned together
        """
        if len(self.tasks) < 2:
            raise ValueError(f"tasks are {', '.join(self.tasks) or 'none'}: two at least are learned together")
        twice = sorted({name for name in self.tasks if self.tasks.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named {self.tasks.count(twice[0])} times: once is enough")
        if self.large is not None and self.large not in self.tasks:
            raise ValueError(f"{self.large} is not one of the tasks {', '.join(self.tasks)}")
        if not 0 < self.factor < float("inf"):
            raise ValueError(f"factor={self.factor} of a loss must be above 0, and finite")
        BALANCING[self.balancing](len(self.tasks))  # says whether torchjd is missing
        return DataSets(self.data_dir, self.tasks, self.seed, self.limit, batch_size=BATCH_SIZE)

    def data(self) -> dict[str, int]:
        self.data_sets()  # says what is wrong with them
        return {name: len(load(self.data_dir, name).train) for name in self.tasks}

    def images(self) -> int:
        return self.passes * UPDATES_PER_PASS * BATCH_SIZE * len(self.data_sets())

    def trainer(self, folder: Path | None = None) -> JointTrainer:
        """:param folder: of the run; ``None``: nothing is kept"""
        tasks: Sequence = self.data_sets().tasks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = SHARING[self.sharing]([task.n_classes for task in tasks], n_filters=self.n_filters)
        return JointTrainer(
            network,
            tasks,
            LEARNING_RATE,
            self.passes,
            UPDATES_PER_PASS,
            self.balancing,
            [self.factor if name == self.large else 1.0 for name in self.tasks],
            folder,
            None if folder is None else folder / "tensorboard",
            self.seed,
        )

    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        trainer = self.trainer(folder)
        if trainer.n_passes < self.passes:
            trainer.learn(progress_bar=progress_bar)
        errors = {name: 100 * error for name, error in trainer.test_errors().items()}
        return {"mean error": float(np.mean(list(errors.values()))), **errors}
