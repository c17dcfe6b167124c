"""Classification as tasks: a network learns a set of images for a number of updates."""

from __future__ import annotations

import copy
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leap_rl.core import (
    MAML,
    FineTuning,
    GradientPath,
    Initialization,
    Job,
    LearningCurve,
    LookAhead,
    MetaLearner,
    Report,
    Task,
    TaskFamily,
    TaskResult,
    blocks_of,
    read_strategies,
)
from leap_rl.core.arithmetic import Arithmetic, forward_pass
from leap_rl.core.finetuning import check
from supervised.batch_norm import BatchNorm, check_batch_norm, recompute, train_mode
from supervised.networks import Classifier

LOGS_PER_PROCESS = 10

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""Images, shape (n, channels, height, width), to float ones; whatever it draws, it draws from the generator."""


def as_float(images: Tensor, generator: torch.Generator) -> Tensor:
    """
    Bytes to [0, 1].

    :param images: uint8
    :param generator: not drawn from
    """
    return images.float() / 255


def chosen_device(name: str) -> torch.device:
    """:param name: as torch has it, or ``"auto"``: a GPU where there is one"""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Images:
    """
    What a classifier learns, and what it is tested on.

    :param train: shape (n, channels, height, width), as the task's transform takes them
    :param train_labels: int64, shape (n,)
    :param test: as ``train``
    :param test_labels: as ``train_labels``
    :param validation: as ``train``, to stop early by, and to judge visits of meta-training by in place of the test
    :param validation_labels: as ``train_labels``
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    validation: Tensor | None = None
    validation_labels: Tensor | None = None


