"""A task: one learning problem, and what its learning process gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from torch import Tensor

from leap_rl.core.curve import LearningCurve
from leap_rl.core.initialization import Initialization
from leap_rl.core.learners import MetaLearner
from leap_rl.core.path_statistics import PathStatistics
from leap_rl.running.engines.base import Report
from leap_rl.running.integers import integer

OF_EVERY_VISIT = {"name", "status", "steps", "seconds", "area", "final_score", "gain", "error"}
OF_EVERY_VISIT |= {field.name for field in fields(PathStatistics)}
"""What a history says of a visit besides its scores."""
LONGEST_ERROR = 4000
"""Characters that are kept of an error: some print all that they hold, and it is stored with every meta step."""


@dataclass
class TaskResult:
    """
    What a learning process gives back.

    :param name: of the task
    :param curve: how well it did as it went
    :param steps: steps spent, summed over environments
    :param seconds: wall-clock time
    :param meta_gradient: ∇F by name, if the meta-learner observes; where results are kept it is read from disk
    :param statistics: of its gradient path, if the meta-learner observes
    :param status: ``"non_finite"`` where the process or its meta gradient diverged, ``"failed"`` where it crashed or
        its worker was lost: neither may enter θ⁰
    :param error: what happened, where it failed; of a long one head and tail are kept
    :param scores: figures of the task's own, such as a test error
    :param log: what the process logged: (step, {key: value})
    :param final: θ^K, on request
    """

    name: str
    curve: LearningCurve
    steps: int
    seconds: float
    meta_gradient: Mapping[str, Tensor] | None = None
    statistics: PathStatistics | None = None
    status: Literal["ok", "non_finite", "failed"] = "ok"
    error: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    log: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    final: Initialization | None = None

    def __post_init__(self) -> None:
        # Python's own numbers, which JSON holds.
        self.steps, self.seconds = integer("steps", self.steps, least=0), float(self.seconds)
        self.scores = {name: s.item() if isinstance(s, np.generic) else s for name, s in self.scores.items()}
        if taken := OF_EVERY_VISIT & self.scores.keys():
            raise ValueError(f"scores has {min(taken)!r}, which says something else of every visit: call it otherwise")
        if self.error is not None and len(self.error) > LONGEST_ERROR:
            half = LONGEST_ERROR // 2
            left_out = len(self.error) - 2 * half
            self.error = f"{self.error[:half]}\n[... {left_out:,} characters ...]\n{self.error[-half:]}"

    @property
    def area(self) -> float:
        """Under the learning curve; NaN where the process diverged or failed, whatever it did before."""
        return self.curve.area() if self.status == "ok" else float("nan")

    @property
    def final_score(self) -> float:
        """Of the learning curve; NaN where the process diverged or failed."""
        return self.curve.final_score() if self.status == "ok" else float("nan")

    @property
    def reason(self) -> str:
        """Why it failed, in one line: the last of ``error``."""
        return ((self.error or "").splitlines() or ["for no known reason"])[-1]

    def raise_for_status(self, what: str | None = None) -> None:
        """
        :param what: to call it; ``None``: the task
        :raises RuntimeError: if the process crashed, or its worker was lost; one that diverged is a result
        """
        if self.status == "failed":
            raise RuntimeError(f"{what or self.name} failed: {self.reason}")


@dataclass(frozen=True)
class Job:
    """
    One visit to a task.

    :param task: what to learn
    :param initialization: θ⁰ to start from
    :param learner: how to observe
    :param seed: of all that is random in this visit, below 2³¹
    :param device: where the model lives
    :param return_final: whether the result holds θ^K
    """

    task: Task
    initialization: Initialization
    learner: MetaLearner
    seed: int
    device: str = "auto"
    return_final: bool = False

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def steps(self) -> int:
        return self.task.steps

    def run(self, report: Report) -> TaskResult:
        """
        :param report: called from time to time with the steps done
        :raises TypeError: if what the task gives back is no result
        """
        result = self.task.run(self, report)
        if not isinstance(result, TaskResult):
            raise TypeError(f"{type(self.task).__name__}.run returned {type(result).__name__}, not a TaskResult")
        return result

    def failed(self, error: str) -> TaskResult:
        """What stands for a result that there is none of."""
        curve = LearningCurve(np.empty(0, dtype=np.int64), np.empty(0), self.steps)
        return TaskResult(self.name, curve, steps=0, seconds=0.0, status="failed", error=error)


class Task(ABC):
    """
    A small, picklable description of a learning problem: what to build and how long to learn.
    """

    name: str
    steps: int
    """Budget, in steps summed over environments."""

    @abstractmethod
    def run(self, job: Job, report: Report) -> TaskResult:
        """
        Run one learning process, in whatever process this lands in.

        :param job: where to start from and how to observe
        :param report: called from time to time with the steps done
        """


class TaskFamily(Sequence[Task], ABC):
    """Tasks that share what is meta-learned."""

    share_scale = False
    """Whether scores of one task are of the size of another's, so that their mean says how well all are learned."""

    def check_learner(self, learner: MetaLearner) -> None:
        """
        :raises ValueError: if these tasks can't be observed as a meta-learner needs it
        """

    def finetuned(self, strategies: str) -> TaskFamily:
        """
        :param strategies: as ``read_strategies`` takes them
        :return: the same tasks, whose learning processes are held to them
        :raises ValueError: if these tasks can't be, or not to those
        """
        raise ValueError(f"{type(self).__name__} takes no fine-tuning strategy")

    @abstractmethod
    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        """
        A random θ⁰ for these tasks.

        :param scope: what of the model; ``None`` is the family's default
        :param seed: of the draw
        :raises ValueError: if no parameter is in scope, or the tasks don't share those that are
        """
