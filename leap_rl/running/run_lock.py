"""A run's folder belongs to one run, and one process at a time writes to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from leap_rl.running.outside import printable

LOCK, HOLDER = ".lock", ".holder"
"""Files of a run's folder. The lock is the operating system's, and ends with its process, however that ends; the file
stays. The other says who holds it."""


def next_run_folder(root: Path, name: str) -> Path:
    """
    Make ``root/name_1``, or the next number that is free, as SB3 counts its runs; whoever asks at the same time gets
    another.

    :raises OSError: if it can't be made
    """
    while True:
        taken = [
            int(p.name.rpartition("_")[2]) for p in root.glob(f"{name}_*") if p.name.rpartition("_")[2].isdecimal()
        ]
        folder = root / f"{name}_{max(taken, default=0) + 1}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if root.exists() and not root.is_dir():
                raise
        else:
            return folder


@contextmanager
def run_lock(folder: Path, who: str) -> Iterator[None]:
    """
    Hold the lock of a folder, which is made if it is not there.

    :param folder: of the run
    :param who: holds it, for whoever wants it meanwhile
    :raises ValueError: if another process holds it, or this one already; if it can't be locked
    """
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder} is in use by {_holder(folder)}: wait until that ends, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:  # such as a read-only disk, or one without locks
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"{folder} can't be locked: {reason}; choose another folder, on another disk") from None
    try:
        since = f"{datetime.now():%Y-%m-%d %H:%M}"
        (folder / HOLDER).write_text(f"{who} (process {os.getpid()} on {socket.gethostname()}, since {since})")
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def is_unused(folder: Path) -> bool:
    """Whether there is no such folder, or one with nothing in it but what a lock left."""
    return not folder.exists() or (folder.is_dir() and all(file.name in (LOCK, HOLDER) for file in folder.iterdir()))


def _holder(folder: Path) -> str:
    try:
        return printable((folder / HOLDER).read_text(), 200) or "another process"
    except (OSError, ValueError):
        return "another process"
