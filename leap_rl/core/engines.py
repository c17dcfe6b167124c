"""Where the learning processes of a meta batch run."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path

import loky
import numpy as np
import torch

from leap_rl.core.task import Job, Report, TaskResult

OnProgress = Callable[[int, int], None]
"""Called with the index of a job and the number of steps it has done."""


class Engine(ABC):
    """
    Runs jobs. It needs to know nothing of what they learn, so a cluster is one more engine.

    Every engine gives the same results to the bit: a job carries its seed, and runs on one torch thread
    (one and two threads add in different orders).
    """

    @abstractmethod
    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, TaskResult]]:
        """
        Run all jobs; a job's exception is raised here.

        :param jobs: independent of each other
        :param on_progress: called in this process while jobs run
        :return: index of the job and its result, in order of completion
        """


class InProcess(Engine):
    """One job after the other, in this process."""

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, TaskResult]]:
        for index, job in enumerate(jobs):

            def report(steps: int, index: int = index) -> None:
                on_progress(index, steps)

            yield index, run_job(job, report)


class Workers(Engine):
    """
    One single-threaded process per core. The pool stays between meta steps, since importing torch takes seconds,
    and needs no ``if __name__ == "__main__"`` in the script that starts it.

    :param n_workers: number of processes; ``None``: one per core
    """

    POLL_SECONDS = 0.2

    def __init__(self, n_workers: int | None = None) -> None:
        if n_workers is not None and n_workers < 1:
            raise ValueError(f"n_workers={n_workers} must be at least 1")
        self.n_workers = n_workers or loky.cpu_count()

    def run(self, jobs: Sequence[Job], on_progress: OnProgress) -> Iterator[tuple[int, TaskResult]]:
        pool = loky.get_reusable_executor(max_workers=self.n_workers, timeout=600, env={"OMP_NUM_THREADS": "1"})
        with _progress_board(len(jobs)) as board:
            futures: dict[Future[TaskResult], int] = {
                pool.submit(_run_in_worker, job, board.filename, index): index for index, job in enumerate(jobs)
            }
            pending = set(futures)
            try:
                while pending:
                    done, pending = wait(pending, timeout=self.POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for index, steps in enumerate(board):
                        on_progress(index, int(steps))
                    for future in sorted(done, key=futures.__getitem__):
                        yield futures[future], future.result()
            finally:
                for future in pending:
                    future.cancel()


def run_job(job: Job, report: Report) -> TaskResult:
    """Run one job on one torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return job.task.run(job, report)
    finally:
        torch.set_num_threads(threads)


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
        yield np.memmap(name, dtype=np.int64, mode="w+", shape=(n_jobs,))
    finally:
        os.unlink(name)
