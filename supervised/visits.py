"""Networks that keep a part of their own for every task, and their training: one visit to a task after the other."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from leap_rl.core import Initialization, Job, Report
from leap_rl.running.engines import learning_process
from leap_rl.running.logger import LoggerLike
from supervised.images import Images
from supervised.kept_training import KeptTraining
from supervised.learning import make_updates
from supervised.networks import Classifier
from supervised.tasks import ClassificationTask, chosen_device


class TaskNetwork(nn.Module, ABC):
    """A network for many tasks, to which further ones can be added."""

    @abstractmethod
    def add_task(self, n_classes: int) -> None:
        """Draw, from torch's generator, what the next task has of its own."""

    @abstractmethod
    def of_task(self, task: int) -> Classifier:
        """
        The network as a visit sees it. It shares its tensors with the whole; its own parameters are those that the
        visit learns.

        :param task: in the order in which they were added
        """

    def end_visit(self, task: int) -> dict[str, float]:
        """When a visit to the task is over; gives figures to log."""
        return {}


@dataclass(frozen=True)
class VisitsState:
    """
    What a checkpoint holds besides the network.

    :param tasks: names
    :param seed: of the minibatches
    :param visits: that were made, indices of tasks
    :param images: learned from
    """

    tasks: list[str]
    seed: int
    visits: list[int]
    images: int

    @property
    def step(self) -> int:
        """Visits made."""
        return len(self.visits)


class VisitsTrainer(KeptTraining):
    """
    Train a network for many tasks by visits, each a learning process of one task from where the last one ended.

    A task is visited once (``sequential``: as the papers of HAT and Progressive Nets have it) or several times
    (``revisits``: as Flennerhag et al. compare them), as the order says.

    :param network: with a part for each task, in their order
    :param tasks: to learn
    :param order: of the visits, indices of tasks
    :param run_dir: folder of the checkpoints, one after each visit
    :param tensorboard_log: folder of the TensorBoard run
    :param seed: of the minibatches
    :param device: where the network lives
    :raises ValueError: for what can't be trained, or checkpoints of another training; nothing has run then
    """

    form = VisitsState

    def __init__(
        self,
        network: TaskNetwork,
        tasks: Sequence[ClassificationTask],
        order: Sequence[int],
        run_dir: str | os.PathLike[str] | None = None,
        tensorboard_log: str | os.PathLike[str] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if not tasks or not all(0 <= index < len(tasks) for index in order):
            raise ValueError(f"{len(tasks)} tasks, but the order of the visits is {list(order)}")
        super().__init__(run_dir, tensorboard_log)
        self.device = chosen_device(device)
        # The layout in which ``Classifier`` convolves, in all of it at once: another adds in another order.
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.tasks = list(tasks)
        self.order = list(order)
        self.seed = seed
        self.n_visits = 0
        self.images = 0
        self.resume()

    def learn(self, visits: int | None = None, progress_bar: bool = False) -> VisitsTrainer:
        """
        Make visits, those that the order has left.

        :param visits: at most so many
        :param progress_bar: draw one, if the output is a terminal
        :return: self
        :raises ValueError: if another process goes on with the run in ``run_dir``
        :raises RuntimeError: if a loss is not finite
        """
        left = self.order[self.n_visits :][:visits]
        names, images = [self.tasks[i].name for i in left], [self.tasks[i].steps for i in left]
        with self.going_on(f"{len(left)} visits", names, images, progress_bar) as (logger, progress):
            for number, index in enumerate(left):
                self._visit(index, logger, partial(progress.job_at, number))
        return self

    def _visit(self, index: int, logger: LoggerLike, report: Report) -> None:
        task = self.tasks[index]
        # A function of seed and visit alone, so resuming is exact.
        (seed,) = np.random.SeedSequence([self.seed, self.n_visits]).generate_state(1)
        minibatches = task.minibatches(int(seed) & 0x7FFFFFFF, False, self.device)
        with learning_process():
            losses, errors = make_updates(task, self.network.of_task(index), minibatches, None, report)
            figures = self.network.end_visit(index)
        if not losses.isfinite().all():
            raise RuntimeError(
                f"visit {self.n_visits + 1}, to {task.name}, diverged: a smaller learning rate than "
                f"{task.learning_rate} may help"
            )
        self.n_visits += 1
        self.images += len(losses) * task.images_per_update
        logger.record(f"train/loss/{task.name}", losses.mean().item())
        logger.record(f"train/error/{task.name}", errors.mean().item())
        for name, figure in figures.items():
            logger.record(f"network/{name}/{task.name}", figure)
        logger.dump(self.n_visits)
        self.save()

    @property
    def trained(self) -> nn.Module:
        return self.network

    def state(self) -> VisitsState:
        return VisitsState([task.name for task in self.tasks], self.seed, self.order[: self.n_visits], self.images)

    def stand_at(self, state: VisitsState) -> None:
        self.n_visits, self.images = state.step, state.images

    @property
    def initialization(self) -> Initialization:
        """The whole network as it is now, a copy: what ``NextTask`` starts from."""
        config = {"tasks": [task.name for task in self.tasks], "visits": self.n_visits, "seed": self.seed}
        return Initialization.of(self.network, "all", {"network": type(self.network).__name__, **config})


@dataclass(frozen=True)
class NextTask(ClassificationTask):
    """
    A task that a trained ``TaskNetwork`` has not seen: it is added, and learned as any visit.

    :param task: what is learned
    :param n_classes: of it
    :param trained: makes a network of the trained one's shape
    """

    task: ClassificationTask
    n_classes: int
    trained: Callable[[], TaskNetwork]

    @classmethod
    def of(cls, task: ClassificationTask, n_classes: int, trained: Callable[[], TaskNetwork]) -> NextTask:
        """As the constructor; budget and settings are those of the task."""
        shared = {name: getattr(task, name) for name in ClassificationTask.__dataclass_fields__}
        return cls(**shared, task=task, n_classes=n_classes, trained=trained)

    def images(self) -> Images:
        return self.task.images()

    def network(self) -> Classifier:
        return self.task.network()

    def network_at(self, job: Job, device: torch.device) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            network = self.trained()
            job.initialization.apply_to(network)
            # A stream of its own: with that of the network the task would begin as the first one did.
            (seed,) = np.random.SeedSequence([job.seed, 1]).generate_state(1)
            torch.manual_seed(int(seed))
            network.add_task(self.n_classes)
        # Whole: what it shows of itself for a task holds tensors that are no parameters of it.
        return network.to(device).to(memory_format=torch.channels_last).of_task(-1)
