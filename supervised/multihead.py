"""Multi-head fine-tuning: all tasks at once in one network, a head each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leap_rl.core import Initialization
from leap_rl.running.engines import learning_process
from leap_rl.running.logger import LoggerLike
from supervised.kept_training import KeptTraining
from supervised.networks import check_has_no_hooks
from supervised.tasks import ClassificationTask, chosen_device

LOG_FREQ = 100


@dataclass(frozen=True)
class MultiHeadState:
    """What a checkpoint holds besides the network, after ``step`` updates; SGD without momentum has no state."""

    tasks: list[str]
    learning_rate: float
    seed: int
    step: int


class MultiHeadTrainer(KeptTraining):
    """
    Joint training: one encoder and a head per task, minibatches of all tasks shuffled together, under one SGD that
    persists. A new task starts from the encoder.

    It is no meta-learner: no process starts at θ⁰, and what it learns is not summed over tasks but lived through.

    :param tasks: whose networks share an ``encoder`` and have a ``head``
    :param learning_rate: of SGD
    :param run_dir: folder of the checkpoints; training goes on from the last of those that are there, to the same bits
    :param save_freq: updates between two of them
    :param tensorboard_log: folder of the TensorBoard run
    :param seed: of everything
    :param device: where the network lives
    :raises ValueError: for what can't be trained, or checkpoints of another training; nothing has run then
    """

    form = MultiHeadState

    def __init__(
        self,
        tasks: Sequence[ClassificationTask],
        learning_rate: float,
        run_dir: str | os.PathLike[str] | None = None,
        save_freq: int = 1000,
        tensorboard_log: str | os.PathLike[str] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if not tasks:
            raise ValueError("multi-head fine-tuning needs at least one task")
        for task in tasks:
            check_has_no_hooks(task.network(), "multi-head fine-tuning")
        super().__init__(run_dir, tensorboard_log)
        self.tasks = list(tasks)
        self.learning_rate = learning_rate
        self.save_freq = save_freq
        self.seed = seed
        self.device = chosen_device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = [task.network() for task in self.tasks]
        shapes = [{n: p.shape for n, p in network.encoder.named_parameters()} for network in networks]
        for task, shape in zip(self.tasks, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(f"{task.name} has another encoder than {self.tasks[0].name}: they can't share one")
        self.encoder = networks[0].encoder.to(self.device)
        self.heads = nn.ModuleList(network.head for network in networks).to(self.device)
        self.model = nn.ModuleDict({"encoder": self.encoder, "heads": self.heads})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=learning_rate)
        self.n_updates = 0
        self.resume()

    def learn(self, updates: int, progress_bar: bool = False) -> MultiHeadTrainer:
        """
        Train.

        :param updates: how many more, each on one minibatch of one task
        :param progress_bar: draw one, if the output is a terminal
        :return: self
        :raises ValueError: if another process goes on with the run in ``run_dir``
        :raises RuntimeError: if the loss is not finite
        """
        first, last = self.n_updates, self.n_updates + updates
        losses: list[Tensor] = []
        errors: dict[str, list[Tensor]] = {}
        what, images = f"multi-head fine-tuning on {len(self.tasks)} tasks", updates * self.tasks[0].batch_size
        with learning_process(), self.going_on(what, ["all tasks"], [images], progress_bar) as (logger, progress):
            while self.n_updates < last:
                for task, x, y in self._pass():
                    logits = self.tasks[task].logits(lambda x, head=self.heads[task]: head(self.encoder(x)), x)
                    loss = nn.functional.cross_entropy(logits, y)
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    losses.append(loss.detach())
                    error = (logits.detach().argmax(dim=1) != y).float().mean()
                    errors.setdefault(self.tasks[task].name, []).append(error)
                    self.n_updates += 1
                    if self.n_updates % LOG_FREQ == 0 or self.n_updates == last:
                        self._record(logger, losses, errors)
                        progress.job_at(0, (self.n_updates - first) * self.tasks[0].batch_size)
                        losses, errors = [], {}
                    if self.n_updates == last or (self.checkpoints and self.n_updates % self.save_freq == 0):
                        self.save()
                    if self.n_updates == last:
                        break
        return self

    def _pass(self) -> Any:
        """
        Minibatches of all tasks, shuffled together: a function of seed and pass alone, so resuming is exact. Those of
        this pass that were learned from already are drawn, and left out.
        """
        per_pass = [len(task.images().train) // task.batch_size for task in self.tasks]
        n_pass, done = divmod(self.n_updates, sum(per_pass))
        order = np.random.default_rng([self.seed, n_pass]).permutation(np.repeat(np.arange(len(per_pass)), per_pass))
        seeds = np.random.SeedSequence([self.seed, n_pass]).generate_state(len(per_pass))
        streams = [
            task.minibatches(int(seed) & 0x7FFFFFFF, False, self.device)
            for task, seed in zip(self.tasks, seeds, strict=True)
        ]
        for position, task in enumerate(order.tolist()):
            x, y = streams[task].next()
            if position >= done:
                yield task, x, y

    def _record(self, logger: LoggerLike, losses: list[Tensor], errors: dict[str, list[Tensor]]) -> None:
        loss = torch.stack(losses).mean().item()
        if not np.isfinite(loss):
            raise RuntimeError(
                f"multi-head fine-tuning diverged before update {self.n_updates}: a smaller learning rate than "
                f"{self.learning_rate} may help"
            )
        error = torch.stack([e for of_task in errors.values() for e in of_task]).mean().item()
        logger.record("train/loss", loss)
        logger.record("train/error", error)
        for name, of_task in errors.items():
            logger.record(f"train/error/{name}", torch.stack(of_task).mean().item())
        logger.dump(self.n_updates)

    @property
    def initialization(self) -> Initialization:
        """The encoder as it is now, a copy, with its batch-norm statistics; a new task has a head of its own."""
        config = {
            "learner": {"name": "multi-head fine-tuning", "learning_rate": self.learning_rate},
            "tasks": [task.name for task in self.tasks],
            "updates": self.n_updates,
            "seed": self.seed,
        }
        return Initialization.of(nn.ModuleDict({"encoder": self.encoder}), "encoder", config)

    @property
    def trained(self) -> nn.Module:
        return self.model

    def state(self) -> MultiHeadState:
        return MultiHeadState([task.name for task in self.tasks], self.learning_rate, self.seed, self.n_updates)

    def stand_at(self, state: MultiHeadState) -> None:
        self.n_updates = state.step
