"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class replacing_folder:
    """
    A context manager that gives a temporary folder and, when its block ends well, renames it to ``path``.

    :param path: the folder to appear; an older one is removed once the new one is complete
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        self.temporary.chmod(0o755)
        return self.temporary

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            return
        for file in (*self.temporary.iterdir(), self.temporary):
            _sync(file)
        if self.path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-old-", dir=self.path.parent))
            os.replace(self.path, old / self.path.name)
            os.replace(self.temporary, self.path)
            shutil.rmtree(old)
        else:
            os.replace(self.temporary, self.path)
        _sync(self.path.parent)


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
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text)
    _sync(unfinished)
    os.replace(unfinished, file)


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
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} can't be read ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no object: {remedy}")
    return content
