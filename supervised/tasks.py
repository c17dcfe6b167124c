"""Classification as tasks: a network learns a set of images for a number of updates."""

from __future__ import annotations

import copy
import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from leap_rl.core import MAML, GradientPath, Initialization, Job, LearningCurve, LookAhead, Report, Task, TaskResult
from supervised.augmentation import RandomAffine

LOGS_PER_PROCESS = 10


@dataclass(frozen=True)
class Images:
    """
    What a classifier learns, and what it is tested on.

    :param train: float in [0, 1], shape (n, channels, height, width)
    :param train_labels: int64, shape (n,)
    :param test: as ``train``
    :param test_labels: as ``train_labels``
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


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
    :param augmentation: of every image, when it is trained on and when it is tested on
    """

    name: str
    updates: int
    batch_size: int
    learning_rate: float
    augmentation: RandomAffine | None

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Images through forward and backward: a budget is in these, whatever the learner."""
        return self.updates * self.batch_size

    @abstractmethod
    def images(self) -> Images:
        """Read, or taken from a cache."""

    @abstractmethod
    def network(self) -> nn.Module:
        """With parameters drawn from torch's generator."""

    def run(self, job: Job, report: Report) -> TaskResult:
        started = time.perf_counter()
        device = torch.device(job.device if job.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        images = self.images()
        generator = torch.Generator().manual_seed(job.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            model = self.network()
        job.initialization.apply_to(model)
        model.to(device)
        if isinstance(job.learner, MAML):
            return self._differentiated(job, job.learner, model, images, generator, started)
        # FOMAML's look ahead needs a batch that was not learned from: it is set aside.
        reserved = self._reserve(images, generator) if job.learner.looks_ahead else torch.empty(0, dtype=torch.long)
        batches = self._batches(images, reserved, generator)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.learning_rate)
        scope = job.initialization.parameters
        path = job.learner.observe({name: p for name, p in model.named_parameters() if name in scope})
        if path is not None:
            path.attach(optimizer)

        def update(rows: Tensor) -> tuple[Tensor, Tensor]:
            """Loss, and share of the images that are classified wrongly, both before the update."""
            x, y = self._augmented(images.train[rows], generator).to(device), images.train_labels[rows].to(device)
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward() if path is None else path.backward(loss)
            optimizer.step()
            return loss.detach(), (logits.detach().argmax(dim=1) != y).float().mean()

        losses, errors = [], []
        for i in range(self.updates):
            loss, error = update(next(batches))
            losses.append(loss)
            errors.append(error)
            if (i + 1) % 10 == 0:
                report((i + 1) * self.batch_size)
        steps = self.steps
        if isinstance(path, LookAhead):
            buffers = [b.clone() for b in model.buffers()]
            path.new_rollout()
            update(reserved)
            path.rewind()
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
            steps += len(reserved)
        if isinstance(path, GradientPath):
            path.close()
        meta_gradient = None if path is None else {name: g.cpu() for name, g in path.meta_gradient().items()}
        test_loss, test_error = self._test(model, images, job.seed, device)
        curve_steps = (np.arange(self.updates) + 1) * self.batch_size
        loss_values = torch.stack(losses).cpu().tolist()
        every = max(1, self.updates // LOGS_PER_PROCESS)
        finite = math.isfinite(test_loss) and all(g.isfinite().all() for g in (meta_gradient or {}).values())
        return TaskResult(
            name=self.name,
            curve=LearningCurve(curve_steps, torch.stack(errors).cpu().double().numpy(), self.steps, 1, maximize=False),
            steps=steps,
            seconds=time.perf_counter() - started,
            meta_gradient=meta_gradient,
            statistics=None if path is None else path.statistics(),
            status="ok" if finite else "non_finite",
            scores={"test_error": test_error, "test_loss": test_loss},
            log=[
                (int(curve_steps[i]), {"train/loss": loss_values[i], "train/error": errors[i].item()})
                for i in range(every - 1, self.updates, every)
            ],
            final=Initialization.of(model, job.initialization.scope) if job.return_final else None,
        )

    def _differentiated(
        self, job: Job, learner: MAML, model: nn.Module, images: Images, generator: torch.Generator, started: float
    ) -> TaskResult:
        """MAML: a few updates as one function of θ⁰. Batch norm then takes the batch's statistics and keeps none."""
        functional = copy.deepcopy(model)
        torch.func.replace_all_batch_norm_modules_(functional)
        reserved = self._reserve(images, generator)
        batches = self._batches(images, reserved, generator)
        rows = [*(next(batches) for _ in range(learner.inner_steps)), reserved]
        device = next(model.parameters()).device
        data = [
            (self._augmented(images.train[r], generator).to(device), images.train_labels[r].to(device)) for r in rows
        ]
        errors: list[float] = []

        def loss(parameters: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(
                torch.func.functional_call(functional, dict(parameters), (batch[0],)), batch[1]
            )

        in_scope = {n: p for n, p in model.named_parameters() if n in job.initialization.parameters}
        rest = {n: p.detach() for n, p in model.named_parameters() if n not in job.initialization.parameters}
        gradient = learner.meta_gradient(
            lambda theta, batch: loss({**rest, **theta}, batch), in_scope, data, self.learning_rate
        )
        with torch.no_grad():
            for x, y in data:
                logits = torch.func.functional_call(functional, {**rest, **in_scope}, (x,))
                errors.append((logits.argmax(dim=1) != y).float().mean().item())
        steps = sum(len(r) for r in rows)
        return TaskResult(
            name=self.name,
            curve=LearningCurve(np.array([steps]), np.array([np.mean(errors)]), steps, 1, maximize=False),
            steps=steps,
            seconds=time.perf_counter() - started,
            meta_gradient={name: g.cpu() for name, g in gradient.items()},
            status="ok" if all(g.isfinite().all() for g in gradient.values()) else "non_finite",
        )

    def _reserve(self, images: Images, generator: torch.Generator) -> Tensor:
        """Rows of one batch that is never learned from."""
        return torch.randperm(len(images.train), generator=generator)[: self.batch_size]

    def _batches(self, images: Images, without: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Rows of minibatches, one shuffled pass after the other; what does not fill one is left out of its pass."""
        kept = torch.ones(len(images.train), dtype=torch.bool)
        kept[without] = False
        rows = kept.nonzero().flatten()
        while True:
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            yield from shuffled[: len(rows) // self.batch_size * self.batch_size].split(self.batch_size)

    def _augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x if self.augmentation is None else self.augmentation(x, generator)

    @torch.no_grad()
    def _test(self, model: nn.Module, images: Images, seed: int, device: torch.device) -> tuple[float, float]:
        """Mean loss, and share of the test images that are classified wrongly."""
        model.eval()
        x = self._augmented(images.test, torch.Generator().manual_seed(seed)).to(device)
        logits = torch.cat([model(part) for part in x.split(256)])
        y = images.test_labels.to(device)
        model.train()
        return nn.functional.cross_entropy(logits, y).item(), (logits.argmax(dim=1) != y).float().mean().item()
