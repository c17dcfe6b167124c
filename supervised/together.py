"""All learning processes of a meta batch in one model: stacked parameters, one vectorized pass."""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leap_rl.core import Engine, Job, LookAhead, OnProgress, Report, TaskResult
from leap_rl.running.engines import TaskError, described
from supervised.learning import ClassifierLearning
from supervised.networks import check_has_no_hooks
from supervised.tasks import ClassificationTask


class Together(Engine):
    """
    Runs classification tasks of the same network and budget at once, by ``torch.func.vmap`` over stacked parameters,
    for a GPU that one small network can't fill. Convolutions add in another order than alone, so that results agree
    with those of other engines within float32, not to the bit. Nor is a resumed run exact to the bit: a batch of which
    some tasks were finished is smaller, and so adds in another order.

    What makes no updates by SGD, as MAML and comparing networks, is run one task after the other. Where a batch fails,
    its tasks are run once more each alone, so that it is one of them that fails, and not all.
    """

    arithmetic = "together"

    def outcomes(self, jobs: Sequence[Any], waiting: deque[int], on_progress: OnProgress) -> Iterator[tuple[int, Any]]:
        batch = list(waiting)
        waiting.clear()
        yield from self._outcomes(jobs, batch, on_progress)
        while waiting:
            yield from self._outcomes(jobs, [waiting.popleft()], on_progress)

    @staticmethod
    def _outcomes(
        jobs: Sequence[Job], batch: Sequence[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, TaskResult | BaseException]]:
        def report(steps: int, score: float = math.nan) -> None:
            for index in batch:
                on_progress(index, steps, score)

        try:
            outcomes: Sequence[TaskResult | BaseException] = learn_together([jobs[i] for i in batch], report)
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:
            outcomes = [TaskError(described(error))] * len(batch)
        yield from zip(batch, outcomes, strict=True)


def learn_together(jobs: Sequence[Job], report: Report) -> list[TaskResult]:
    """
    What ``ClassificationTask.run`` does, for many jobs at once.

    :param jobs: of tasks that differ in their images alone
    :param report: called from time to time with the steps that each has done
    :return: their results, in order
    :raises ValueError: for tasks that can't be stacked
    """
    tasks = []
    for job in jobs:
        if not isinstance(job.task, ClassificationTask):
            raise ValueError(f"{job.task.name} is no classification task: run it with another engine")
        tasks.append(job.task)
    first = tasks[0]
    for task in tasks:
        if task.finetune or task.batch_norm != "update":
            raise ValueError(f"{task.name} is fine-tuned by a strategy of its own: run it with another engine")
        if task.annealing or task.patience is not None:
            raise ValueError(f"{task.name} has a learning rate that falls, or stops early: run it with another engine")
        for setting in ("updates", "batch_size", "learning_rate", "arithmetic"):
            if getattr(task, setting) != getattr(first, setting):
                raise ValueError(f"{task.name} has other {setting} than {first.name}: they can't be learned together")
    if first.updates == 0 or any(job.learner.inner == "differentiable" for job in jobs):
        return [task.run(job, report) for task, job in zip(tasks, jobs, strict=True)]
    started = time.perf_counter()
    processes: list[ClassifierLearning] = []
    for task, job in zip(tasks, jobs, strict=True):
        process = task.start(job)
        assert isinstance(process, ClassifierLearning), "it makes updates"
        processes.append(process)
    models = [process.model for process in processes]
    for model in models:
        check_has_no_hooks(model, "the engine together")
    if len({tuple((n, p.shape) for n, p in model.named_parameters()) for model in models}) > 1:
        raise ValueError("tasks whose networks have different shapes can't be learned together")

    parameters, buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]
    skeleton = copy.deepcopy(models[0])
    forward = torch.vmap(lambda p, b, x: torch.func.functional_call(skeleton, (p, b), (x,)))
    optimizer = torch.optim.SGD(list(parameters.values()), lr=first.learning_rate)
    # Each process as its observer sees it: views on its rows of the stacked parameters and gradients.
    for stacked in parameters.values():
        stacked.grad = torch.zeros_like(stacked)
    for i, (job, process) in enumerate(zip(jobs, processes, strict=True)):
        own = {}
        for name, stacked in parameters.items():
            if name in job.initialization.parameters:
                own[name] = nn.Parameter(stacked.detach()[i])
                assert stacked.grad is not None
                own[name].grad = stacked.grad[i]
        process.path = job.learner.observe(own)
    paths = [process.path for process in processes]

    def update(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        x, y = torch.stack([x for x, _ in batch]), torch.stack([y for _, y in batch])
        logits = first.logits(lambda x: forward(parameters, buffers, x), x)
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(dim=1)
        optimizer.zero_grad(set_to_none=False)  # the views stay
        losses.sum().backward()
        losses = losses.detach()
        for path, loss in zip(paths, losses, strict=True):
            if path is not None:
                path.before_update(loss)
        optimizer.step()
        for path in paths:
            if path is not None:
                path.after_update()
        return losses, (logits.detach().argmax(dim=2) != y).float().mean(dim=1)

    losses, errors = [], []
    for i in range(first.updates):
        loss, error = update([process.minibatches.next() for process in processes])
        losses.append(loss)
        errors.append(error)
        if (i + 1) % 10 == 0:
            report((i + 1) * first.batch_size)
    ahead = [path for path in paths if isinstance(path, LookAhead)]
    if ahead:
        end = {name: tensor.detach().clone() for name, tensor in [*parameters.items(), *buffers.items()]}
        for path in ahead:
            path.new_rollout()
        update([process.minibatches.unseen() for process in processes])
        parameters, buffers = ({name: end[name] for name in of} for of in (parameters, buffers))
    of_losses, of_errors = torch.stack(losses), torch.stack(errors)
    results = []
    for i, process in enumerate(processes):
        process.model.load_state_dict({name: t[i] for name, t in {**parameters, **buffers}.items()})
        process.ended(of_losses[:, i], of_errors[:, i])
        results.append(process.result((time.perf_counter() - started) / len(jobs)))  # each its share
    return results
