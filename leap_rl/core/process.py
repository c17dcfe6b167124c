"""A learning process: from θ⁰ to θ^K, observed. What agents and classifiers share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any

import torch
from torch import Tensor

from leap_rl.core.curve import LearningCurve
from leap_rl.core.initialization import Initialization
from leap_rl.core.lookahead import LookAhead
from leap_rl.core.parts import GradientPaths
from leap_rl.core.path import GradientPath
from leap_rl.core.path_statistics import PathStatistics
from leap_rl.core.task import Job, Task, TaskResult
from leap_rl.running.engines.base import Report


class LearningProcess(ABC):
    """
    One visit as it goes. ``learn`` takes the model from θ⁰ to θ^K and leaves here what it saw; ``result`` reads it.

    :param task: that is learned
    :param job: the visit to it
    :param model: at θ⁰
    :param opened: what is closed with it
    """

    curve: LearningCurve
    """How well it did as it went."""
    steps: int
    """Steps spent."""
    path: GradientPath | GradientPaths | LookAhead | None = None
    """That observed it."""
    gradient: Mapping[str, Tensor] | None = None
    """∇F of a process that is differentiated as one function of θ⁰, not observed."""
    finite = True
    """Whether it came to its end; ``False`` where it diverged."""

    def __init__(self, task: Task, job: Job, model: Any, opened: ExitStack | None = None) -> None:
        self.task = task
        self.job = job
        self.model = model
        self.opened = opened or ExitStack()
        self.scores: dict[str, float] = {}
        self.log: list[tuple[int, dict[str, float]]] = []

    @abstractmethod
    def learn(self, report: Report) -> None:
        """
        Spend the budget of the task.

        :param report: called from time to time with the steps done
        """

    def close(self) -> None:
        """Close what was opened for it."""
        self.opened.close()

    def meta_gradient(self) -> Mapping[str, Tensor] | None:
        """∇F by name, of what the optimizer moves; ``None`` if there is none."""
        if self.path is None:
            return self.gradient
        # What diverged has nothing that FOMAML could look at.
        observed = self.finite or (self.path.n_updates > 0 and not isinstance(self.path, LookAhead))
        return self.path.meta_gradient() if observed else None

    def statistics(self) -> PathStatistics | None:
        """Of the gradient path, if there is one."""
        return None if self.path is None else self.path.statistics()

    def result(self, seconds: float) -> TaskResult:
        """
        :param seconds: that it took
        """
        start, finite, gradient = self.job.initialization, self.finite, self.meta_gradient()
        if gradient is not None:
            # What the optimizer does not move is the same in every task, and stays as it is.
            fixed = {n: torch.zeros_like(t) for n, t in start.parameters.items() if n not in gradient}
            gradient = {name: g.cpu() for name, g in gradient.items()} | fixed
            finite = finite and all(bool(g.isfinite().all()) for g in gradient.values())
        return TaskResult(
            name=self.task.name,
            curve=self.curve,
            steps=self.steps,
            seconds=seconds,
            meta_gradient=gradient,
            statistics=None if gradient is None else self.statistics(),
            status="ok" if finite else "non_finite",
            scores=self.scores,
            log=self.log,
            final=Initialization.of(self.model, start.scope) if self.job.return_final else None,
        )


class LearnedTask(Task):
    """A task that a model learns by updates: ``start`` says where and how, the rest is the same for all."""

    @abstractmethod
    def start(self, job: Job) -> LearningProcess:
        """
        The model at θ⁰, which has seen nothing yet.

        :param job: where to start from and how to observe
        :raises ValueError: if it can't be learned so
        """

    def run(self, job: Job, report: Report) -> TaskResult:
        started = time.perf_counter()
        with closing(self.start(job)) as process:
            process.learn(report)
        return process.result(time.perf_counter() - started)
