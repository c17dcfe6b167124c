"""Multi-head fine-tuning: all tasks at once in one network, a head each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leap_rl.core import Initialization
from leap_rl.running.checkpoint import CheckpointError, Checkpoints, check_tensors
from leap_rl.running.engines import learning_process
from leap_rl.running.logger import LoggerLike, NoLogger, TensorBoardLogger
from leap_rl.running.progress import JobsProgress
from leap_rl.running.record import shown
from supervised.images import Minibatches
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


class MultiHeadTrainer:
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
        self.tasks = list(tasks)
        self.learning_rate = learning_rate
        self.checkpoints = None if run_dir is None else Checkpoints(Path(run_dir), keep=1)
        self.save_freq = save_freq
        self.tensorboard_log = None if tensorboard_log is None else Path(tensorboard_log)
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
        if self.checkpoints is not None and self.checkpoints.steps():
            self._load(self.checkpoints)

    def learn(self, updates: int, progress_bar: bool = False) -> MultiHeadTrainer:
        """
        Train.

        :param updates: how many more, each on one minibatch of one task
        :param progress_bar: draw one, if the output is a terminal
        :return: self
        :raises ValueError: if another process goes on with the run in ``run_dir``
        :raises RuntimeError: if the loss is not finite
        """
        logger: LoggerLike = NoLogger()
        if self.tensorboard_log is not None:
            logger = TensorBoardLogger(self.tensorboard_log, self.n_updates)
        first, last = self.n_updates, self.n_updates + updates
        losses: list[Tensor] = []
        errors: dict[str, list[Tensor]] = {}
        alone = nullcontext() if self.checkpoints is None else self.checkpoints.alone(self.n_updates)
        with alone, learning_process(), JobsProgress(enabled=progress_bar) as progress:
            images = updates * self.tasks[0].batch_size
            progress.outer(f"multi-head fine-tuning on {len(self.tasks)} tasks", images)
            progress.jobs(["all tasks"], [images])
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
            Minibatches(task, int(seed) & 0x7FFFFFFF, False, self.device)
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

    # -- on disk -----------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, if there is a ``run_dir``; the last one stays until the new one is whole."""
        if self.checkpoints is not None:
            self.checkpoints.save(self.model.state_dict(), self._state())

    def _state(self) -> MultiHeadState:
        return MultiHeadState([task.name for task in self.tasks], self.learning_rate, self.seed, self.n_updates)

    def _load(self, checkpoints: Checkpoints) -> None:
        tensors, state = checkpoints.load(MultiHeadState)
        self.n_updates = state.step
        for name, now in vars(self._state()).items():
            before = getattr(state, name)
            if before != now:
                raise CheckpointError(f"{checkpoints.folder} was trained with {name} {shown(before)}, not {shown(now)}")
        try:
            check_tensors(tensors, self.model.state_dict())
        except ValueError as error:
            raise checkpoints.refused(error, MultiHeadState) from None
        self.model.load_state_dict(tensors)
