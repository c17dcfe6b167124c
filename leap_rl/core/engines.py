"""Where the learning processes of a meta batch run."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import loky
import numpy as np
import torch

from leap_rl.core.curve import LearningCurve
from leap_rl.core.memory import give_back_freed_memory, keep_freed_memory
from leap_rl.core.task import Job, Report, TaskResult

_log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Called with the index of a job and the number of steps it has done."""


class Engine(ABC):
    """
    Runs jobs. It needs to know nothing of what they learn, so a cluster is one more engine.

    Every engine of core gives the same results to the bit: a job carries its seed, and runs on one torch thread
    (one and two threads add in different orders). One that adds in an order of its own names its ``arithmetic``, and a
    run that began with it goes on with it.
    """

    arithmetic: ClassVar[str] = "exact"

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, TaskResult]]:
        """
        Run all jobs. One that raises, or whose process is lost, is run once more, from its beginning; when that
        fails too its result has the status ``"failed"``.

        :param jobs: independent of each other
        :param on_progress: called in this process while jobs run
        :return: index of the job and its result, in order of completion
        """
        waiting = deque(range(len(jobs)))
        failed_before: set[int] = set()
        for index, outcome in self.outcomes(jobs, waiting, on_progress):
            if isinstance(outcome, TaskResult):
                yield index, outcome
                continue
            name, error = jobs[index].task.name, described(outcome)
            if index in failed_before:
                _log.error("%s failed again and is left out: %s", name, error)
                yield index, failed_result(jobs[index], error)
            else:
                _log.warning("%s failed and is tried once more: %s", name, error)
                failed_before.add(index)
                waiting.append(index)

    @abstractmethod
    def outcomes(
        self, jobs: Sequence[Job], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, TaskResult | BaseException]]:
        """
        Run jobs until none waits and none runs. Whatever a task raises, ``sys.exit`` included, is its outcome; only the
        user's Ctrl-C ends the others.

        :param jobs: all of them
        :param waiting: indices of those to run; an index may be appended whenever an outcome was yielded
        :param on_progress: called in this process while jobs run
        :return: index of a job, and its result or what it raised, in order of completion
        """


class InProcess(Engine):
    """One job after the other, in this process."""

    def outcomes(
        self, jobs: Sequence[Job], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, TaskResult | BaseException]]:
        while waiting:
            index = waiting.popleft()
            try:
                outcome: TaskResult | BaseException = run_job(jobs[index], partial(on_progress, index))
            except KeyboardInterrupt:  # the user's
                raise
            except BaseException as error:
                outcome = TaskError(described(error))  # without what its traceback keeps alive
            yield index, outcome


class Workers(Engine):
    """
    One single-threaded process per core. The processes stay between meta steps, since importing torch takes seconds,
    and need no ``if __name__ == "__main__"`` in the script that starts them. One that is lost takes no other with it:
    each is a pool of its own. What a task starts in a worker, such as processes of ``multiprocessing``, ends with it.

    :param n_workers: number of processes; ``None``: one per core
    :param task_timeout: seconds of wall-clock that one run of a task may take, from when it begins in its worker; then
        the worker is ended, and the task has failed. ``None``: as long as it takes
    :raises ValueError: for less than one worker, or no time at all
    """

    POLL_SECONDS = 0.2
    START_SECONDS = 300.0
    """That a worker has, besides, to start and to build the task, before it runs."""

    def __init__(self, n_workers: int | None = None, task_timeout: float | None = None) -> None:
        if n_workers is not None and n_workers < 1:
            raise ValueError(f"n_workers={n_workers} must be at least 1")
        if task_timeout is not None and not task_timeout > 0:
            raise ValueError(f"task_timeout={task_timeout} must be more than 0 seconds")
        self.n_workers = n_workers or loky.cpu_count()
        self.task_timeout = task_timeout

    def outcomes(
        self, jobs: Sequence[Job], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, TaskResult | BaseException]]:
        idle = list(range(self.n_workers))
        running: dict[Future[TaskResult], _Run] = {}
        with _progress_board(len(jobs)) as board:
            try:
                looked_at = time.monotonic()
                while waiting or running:
                    while waiting and idle:
                        run = _Run(waiting.popleft(), idle.pop(0))
                        board[run.index] = 0
                        running[_submit(run.worker, jobs[run.index], board, run.index)] = run
                    done = wait(running, timeout=self.POLL_SECONDS, return_when=FIRST_COMPLETED).done
                    for index, steps in enumerate(board["steps"]):
                        on_progress(index, int(steps))
                    now = time.monotonic()
                    # While this process was stopped (by Ctrl-Z for one), no worker's time counts.
                    passed, looked_at = min(now - looked_at, 1.0), now
                    for future, run in sorted(running.items(), key=lambda item: item[1].index):
                        run.goes_on(int(board["pid"][run.index]), passed)
                        if future in done:
                            error = future.exception()
                        elif self._is_late(run):
                            error = TaskError(
                                f"it was ended after {run.seconds:.1f} seconds, with "
                                f"{board['steps'][run.index]:,} of {jobs[run.index].task.steps:,} steps done: "
                                f"task_timeout is {self.task_timeout:g} seconds"
                            )
                        else:
                            continue
                        if future not in done or isinstance(error, BrokenExecutor):
                            _end_worker(run.worker, run.pid)
                        del running[future]
                        idle.append(run.worker)
                        yield run.index, future.result() if error is None else error
            finally:
                # Left early, by Ctrl-C for one: what still runs is of no use to anyone.
                for run in running.values():
                    _end_worker(run.worker, int(board["pid"][run.index]))

    def _is_late(self, run: _Run) -> bool:
        if self.task_timeout is None:
            return False
        return run.seconds > self.task_timeout + (0.0 if run.pid else self.START_SECONDS)


