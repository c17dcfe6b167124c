"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leap_rl.running import record

UNFINISHED = "-unfinished-"
"""In temporary names, which begin with a dot: ``clean`` knows by it what a killed process left."""
_OLD = "old-"


@contextmanager
def replacing_folder(path: Path, sizes: Sequence[int] = ()) -> Iterator[Path]:
    """
    Gives a temporary folder and, when the block ends well, renames it to ``path``; else nothing is left of it.

    :param path: the folder to appear; an older one is removed once the new one is complete
    :param sizes: of its files, bytes, if they are known
    :raises OSError: if there is no room for it, saying how much is missing
    """
    with _saying_what_is_missing(path, sizes):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{UNFINISHED}", dir=path.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            for file in (*temporary.iterdir(), temporary):
                if not file.is_symlink():
                    _sync(file)
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}{UNFINISHED}{_OLD}", dir=path.parent))
                try:
                    os.replace(path, old / path.name)
                    os.replace(temporary, path)
                finally:
                    if not path.exists():  # whatever came between the two, Ctrl-C included
                        os.replace(old / path.name, path)
                    shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # where it was not renamed
        _sync(path.parent)


@contextmanager
def replacing_file(file: Path, size: int | None = None) -> Iterator[Path]:
    """
    As ``replacing_folder``, for a file: gives a temporary name of the same ending, which no other process of this
    machine has. The file's folder is made.

    :param file: to appear, or to be replaced
    :param size: bytes that are to be written, if they are known
    :raises OSError: if there is no room for it, saying how much is missing
    """
    with _saying_what_is_missing(file, [] if size is None else [size]):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.stem}{UNFINISHED}{os.getpid()}{file.suffix}")
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(file.parent)


def clean(folder: Path, name: str = "*") -> None:
    """
    Remove what a process that was killed left half written in a folder, which nobody else writes to. What was to be
    replaced, and was not yet, is put back.

    :param folder: to clean
    :param name: of what was to be written, a file's without its ending; ``"*"``: all
    """
    for unfinished in list(folder.glob(f".{name}{UNFINISHED}*")):
        if f"{UNFINISHED}{_OLD}" in unfinished.name and unfinished.is_dir():
            for old in unfinished.iterdir():
                if not (folder / old.name).exists():
                    os.replace(old, folder / old.name)
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _saying_what_is_missing(path: Path, sizes: Sequence[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        limit = _largest_file() if error.errno == errno.EFBIG else None
        if limit is None:
            there, room, needed = _free(path), "are free", sum(sizes)
        else:
            there, room, needed = limit, "are what one file may have (ulimit -f)", max(sizes, default=0)
        needs = f"it needs {needed:,} bytes, " if sizes else "it needs more bytes than there are: "
        # Where a quota is the reason, what is free is not.
        missing = f", so {needed - there:,} are missing" if needed > there else ""
        raise OSError(
            error.errno,
            f"no room for {path} ({os.strerror(error.errno)}): {needs}{there:,} {room}{missing}. "
            "What was saved before is intact",
        ) from None


def _free(path: Path) -> int:
    """Bytes, on the file system that holds a path, or would."""
    return shutil.disk_usage(nearest(path.absolute().parent)).free


def nearest(path: Path) -> Path:
    """The path itself, or the first folder above it that is there."""
    return next(there for there in (path, *path.absolute().parents) if there.exists())


def _largest_file() -> int | None:
    """The limit of this process in bytes, if it has one."""
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _sync(path: Path) -> None:
    """A file or folder, as it is now, outlives a loss of power."""
    if os.name == "nt":  # which syncs neither folders nor what is open for reading
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """As ``write_text``, JSON with a line for each row."""
    write_text(file, "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def write_text(file: Path, text: str) -> None:
    """
    :param file: to write, or to replace; its folder is made
    :param text: of the file
    :raises OSError: if there is no room for it, saying how much is missing
    """
    data = text.encode()
    with replacing_file(file, len(data)) as unfinished:
        unfinished.write_bytes(data)


def json_number(value: float) -> float | None:
    """JSON knows no NaN: ``null`` stands for it, which strict readers take."""
    return None if math.isnan(value) else value


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """
    :param file: that holds an object
    :param remedy: what to do where it can't be read
    :raises ValueError: if it is not there, or damaged
    """
    try:
        return record.read(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read ({error}): {remedy}") from None
