"""A classifier that learns images: by SGD, or differentiated as one function of θ⁰."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from leap_rl.core import (
    MAML,
    FineTuning,
    GradientPath,
    Job,
    LearningCurve,
    LearningProcess,
    LookAhead,
    Report,
    blocks_of,
    read_strategies,
)
from supervised.batch_norm import recompute, train_mode
from supervised.images import Minibatches
from supervised.networks import Classifier

if TYPE_CHECKING:
    from supervised.tasks import ClassificationTask

LOGS_PER_PROCESS = 10


def make_updates(
    task: ClassificationTask,
    model: Classifier,
    minibatches: Minibatches,
    path: GradientPath | LookAhead | None,
    report: Report,
) -> tuple[Tensor, Tensor]:
    """
    SGD on cross entropy, for the updates of a task.

    :param task: whose settings hold
    :param model: at its start; what of it requires a gradient is learned
    :param minibatches: that it sees
    :param path: that observes it
    :param report: called from time to time with the steps done
    :return: loss, and share of images classified wrongly, of each minibatch before its update, shape (updates,)
    """
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=task.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.updates) if task.annealing else None
    strategies = read_strategies(task.finetune) if task.finetune else []
    finetuning = FineTuning(strategies, blocks_of(model), optimizer, seed=minibatches.seed) if strategies else None
    if path is not None:
        path.attach(optimizer)
    if isinstance(path, GradientPath):
        path.gradients_are_fresh = True  # zero_grad() below

    def update(progress: float, overall: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        model.before_update(progress, overall)
        logits = task.logits(model, x)
        loss = nn.functional.cross_entropy(logits, y)
        penalized = loss + model.penalty(y)
        optimizer.zero_grad()
        penalized.backward() if path is None else path.backward(penalized)
        model.before_step()
        optimizer.step()
        model.after_step()
        return loss.detach(), (logits.detach().argmax(dim=1) != y).float().mean()

    if task.batch_norm == "recompute":
        recompute(model, minibatches.train_images())
    train_mode(model, task.batch_norm)
    validates = task.patience is not None or any(strategy.awaits_validation for strategy in strategies)
    losses, errors = [], []
    best, best_at = math.inf, 0
    for i in range(task.updates):
        if finetuning is not None:
            finetuning.at((i + 1) / task.updates)
        of_pass = i % minibatches.per_pass
        progress = of_pass / (minibatches.per_pass - 1) if minibatches.per_pass > 1 else 1.0
        overall = i / (task.updates - 1) if task.updates > 1 else 1.0
        loss, error = update(progress, overall, *minibatches.next())
        losses.append(loss)
        errors.append(error)
        if schedule is not None:
            schedule.step()
        if (i + 1) % 10 == 0:
            report((i + 1) * task.images_per_update)
        if validates and (i + 1) % task.validation_freq == 0:
            _, validation_error = task.judge(model, *minibatches.validation())
            if finetuning is not None:
                finetuning.validated(validation_error)
            if validation_error < best or (finetuning is not None and finetuning.more_will_learn):
                best, best_at = validation_error, i
            elif task.patience is not None and i - best_at >= task.patience * task.validation_freq:
                break
    if isinstance(path, LookAhead):
        end = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        path.new_rollout()
        update(1.0, 1.0, *minibatches.unseen())
        model.load_state_dict(end)  # what is not in scope has moved, too
    if finetuning is not None:
        finetuning.end()
    return torch.stack(losses), torch.stack(errors)


class ClassifierProcess(LearningProcess):
    """
    A classifier and the images of a task.

    :param task: that is learned
    :param job: the visit to it
    :param model: at θ⁰, on its device
    :param minibatches: that it will see
    """

    task: ClassificationTask
    model: Classifier

    def __init__(self, task: ClassificationTask, job: Job, model: Classifier, minibatches: Minibatches) -> None:
        super().__init__(task, job, model)
        self.minibatches = minibatches

    def differentiated(self, images: Sequence[int], errors: Sequence[float]) -> None:
        """
        Note how it went, of what was differentiated.

        :param images: that each error is of
        :param errors: share of them that was classified wrongly
        """
        steps = np.cumsum(images)
        self.steps = int(steps[-1])
        self.curve = LearningCurve(steps, np.array(errors), self.steps, 1, maximize=False)
        self.log_scores()

    def log_scores(self) -> None:
        """At the last step."""
        self.log.append((self.steps, {f"score/{name}": score for name, score in self.scores.items()}))


class ClassifierLearning(ClassifierProcess):
    """It learns by SGD on cross entropy."""

    path: GradientPath | LookAhead | None

    def learn(self, report: Report) -> None:
        scope = self.job.initialization.parameters
        self.path = self.job.learner.observe({n: p for n, p in self.model.named_parameters() if n in scope})
        self.ended(*make_updates(self.task, self.model, self.minibatches, self.path, report))

    def ended(self, losses: Tensor, errors: Tensor) -> None:
        """
        At θ^K: close the path, test, and note how it went.

        :param losses: of the minibatches, before each update, shape (updates made,)
        :param errors: share of images classified wrongly, as ``losses``
        """
        task, minibatches = self.task, self.minibatches
        if isinstance(self.path, GradientPath):
            self.path.close()
        if minibatches.images.validation is not None:
            loss, self.scores["validation_error"] = task.judge(self.model, *minibatches.validation())
        if minibatches.images.validation is None or self.path is None:
            loss, self.scores["test_error"] = task.judge(self.model, *minibatches.test())
            self.scores["test_loss"] = loss
        self.finite = math.isfinite(loss)
        self.steps = len(losses) * task.images_per_update
        steps = (np.arange(len(losses)) + 1) * task.images_per_update
        loss_values, error_values = losses.cpu().double().numpy(), errors.cpu().double().numpy()
        self.curve = LearningCurve(steps, error_values, task.steps, 1, maximize=False)
        if len(losses) < task.updates:  # From where it stopped, what it had in its last pass holds.
            last = error_values[-minibatches.per_pass :].mean()
            self.curve.steps, self.curve.values = np.append(steps, steps[-1] + 1), np.append(error_values, last)
        every = max(1, task.updates // LOGS_PER_PROCESS)

        def since(values: np.ndarray, i: int) -> float:
            """Mean since the last point: one minibatch alone is mostly noise."""
            return float(values[i - every : i].mean())

        self.log = [
            (int(steps[i - 1]), {"train/loss": since(loss_values, i), "train/error": since(error_values, i)})
            for i in range(every, len(losses) + 1, every)
        ]
        self.log_scores()
        if isinstance(self.path, LookAhead):
            self.steps += minibatches.n_unseen


class Differentiated(ClassifierProcess):
    """MAML: a few updates as one function of θ⁰. Batch norm then takes the batch's statistics and keeps none."""

    def learn(self, report: Report) -> None:
        task, minibatches, learner = self.task, self.minibatches, self.job.learner
        assert isinstance(learner, MAML)
        functional = copy.deepcopy(self.model)
        torch.func.replace_all_batch_norm_modules_(functional)
        data = [*(minibatches.next() for _ in range(learner.inner_steps)), minibatches.unseen()]
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        in_scope = {name: p for name, p in parameters.items() if name in self.job.initialization.parameters}

        def logits(theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
            return task.logits(lambda x: torch.func.functional_call(functional, {**parameters, **theta}, (x,)), x)

        @torch.no_grad()
        def error(theta: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
            return (logits(theta, x).argmax(dim=1) != y).float().mean().item()

        self.gradient, path = learner.differentiate(
            lambda theta, batch: nn.functional.cross_entropy(logits(theta, batch[0]), batch[1]),
            in_scope,
            data,
            task.learning_rate,
        )
        errors = [error(theta, x, y) for theta, (x, y) in zip(path, data, strict=True)]
        judged = "test" if minibatches.images.validation is None else "validation"
        self.scores[f"{judged}_error"] = error(path[-1], *getattr(minibatches, judged)())
        self.model.load_state_dict(path[-1], strict=False)
        self.differentiated([len(x) for x, _ in data], errors)
