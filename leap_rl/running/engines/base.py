"""What every engine is: it runs jobs, and knows nothing of what they learn."""

from __future__ import annotations

import logging
import math
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any, ClassVar, Protocol, TypeVar

_log = logging.getLogger(__name__)


class Report(Protocol):
    """Called by a running job with the number of steps it has done and, where there is one, its score so far."""

    def __call__(self, steps: int, score: float = math.nan, /) -> None: ...


class OnProgress(Protocol):
    """Called with the index of a job, the number of steps it has done, and its score so far; NaN: none is known."""

    def __call__(self, index: int, steps: int, score: float = math.nan, /) -> None: ...


Result = TypeVar("Result")
_Result = TypeVar("_Result", covariant=True)


class Job(Protocol[_Result]):
    """What an engine runs: a dataclass that can be pickled, whose result can be, too."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def steps(self) -> int:
        """Its budget."""

    def run(self, report: Report) -> _Result:
        """In whatever process this lands in."""

    def failed(self, error: str) -> _Result:
        """What stands for its result where there is none; the last line of ``error`` says shortly why."""


class Engine(ABC):
    """
    Runs jobs. It needs to know nothing of what they learn, so a cluster is one more engine.

    All engines give the same results to the bit: a job carries its seed, and runs on one torch thread
    (one and two threads add in different orders). One that adds in an order of its own names its ``arithmetic``, and a
    run that began with it goes on with it.
    """

    arithmetic: ClassVar[str] = "exact"

    def run(self, jobs: Sequence[Job[Result]], on_progress: OnProgress) -> Iterator[tuple[int, Result]]:
        """
        Run all jobs. One that raises, or whose process is lost, is run once more, from its beginning; when that
        fails too the job says what stands for its result.

        :param jobs: independent of each other
        :param on_progress: called in this process while jobs run
        :return: index of the job and its result, in order of completion
        """
        waiting = deque(range(len(jobs)))
        failed_before: set[int] = set()
        for index, outcome in self.outcomes(jobs, waiting, on_progress):
            if not isinstance(outcome, BaseException):
                on_progress(index, jobs[index].steps)  # the last that it said itself may be of before its end
                yield index, outcome
                continue
            error = described(outcome)
            if index in failed_before:
                _log.error("%s failed again and is left out: %s", jobs[index].name, error)
                yield index, jobs[index].failed(error)
            else:
                _log.warning("%s failed and is tried once more: %s", jobs[index].name, error)
                failed_before.add(index)
                waiting.append(index)

    @abstractmethod
    def outcomes(
        self, jobs: Sequence[Job[Result]], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, Result | BaseException]]:
        """
        Run jobs until none waits and none runs. Whatever a task raises, ``sys.exit`` included, is its outcome; only the
        user's Ctrl-C ends the others.

        :param jobs: all of them
        :param waiting: indices of those to run; an index may be appended whenever an outcome was yielded
        :param on_progress: called in this process while jobs run
        :return: index of a job, and its result or what it raised, in order of completion
        """


class TaskError(Exception):
    """How a task failed, in words: what it raised itself may not survive the way out of its process."""


def check_timeout(task_timeout: float | None) -> None:
    """
    :raises ValueError: if it leaves no time at all
    """
    if task_timeout is not None and not task_timeout > 0:
        raise ValueError(f"task_timeout={task_timeout} must be more than 0 seconds")


def ended_late(job: Job[Any], seconds: float, steps: int, task_timeout: float | None) -> TaskError:
    """
    :param seconds: that it ran
    :param steps: that it had done
    :return: how a job failed that took longer than it may
    """
    return TaskError(
        f"it was ended after {seconds:.1f} seconds, with {steps:,} of {job.steps:,} steps done: "
        f"task_timeout is {task_timeout:g} seconds"
    )


def described(error: BaseException) -> str:
    """:return: what happened to a task; the last line says it shortly"""
    if isinstance(error, TaskError):
        return str(error)
    if isinstance(error, BrokenExecutor):
        # The cause is a traceback, where a job or a result was not what it was when it was pickled.
        cause = "" if error.__cause__ is None else f"{error.__cause__}\n"
        return f"{cause}its worker process was lost ({' '.join(str(error).split())})"
    try:
        return "".join(traceback.format_exception(error)).strip()
    except Exception:  # a class whose attributes are not what they should be
        return f"{type(error).__name__}, which can't be shown"
