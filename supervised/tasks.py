"""Classification as tasks: a network learns a set of images for a number of updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from leap_rl.core import (
    MAML,
    Initialization,
    Job,
    LearnedTask,
    MetaLearner,
    TaskFamily,
    blocks_of,
    read_strategies,
)
from leap_rl.core.arithmetic import Arithmetic, forward_pass
from leap_rl.core.finetuning import check
from supervised.batch_norm import BatchNorm, check_batch_norm, train_mode
from supervised.images import Images, Minibatches, Transform
from supervised.learning import ClassifierLearning, ClassifierProcess, Differentiated
from supervised.networks import Classifier, check_has_no_hooks


def chosen_device(name: str) -> torch.device:
    """:param name: as torch has it, or ``"auto"``: a GPU where there is one"""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class ClassificationTask(LearnedTask):
    """
    Learn to classify images by SGD on cross entropy.

    Batch norm: a learning process starts from the running statistics of θ⁰, which are never meta-learned, so those of a
    fresh network, and keeps its own from there. It is tested with these: what a user has who deploys the network.

    :param name: of the task
    :param updates: of a learning process
    :param batch_size: images per update
    :param learning_rate: of SGD
    :param transform: of every image, when it is trained on and when it is tested on
    :param annealing: let the learning rate fall to zero with the last update, as a half cosine
    :param patience: end the process when the validation error has not improved for so many validations
    :param validation_freq: updates between two validations
    :param finetune: strategies, as ``leap_rl.core.read_strategies`` takes them; none: everything learns. While one
        keeps blocks frozen that learn later, the process is not ended early
    :param batch_norm: what batch norm does
    :param arithmetic: of the forward pass, and so of the backward one
    :param transfer_layers: blocks of the initialization that are taken, as of ``Initialization.apply_to``; none: all
    """

    name: str
    updates: int
    batch_size: int
    learning_rate: float
    transform: Transform | None
    annealing: bool = field(default=False, kw_only=True)
    patience: int | None = field(default=None, kw_only=True)
    validation_freq: int = field(default=10, kw_only=True)
    finetune: str = field(default="", kw_only=True)
    batch_norm: BatchNorm = field(default="update", kw_only=True)
    arithmetic: Arithmetic = field(default="exact", kw_only=True)
    transfer_layers: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def images_per_update(self) -> int:
        """Through forward and backward."""
        return self.batch_size

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Images through forward and backward: a budget is in these, whatever the learner."""
        return self.updates * self.images_per_update

    @abstractmethod
    def images(self) -> Images:
        """Read, or taken from a cache."""

    @abstractmethod
    def network(self) -> Classifier:
        """With parameters drawn from torch's generator."""

    def start(self, job: Job) -> ClassifierProcess:
        device = chosen_device(job.device)
        model = self.network_at(job, device)
        self.check_finetuning(model, job.initialization)
        if not isinstance(job.learner, MAML):
            minibatches = self.minibatches(job.seed, job.learner.looks_ahead, device)
            return ClassifierLearning(self, job, model, minibatches)
        if self.finetune or self.batch_norm != "update":
            raise ValueError(f"{self.name} has a strategy, or a batch norm of its own, which MAML can't differentiate")
        check_has_no_hooks(model, "MAML")
        return Differentiated(self, job, model, self.minibatches(job.seed, True, device))

    def network_at(self, job: Job, device: torch.device) -> Classifier:
        """At θ⁰; what is not of it is drawn from the seed of the visit."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            model = self.network()
        job.initialization.apply_to(model, layers=self.transfer_layers or None)
        return model.to(device)

    def minibatches(self, seed: int, sets_aside: bool, device: torch.device) -> Minibatches:
        """As the constructor of ``Minibatches``."""
        return Minibatches(self, seed, sets_aside, device)

    def check_finetuning(self, model: Classifier, initialization: Initialization) -> None:
        """
        Before any time is spent.

        :param model: that learns
        :param initialization: that it starts from
        :raises ValueError: for strategies, or a batch norm, that can't be
        """
        strategies = read_strategies(self.finetune) if self.finetune else []
        if strategies:
            check(strategies, blocks_of(model))
        if any(strategy.awaits_validation for strategy in strategies) and self.images().validation is None:
            raise ValueError(f"{self.name} has no images for validation, which {self.finetune} waits for")
        check_batch_norm(self.batch_norm, model, initialization.buffers)

    def logits(self, model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """
        :param model: of images, to logits
        :param x: images, transformed
        :return: float32 logits, whatever they were computed in
        """
        with forward_pass(self.arithmetic, x.device):
            computed = model(x)
        return computed.float()

    @property
    def judged_at_once(self) -> int:
        """Images of a forward pass that is not learned from."""
        return 256

    @torch.no_grad()
    def judge(self, model: Classifier, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Mean loss, and share of the images that are classified wrongly."""
        model.eval()
        logits = torch.cat([self.logits(model, part) for part in x.split(self.judged_at_once)])
        train_mode(model, self.batch_norm)
        return nn.functional.cross_entropy(logits, y).item(), (logits.argmax(dim=1) != y).float().mean().item()


class ClassificationTasks(TaskFamily):
    """
    Classification tasks whose networks share what is meta-learned.

    :param tasks: to learn
    :param scope: of an initialization, where none is asked for
    :param config: what an initialization says of these tasks
    """

    def __init__(self, tasks: Sequence[ClassificationTask], scope: str, config: Mapping[str, Any]) -> None:
        self.tasks = list(tasks)
        self.scope = scope
        self.config = dict(config)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> ClassificationTask:  # type: ignore[override]
        return self.tasks[index]

    def check_learner(self, learner: MetaLearner) -> None:
        if getattr(learner, "loss_delta", None) == "same_batch":
            raise ValueError(
                'loss_delta="same_batch" needs a minibatch\'s loss twice, and here it is computed once: '
                'use "consecutive" or "none"; a training loop of your own has GradientPath.backward(recompute=...)'
            )

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.tasks[0].network()
        return Initialization.of(model, scope or self.scope, {"network": type(model).__name__, **self.config})
