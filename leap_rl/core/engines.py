"""Where the learning processes of a meta batch run."""

from __future__ import annotations

import logging
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
from contextlib import contextmanager
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
            name, error = jobs[index].task.name, _described(outcome)
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
    ) -> Iterator[tuple[int, TaskResult | Exception]]:
        """
        Run jobs until none waits and none runs.

        :param jobs: all of them
        :param waiting: indices of those to run; an index may be appended whenever an outcome was yielded
        :param on_progress: called in this process while jobs run
        :return: index of a job, and its result or what it raised, in order of completion
        """


class InProcess(Engine):
    """One job after the other, in this process."""

    def outcomes(
        self, jobs: Sequence[Job], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, TaskResult | Exception]]:
        while waiting:
            index = waiting.popleft()
            try:
                outcome: TaskResult | Exception = run_job(jobs[index], partial(on_progress, index))
            except Exception as error:
                outcome = error
            yield index, outcome


class Workers(Engine):
    """
    One single-threaded process per core. The processes stay between meta steps, since importing torch takes seconds,
    and need no ``if __name__ == "__main__"`` in the script that starts them. One that is lost takes no other with it:
    each is a pool of its own.

    :param n_workers: number of processes; ``None``: one per core
    """

    POLL_SECONDS = 0.2

    def __init__(self, n_workers: int | None = None) -> None:
        if n_workers is not None and n_workers < 1:
            raise ValueError(f"n_workers={n_workers} must be at least 1")
        self.n_workers = n_workers or loky.cpu_count()

    def outcomes(
        self, jobs: Sequence[Job], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, TaskResult | Exception]]:
        idle = list(range(self.n_workers))
        running: dict[Future[TaskResult], tuple[int, int]] = {}  # the job's index, its worker
        with _progress_board(len(jobs)) as board:
            try:
                while waiting or running:
                    while waiting and idle:
                        index, worker = waiting.popleft(), idle.pop(0)
                        running[_submit(worker, jobs[index], board, index)] = index, worker
                    done = wait(running, timeout=self.POLL_SECONDS, return_when=FIRST_COMPLETED).done
                    for index, steps in enumerate(board):
                        on_progress(index, int(steps))
                    for future in sorted(done, key=lambda f: running[f]):
                        index, worker = running.pop(future)
                        idle.append(worker)
                        error = future.exception()
                        if isinstance(error, BrokenExecutor):
                            _discard_pool(worker)
                        if error is None:
                            yield index, future.result()
                        elif isinstance(error, Exception):
                            yield index, error
                        else:
                            raise error
            finally:
                # Left early, by Ctrl-C for one: what still runs is of no use to anyone.
                for _, worker in running.values():
                    _discard_pool(worker)


def failed_result(job: Job, error: str) -> TaskResult:
    """What stands for the result of a job that has none."""
    curve = LearningCurve(np.empty(0, dtype=np.int64), np.empty(0), job.task.steps)
    return TaskResult(job.task.name, curve, steps=0, seconds=0.0, status="failed", error=error)


def _described(error: Exception) -> str:
    if isinstance(error, BrokenExecutor):
        return f"its worker process was lost ({error})"
    # loky hands on the traceback of a worker as the cause.
    return "".join(traceback.format_exception(error)).strip()


# One pool of one process for each worker, shared by all engines of this process.
_pools: dict[int, loky.ProcessPoolExecutor] = {}


def _pool(worker: int) -> loky.ProcessPoolExecutor:
    if worker not in _pools:
        _pools[worker] = loky.ProcessPoolExecutor(
            max_workers=1,
            timeout=600,
            env={"OMP_NUM_THREADS": "1"},
            initializer=_start_worker,
            initargs=(os.getpid(),),
        )
    return _pools[worker]


def _submit(worker: int, job: Job, board: np.memmap, index: int) -> Future[TaskResult]:
    try:
        return _pool(worker).submit(_run_in_worker, job, board.filename, index)
    except BrokenExecutor:  # its process was lost while it had nothing to do
        _discard_pool(worker)
        return _pool(worker).submit(_run_in_worker, job, board.filename, index)


def _discard_pool(worker: int) -> None:
    _pools.pop(worker).shutdown(wait=False, kill_workers=True)


def _start_worker(trainer: int) -> None:
    """In a worker: Ctrl-C is the trainer's to handle, and nothing outlives the trainer, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == trainer:
            time.sleep(1)
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
    with learning_process():
        return job.task.run(job, report)


def _run_in_worker(job: Job, board: Path, index: int) -> TaskResult:
    steps_done = np.memmap(board, dtype=np.int64, mode="r+")

    def report(steps: int) -> None:
        steps_done[index] = steps

    return run_job(job, report)


@contextmanager
def _progress_board(n_jobs: int) -> Iterator[np.memmap]:
    """Steps done per job, in a file that the workers map: no queue, no thread, nothing to lose with a worker."""
    handle, name = tempfile.mkstemp(prefix="leap_rl-progress-")
    os.close(handle)
    try:
        yield np.memmap(name, dtype=np.int64, mode="w+", shape=(max(n_jobs, 1),))  # an empty file can't be mapped
    finally:
        os.unlink(name)