@dataclass(frozen=True)
class ClassificationTask(Task):
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

    def run(self, job: Job, report: Report) -> TaskResult:
        started = time.perf_counter()
        model, minibatches = self.start(job)
        self.check_finetuning(model, job.initialization)
        if isinstance(job.learner, MAML):
            if self.finetune or self.batch_norm != "update":
                raise ValueError(f"{self.name} is fine-tuned by a strategy, which MAML can't differentiate")
            return self._differentiated(job.learner, job.initialization.parameters, model, minibatches, started)
        scope = job.initialization.parameters
        path = job.learner.observe({name: p for name, p in model.named_parameters() if name in scope})
        losses, errors = self.learn(model, minibatches, path, report)
        return self.result(job, model, minibatches, path, losses, errors, started)

    def learn(
        self, model: Classifier, minibatches: Minibatches, path: GradientPath | LookAhead | None, report: Report
    ) -> tuple[Tensor, Tensor]:
        """
        Make the updates.

        :param model: at its start; what of it requires a gradient is learned
        :param minibatches: that it sees
        :param path: that observes it
        :param report: called from time to time with the steps done
        :return: loss, and share of images classified wrongly, of each minibatch before its update, shape (updates,)
        """
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates) if self.annealing else None
        strategies = read_strategies(self.finetune) if self.finetune else []
        finetuning = FineTuning(strategies, blocks_of(model), optimizer, seed=minibatches.seed) if strategies else None
        if path is not None:
            path.attach(optimizer)
        if isinstance(path, GradientPath):
            path.gradients_are_fresh = True  # zero_grad() below

        def update(progress: float, overall: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            model.before_update(progress, overall)
            logits = self.logits(model, x)
            loss = nn.functional.cross_entropy(logits, y)
            penalized = loss + model.penalty(y)
            optimizer.zero_grad()
            penalized.backward() if path is None else path.backward(penalized)
            model.before_step()
            optimizer.step()
            model.after_step()
            return loss.detach(), (logits.detach().argmax(dim=1) != y).float().mean()

        if self.batch_norm == "recompute":
            recompute(model, minibatches.train_images())
        train_mode(model, self.batch_norm)
        validates = self.patience is not None or any(strategy.awaits_validation for strategy in strategies)
        losses, errors = [], []
        best, best_at = math.inf, 0
        for i in range(self.updates):
            if finetuning is not None:
                finetuning.at((i + 1) / self.updates)
            of_pass = i % minibatches.per_pass
            progress = of_pass / (minibatches.per_pass - 1) if minibatches.per_pass > 1 else 1.0
            overall = i / (self.updates - 1) if self.updates > 1 else 1.0
            loss, error = update(progress, overall, *minibatches.next())
            losses.append(loss)
            errors.append(error)
            if schedule is not None:
                schedule.step()
            if (i + 1) % 10 == 0:
                report((i + 1) * self.images_per_update)
            if validates and (i + 1) % self.validation_freq == 0:
                _, validation_error = self._judge(model, *minibatches.validation())
                if finetuning is not None:
                    finetuning.validated(validation_error)
                if validation_error < best or (finetuning is not None and finetuning.more_will_learn):
                    best, best_at = validation_error, i
                elif self.patience is not None and i - best_at >= self.patience * self.validation_freq:
                    break
        if isinstance(path, LookAhead):
            buffers = [b.clone() for b in model.buffers()]
            path.new_rollout()
            update(1.0, 1.0, *minibatches.unseen())
            path.rewind()
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        if finetuning is not None:
            finetuning.end()
        return torch.stack(losses), torch.stack(errors)

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

    def start(self, job: Job) -> tuple[Classifier, Minibatches]:
        """The network at θ⁰, on its device, and what it will see."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            model = self.network()
        job.initialization.apply_to(model, layers=self.transfer_layers or None)
        device = chosen_device(job.device)
        sets_aside = job.learner.looks_ahead or isinstance(job.learner, MAML)
        return model.to(device), self.minibatches(job.seed, sets_aside, device)

    def minibatches(self, seed: int, sets_aside: bool, device: torch.device) -> Minibatches:
        """As the constructor of ``Minibatches``."""
        return Minibatches(self, seed, sets_aside, device)

    def result(
        self,
        job: Job,
        model: Classifier,
        minibatches: Minibatches,
        path: GradientPath | LookAhead | None,
        losses: Tensor,
        errors: Tensor,
        started: float,
    ) -> TaskResult:
        """
        What a learning process gives back that has made its updates.

        :param job: of the process
        :param model: at θ^K
        :param minibatches: that it saw
        :param path: that observed it
        :param losses: of its minibatches, before each update, shape (updates made,)
        :param errors: share of images classified wrongly, as ``losses``
        :param started: when, by ``time.perf_counter``
        """
        if isinstance(path, GradientPath):
            path.close()
        meta_gradient = None if path is None else {name: g.cpu() for name, g in path.meta_gradient().items()}
        scores: dict[str, float] = {}
        if minibatches.images.validation is not None:
            loss, scores["validation_error"] = self._judge(model, *minibatches.validation())
        if minibatches.images.validation is None or path is None:
            loss, scores["test_error"] = self._judge(model, *minibatches.test())
            scores["test_loss"] = loss
        steps = (np.arange(len(losses)) + 1) * self.images_per_update
        loss_values, error_values = losses.cpu().double().numpy(), errors.cpu().double().numpy()
        curve = LearningCurve(steps, error_values, self.steps, 1, maximize=False)
        if len(losses) < self.updates:  # From where it stopped, what it had in its last pass holds.
            last = error_values[-minibatches.per_pass :].mean()
            curve.steps, curve.values = np.append(steps, steps[-1] + 1), np.append(error_values, last)
        every = max(1, self.updates // LOGS_PER_PROCESS)

        def since(values: np.ndarray, i: int) -> float:
            """Mean since the last point: one minibatch alone is mostly noise."""
            return float(values[i - every : i].mean())

        finite = math.isfinite(loss) and all(g.isfinite().all() for g in (meta_gradient or {}).values())
        return TaskResult(
            name=self.name,
            curve=curve,
            steps=len(losses) * self.images_per_update + (minibatches.n_unseen if isinstance(path, LookAhead) else 0),
            seconds=time.perf_counter() - started,
            meta_gradient=meta_gradient,
            statistics=None if path is None else path.statistics(),
            status="ok" if finite else "non_finite",
            scores=scores,
            log=[
                *(
                    (int(steps[i - 1]), {"train/loss": since(loss_values, i), "train/error": since(error_values, i)})
                    for i in range(every, len(losses) + 1, every)
                ),
                (int(steps[-1]), {f"score/{name}": score for name, score in scores.items()}),
            ],
            final=Initialization.of(model, job.initialization.scope) if job.return_final else None,
        )

    def _differentiated(
        self, learner: MAML, scope: Collection[str], model: nn.Module, minibatches: Minibatches, started: float
    ) -> TaskResult:
        """MAML: a few updates as one function of θ⁰. Batch norm then takes the batch's statistics and keeps none."""
        functional = copy.deepcopy(model)
        torch.func.replace_all_batch_norm_modules_(functional)
        data = [*(minibatches.next() for _ in range(learner.inner_steps)), minibatches.unseen()]

        def logits(parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
            return self.logits(lambda x: torch.func.functional_call(functional, dict(parameters), (x,)), x)

        in_scope = {n: p.detach() for n, p in model.named_parameters() if n in scope}
        rest = {n: p.detach() for n, p in model.named_parameters() if n not in scope}
        gradient, path = learner.gradient_and_path(
            lambda theta, batch: nn.functional.cross_entropy(logits({**rest, **theta}, batch[0]), batch[1]),
            in_scope,
            data,
            self.learning_rate,
        )

        @torch.no_grad()
        def error(theta: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
            return (logits({**rest, **theta}, x).argmax(dim=1) != y).float().mean().item()

        errors = [error(theta, x, y) for theta, (x, y) in zip(path, data, strict=True)]
        steps = np.cumsum([len(x) for x, _ in data])
        total = int(steps[-1])
        judged = "test" if minibatches.images.validation is None else "validation"
        scores = {f"{judged}_error": error(path[-1], *getattr(minibatches, judged)())}
        return TaskResult(
            name=self.name,
            curve=LearningCurve(steps, np.array(errors), total, 1, maximize=False),
            steps=total,
            seconds=time.perf_counter() - started,
            meta_gradient={name: g.cpu() for name, g in gradient.items()},
            status="ok" if all(g.isfinite().all() for g in gradient.values()) else "non_finite",
            scores=scores,
            log=[(total, {f"score/{name}": score for name, score in scores.items()})],
        )

    @property
    def judged_at_once(self) -> int:
        """Images of a forward pass that is not learned from."""
        return 256

    @torch.no_grad()
    def _judge(self, model: Classifier, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Mean loss, and share of the images that are classified wrongly."""
        model.eval()
        logits = torch.cat([self.logits(model, part) for part in x.split(self.judged_at_once)])
        train_mode(model, self.batch_norm)
        return nn.functional.cross_entropy(logits, y).item(), (logits.argmax(dim=1) != y).float().mean().item()


class Minibatches:
    """
    What a learning process sees of its images, transformed: a function of its seed.

    :param task: what is learned
    :param seed: of order and transform
    :param sets_aside: whether one batch is never learned from, for the look ahead of FOMAML and MAML
    :param device: where the images go
    :raises ValueError: if there are too few images
    """

    def __init__(self, task: ClassificationTask, seed: int, sets_aside: bool, device: torch.device) -> None:
        self.images = task.images()
        self._transform = task.transform
        self._batch_size = task.batch_size
        self.seed = seed
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self.images.train), generator=self._generator)
        aside = self._batch_size if sets_aside else 0
        self._unseen, self._rows = rows[:aside], rows[aside:]
        self.per_pass = len(self._rows) // self._batch_size
        if not self.per_pass:
            raise ValueError(
                f"{task.name} has {len(rows)} images to learn from, too few for minibatches of {self._batch_size}"
                + " and one to set aside" * sets_aside
            )
        self._pass: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        """Images and labels, in one shuffled pass after the other; what fills no minibatch is left out of its pass."""
        if not self._pass:
            shuffled = self._rows[torch.randperm(len(self._rows), generator=self._generator)]
            self._pass = list(shuffled[: self.per_pass * self._batch_size].split(self._batch_size))
        return self._train(self._pass.pop())

    @property
    def n_unseen(self) -> int:
        """Images of ``unseen``."""
        return len(self._unseen)

    def unseen(self) -> tuple[Tensor, Tensor]:
        """The batch that was set aside."""
        return self._train(self._unseen)

    def test(self) -> tuple[Tensor, Tensor]:
        """All test images, transformed the same way each time."""
        return self._same_each_time(self.images.test, self.images.test_labels)

    def validation(self) -> tuple[Tensor, Tensor]:
        """All validation images, transformed the same way each time."""
        assert self.images.validation is not None and self.images.validation_labels is not None
        return self._same_each_time(self.images.validation, self.images.validation_labels)

    def train_images(self) -> Iterator[Tensor]:
        """All that may be learned from, transformed the same way each time, in minibatches as good as equally large."""
        generator = torch.Generator().manual_seed(self.seed)
        for rows in self._rows.tensor_split(-(-len(self._rows) // self._batch_size)):
            if len(rows) > 1:
                yield self._transformed(self.images.train[rows], generator)

    def _same_each_time(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._transformed(x, torch.Generator().manual_seed(self.seed)), y.to(self._device)

    def _train(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x = self._transformed(self.images.train[rows], self._generator)
        return x, self.images.train_labels[rows].to(self._device)

    def _transformed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (x if self._transform is None else self._transform(x, generator)).to(self._device)


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