@dataclass
class _Run:
    """
    A job in a worker.

    :param index: of the job
    :param worker: that it was given to
    :param pid: of the worker's process; 0 until the job begins there
    :param seconds: since it began, or until then since it was given
    """

    index: int
    worker: int
    pid: int = 0
    seconds: float = 0.0

    def goes_on(self, pid: int, seconds: float) -> None:
        self.seconds = self.seconds + seconds if pid == self.pid else 0.0
        self.pid = pid


class TaskError(Exception):
    """How a task failed, in words: what it raised itself may not survive the way out of its process."""


def failed_result(job: Job, error: str) -> TaskResult:
    """What stands for the result of a job that has none."""
    curve = LearningCurve(np.empty(0, dtype=np.int64), np.empty(0), job.task.steps)
    return TaskResult(job.task.name, curve, steps=0, seconds=0.0, status="failed", error=error)


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


# One pool of one process for each worker, shared by all engines of this process.
_pools: dict[int, loky.ProcessPoolExecutor] = {}


def _pool(worker: int) -> loky.ProcessPoolExecutor:
    if worker not in _pools:
        _pools[worker] = loky.ProcessPoolExecutor(
            max_workers=1,
            timeout=600,
            env={"OMP_NUM_THREADS": "1"},
            initializer=_start_worker,
            initargs=(os.getpid(), multiprocessing.get_start_method(allow_none=True)),
        )
    return _pools[worker]


def _submit(worker: int, job: Job, board: np.memmap, index: int) -> Future[TaskResult]:
    try:
        return _pool(worker).submit(_run_in_worker, job, board.filename, index)
    except BrokenExecutor:  # its process was lost while it had nothing to do
        _end_worker(worker)
        return _pool(worker).submit(_run_in_worker, job, board.filename, index)


def _end_worker(worker: int, pid: int = 0) -> None:
    """Whatever it does; ``pid`` leads the group of what its tasks have started, 0 if that is not known."""
    if pid:
        _kill_group(pid)
    _pools.pop(worker).shutdown(wait=False, kill_workers=True)


def _kill_group(leader: int) -> None:
    if os.name == "posix":  # elsewhere there are no groups, and the worker alone is ended
        with suppress(OSError):  # none of it is left
            os.killpg(leader, signal.SIGKILL)


def _start_worker(trainer: int, start_method: str | None) -> None:
    """
    In a worker: Ctrl-C is the trainer's to handle, and nothing outlives the trainer, however it ends. What a task
    starts is of the group that the worker leads, and ends with it.

    :param trainer: process id
    :param start_method: of the trainer's own processes; loky's is none that ``multiprocessing`` can use
    """
    if os.name == "posix":
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.set_start_method(start_method, force=True)
    worker = os.getpid()

    @atexit.register
    def end() -> None:
        if os.getpid() == worker:  # not what it forked
            _kill_group(worker)

    def watch() -> None:
        while os.getppid() == trainer:
            time.sleep(1)
        _kill_group(worker)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def learning_process() -> Iterator[None]:
    """
    How every learning process runs: torch on one thread, since with another number it has other bits, and with the
    memory that an update frees kept for the next.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        yield
    finally:
        give_back_freed_memory()
        torch.set_num_threads(threads)


def run_job(job: Job, report: Report) -> TaskResult:
    """
    :raises TypeError: if what the task gives back is no result
    :raises BaseException: whatever the task raises
    """
    process = os.getpid()
    try:
        with learning_process():
            result = job.task.run(job, report)
    except BaseException as error:
        if os.getpid() == process:
            raise
        # A process that the task has forked ends as it meant to, and does not become a second trainer.
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else code is not None)
    if not isinstance(result, TaskResult):
        raise TypeError(f"{type(job.task).__name__}.run returned {type(result).__name__}, not a TaskResult")
    return result


def _run_in_worker(job: Job, board: Path, index: int) -> TaskResult:
    this = np.memmap(board, dtype=BOARD, mode="r+")[index]
    this["pid"] = os.getpid()

    def report(steps: int) -> None:
        this["steps"] = steps

    try:
        return run_job(job, report)
    except BaseException as error:
        raise TaskError(described(error)) from None


BOARD = np.dtype([("pid", np.int64), ("steps", np.int64)])
"""What a worker says of a job: the id of its process when it begins, and the steps done."""


@contextmanager
def _progress_board(n_jobs: int) -> Iterator[np.memmap]:
    """A row for each job, in a file that the workers map: no queue, no thread, nothing to lose with a worker."""
    handle, name = tempfile.mkstemp(prefix="leap_rl-progress-")
    os.close(handle)
    try:
        yield np.memmap(name, dtype=BOARD, mode="w+", shape=(max(n_jobs, 1),))  # an empty file can't be mapped
    finally:
        os.unlink(name)
