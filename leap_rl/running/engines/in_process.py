"""One job after the other, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from leap_rl.running.engines.base import Engine, Job, OnProgress, Result, TaskError, described
from leap_rl.running.engines.process import run_job


class InProcess(Engine):
    """One job after the other, in this process."""

    def outcomes(
        self, jobs: Sequence[Job[Result]], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, Result | BaseException]]:
        while waiting:
            index = waiting.popleft()
            try:
                outcome: Result | BaseException = run_job(jobs[index], partial(on_progress, index))
            except KeyboardInterrupt:  # the user's
                raise
            except BaseException as error:
                outcome = TaskError(described(error))  # without what its traceback keeps alive
            yield index, outcome
