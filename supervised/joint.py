"""All tasks in one update: their losses, balanced, are one step of one network."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from leap_rl.core import Initialization
from leap_rl.running.engines import learning_process
from leap_rl.running.logger import LoggerLike
from supervised.balancing import BALANCING
from supervised.kept_training import KeptTraining
from supervised.networks import check_has_no_hooks
from supervised.tasks import ClassificationTask, chosen_device
from supervised.visits import TaskNetwork


@dataclass(frozen=True)
class JointState:
    """
    What a checkpoint holds besides the tensors.

    :param tasks: names
    :param balancing: name
    :param factors: of the losses
    :param learning_rate: of SGD
    :param passes: in all
    :param updates_per_pass: in each
    :param seed: of the minibatches
    :param step: passes made
    """

    tasks: list[str]
    balancing: str
    factors: list[float]
    learning_rate: float
    passes: int
    updates_per_pass: int
    seed: int
    step: int


class JointTrainer(KeptTraining):
    """
    Train a network for many tasks at once. Every update has a minibatch of each task; their losses, balanced, and the
    penalties of the network are one step of SGD, whose rate falls to zero as a half cosine. A pass is so many updates.

    ``HAT`` and ``ProgressiveNet`` are not for it: they learn one task at a time.

    :param network: with a part for each task, in their order
    :param tasks: to learn
    :param learning_rate: of SGD, at the start
    :param passes: to make in all
    :param updates_per_pass: in each; there is a checkpoint after each
    :param balancing: one of ``BALANCING``
    :param factors: that the losses are multiplied with, as other units of them would; ``None``: 1
    :param run_dir: folder of the checkpoints; training goes on from the last, to the same bits
    :param tensorboard_log: folder of the TensorBoard run
    :param seed: of the minibatches
    :param device: where the network lives
    :raises ValueError: for what can't be trained, or checkpoints of another training; nothing has run then
    """

    form = JointState

    def __init__(
        self,
        network: TaskNetwork,
        tasks: Sequence[ClassificationTask],
        learning_rate: float,
        passes: int,
        updates_per_pass: int = 50,
        balancing: str = "equal",
        factors: Sequence[float] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        tensorboard_log: str | os.PathLike[str] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if not tasks:
            raise ValueError("joint training needs at least one task")
        if balancing not in BALANCING:
            raise ValueError(f"balancing={balancing!r} is unknown, choose one of {', '.join(BALANCING)}")
        factors = [1.0] * len(tasks) if factors is None else [float(factor) for factor in factors]
        if len(factors) != len(tasks) or not all(0 < factor < math.inf for factor in factors):
            raise ValueError(f"factors={factors} must be {len(tasks)}, one of each task, above 0 and finite")
        if passes < 1 or updates_per_pass < 1:
            raise ValueError(f"passes={passes} and updates_per_pass={updates_per_pass} must be at least 1")
        super().__init__(run_dir, tensorboard_log)
        self.device = chosen_device(device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.tasks = list(tasks)
        self.balancing = BALANCING[balancing](len(tasks)).to(self.device)
        self.seed = seed
        self._settings = (balancing, factors, learning_rate, passes, updates_per_pass)
        self._both = nn.ModuleDict({"network": self.network, "balancing": self.balancing})
        self.n_passes = 0
        for i, task in enumerate(self.tasks):
            if self.network.of_task(i).one_at_a_time:
                raise ValueError(f"{type(network).__name__} learns one task at a time: VisitsTrainer trains it")
            check_has_no_hooks(self.network.of_task(i), "joint training", called=("penalty",))
            task.minibatches(0, False, self.device)  # says whether there are too few images
        self.resume()

    def learn(self, passes: int | None = None, progress_bar: bool = False) -> JointTrainer:
        """
        Make passes, those that are left.

        :param passes: at most so many
        :param progress_bar: draw one, if the output is a terminal
        :return: self
        :raises ValueError: if another process goes on with the run in ``run_dir``
        :raises RuntimeError: if a loss is not finite
        """
        _, _, _, all_passes, updates = self._settings
        left = min(all_passes - self.n_passes, all_passes if passes is None else passes)
        images = updates * sum(task.batch_size for task in self.tasks)
        what = f"{len(self.tasks)} tasks at once"
        with self.going_on(what, ["all tasks"], [left * images], progress_bar) as (logger, progress):
            for i in range(left):
                losses, errors, weights = self._pass()
                self._record(logger, losses, errors, weights)
                progress.job_at(0, (i + 1) * images)
        return self

    def _pass(self) -> tuple[Tensor, Tensor, Tensor]:
        """:return: mean loss and error of each task, and what its loss counted in the last update, shape (tasks,)"""
        _, factors, learning_rate, passes, updates = self._settings
        # A function of seed and pass alone, so resuming is exact.
        seeds = (np.random.SeedSequence([self.seed, self.n_passes]).generate_state(len(self.tasks) + 1)).tolist()
        own = [s & 0x7FFFFFFF for s in seeds]
        streams = [task.minibatches(s, False, self.device) for task, s in zip(self.tasks, own, strict=False)]
        classifiers = [self.network.of_task(i) for i in range(len(self.tasks))]
        for classifier in classifiers:
            classifier.train()
        parameters = list(self.network.parameters())
        optimizer = torch.optim.SGD([*parameters, *self.balancing.parameters()], lr=learning_rate)
        all_losses, all_errors = [], []
        with learning_process(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(own[-1])  # of aggregators that draw
            for i in range(updates):
                done = (self.n_passes * updates + i) / (passes * updates)
                optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
                losses, errors, penalties = [], [], []
                for task, classifier, stream in zip(self.tasks, classifiers, streams, strict=True):
                    x, y = stream.next()
                    logits = task.logits(classifier, x)
                    losses.append(nn.functional.cross_entropy(logits, y))
                    errors.append((logits.detach().argmax(dim=1) != y).float().mean())
                    penalties.append(classifier.penalty(y))
                optimizer.zero_grad()
                scaled = [factor * loss for factor, loss in zip(factors, losses, strict=True)]
                self.balancing.backward(scaled, parameters)
                penalty = sum(penalties)
                if isinstance(penalty, Tensor):
                    penalty.backward()
                optimizer.step()
                all_losses.append(torch.stack([loss.detach() for loss in losses]))
                all_errors.append(torch.stack(errors))
            weights = self.balancing.weights(torch.stack([loss.detach() for loss in scaled]))
            self.balancing.end_pass()
        mean = torch.stack(all_losses).mean(dim=0)
        if not mean.isfinite().all() or not all(p.isfinite().all() for p in parameters):
            raise RuntimeError(
                f"pass {self.n_passes + 1} diverged: a smaller learning rate than {learning_rate}, or another "
                "balancing, may help"
            )
        return mean, torch.stack(all_errors).mean(dim=0), weights

    def _record(self, logger: LoggerLike, losses: Tensor, errors: Tensor, weights: Tensor) -> None:
        self.n_passes += 1
        for task, loss, error, weight in zip(
            self.tasks, losses.tolist(), errors.tolist(), weights.tolist(), strict=True
        ):
            logger.record(f"train/loss/{task.name}", loss)
            logger.record(f"train/error/{task.name}", error)
            logger.record(f"balancing/weight/{task.name}", weight)
        logger.dump(self.n_passes)
        self.save()

    @torch.no_grad()
    def test_errors(self) -> dict[str, float]:
        """Share of the test images that are classified wrongly, by task."""
        errors = {}
        with learning_process():
            for i, task in enumerate(self.tasks):
                images = task.minibatches(self.seed, False, self.device).test()
                _, errors[task.name] = task.judge(self.network.of_task(i), *images)
        return errors

    @property
    def initialization(self) -> Initialization:
        """The whole network as it is now, a copy: what ``NextTask`` starts from."""
        config = {"tasks": [task.name for task in self.tasks], "passes": self.n_passes, "seed": self.seed}
        return Initialization.of(self.network, "all", {"network": type(self.network).__name__, **config})

    @property
    def trained(self) -> nn.Module:
        return self._both

    def state(self) -> JointState:
        return JointState([task.name for task in self.tasks], *self._settings, self.seed, self.n_passes)

    def stand_at(self, state: JointState) -> None:
        self.n_passes = state.step

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for name, module in self._both.items():  # a balancing may have a way of its own
            module.load_state_dict({n[len(name) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{name}.")})
