"""How every learning process runs, wherever that is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from leap_rl.running.engines.base import Job, Report, Result
from leap_rl.running.memory import give_back_freed_memory, keep_freed_memory


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


def run_job(job: Job[Result], report: Report) -> Result:
    """
    :raises BaseException: whatever the job raises
    """
    process = os.getpid()
    try:
        with learning_process():
            return job.run(report)
    except BaseException as error:
        if os.getpid() == process:
            raise
        # A process that the task has forked ends as it meant to, and does not become a second trainer.
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else code is not None)
