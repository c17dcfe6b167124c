"""One single-threaded process per core of this machine."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import loky
import numpy as np

from leap_rl.running.engines.base import (
    Engine,
    Job,
    OnProgress,
    Result,
    TaskError,
    check_timeout,
    described,
    ended_late,
)
from leap_rl.running.engines.process import run_job


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
        check_timeout(task_timeout)
        self.n_workers = n_workers or loky.cpu_count()
        self.task_timeout = task_timeout

    def outcomes(
        self, jobs: Sequence[Job[Result]], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, Result | BaseException]]:
        idle = list(range(self.n_workers))
        running: dict[Future[Result], _Run] = {}
        with _progress_board(len(jobs)) as board:
            try:
                looked_at = time.monotonic()
                while waiting or running:
                    while waiting and idle:
                        run = _Run(waiting.popleft(), idle.pop(0))
                        board[run.index] = (0, 0, math.nan)
                        running[_submit(run.worker, jobs[run.index], board, run.index)] = run
                    done = wait(running, timeout=self.POLL_SECONDS, return_when=FIRST_COMPLETED).done
                    for run in running.values():
                        _, steps, score = board[run.index].tolist()
                        on_progress(run.index, steps, score)
                    now = time.monotonic()
                    # While this process was stopped (by Ctrl-Z for one), no worker's time counts.
                    passed, looked_at = min(now - looked_at, 1.0), now
                    for future, run in sorted(running.items(), key=lambda item: item[1].index):
                        run.goes_on(int(board["pid"][run.index]), passed)
                        if future in done:
                            error = future.exception()
                        elif self._is_late(run):
                            steps = int(board["steps"][run.index])
                            error = ended_late(jobs[run.index], run.seconds, steps, self.task_timeout)
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


# One pool of one process for each worker, shared by all engines of this process.
_pools: dict[int, loky.ProcessPoolExecutor] = {}


def _pool(worker: int) -> loky.ProcessPoolExecutor:
    if worker not in _pools:
        _pools[worker] = loky.ProcessPoolExecutor(
            max_workers=1,
            timeout=600,
            # loky ends a worker that has grown by 300 MB, as a leak: a task that is larger than the first one is none.
            env={"OMP_NUM_THREADS": "1", "LOKY_MAX_MEMORY_LEAK_SIZE": "2e9"},
            initializer=_start_worker,
            initargs=(os.getpid(), multiprocessing.get_start_method(allow_none=True)),
        )
    return _pools[worker]


def _submit(worker: int, job: Job[Result], board: np.memmap, index: int) -> Future[Result]:
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
        os.setpgrp()  # no session of its own: Linux weighs sessions alike, so `nice` would not reach its work
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


def _run_in_worker(job: Job[Result], board: Path, index: int) -> Result:
    this = np.memmap(board, dtype=BOARD, mode="r+")[index]
    this["pid"] = os.getpid()

    def report(steps: int, score: float = math.nan) -> None:
        this["steps"], this["score"] = steps, score

    try:
        return run_job(job, report)
    except BaseException as error:
        raise TaskError(described(error)) from None


BOARD = np.dtype([("pid", np.int64), ("steps", np.int64), ("score", np.float64)])
"""What a worker says of a job: the id of its process when it begins, the steps done, and its score so far."""


@contextmanager
def _progress_board(n_jobs: int) -> Iterator[np.memmap]:
    """A row for each job, in a file that the workers map: no queue, no thread, nothing to lose with a worker."""
    handle, name = tempfile.mkstemp(prefix="leap_rl-progress-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(max(n_jobs, 1) * BOARD.itemsize))  # whole: where there is no room, it is an error here
        yield np.memmap(name, dtype=BOARD, mode="r+")
    finally:
        os.unlink(name)
