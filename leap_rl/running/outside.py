"""What comes from outside: read without waiting for it, parsed strictly, and shown as text and nothing else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

DEEPEST = 200
"""Levels of lists and objects. What is nested by the thousand breaks whoever goes through it; an initialization that
was gone on from has one for each time."""
MOST_DIGITS = 40
"""Of an integer: enough for 128 bits."""


def printable(text: object, most: int = 600, keep: str = "") -> str:
    """
    As it may be shown on a terminal, on one line: no escapes, newlines, or marks that turn the direction of writing.

    :param text: whatever it holds
    :param most: characters; of a longer text the middle is left out, so that what an error names and advises stays
    :param keep: characters that may stay although they are not printable, such as ``"\\n"``
    """
    shown = str(text)
    if len(shown) > most:
        shown = f"{shown[: most // 2]} ... {shown[len(shown) - most // 2 :]}"
    return "".join(c if c.isprintable() or c in keep else "?" for c in shown)


def first_line(error: BaseException) -> str:
    """Of what an error says, printable; its kind, if it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])


def read_file(file: Path, most: int) -> bytes:
    """
    :param file: a plain file, or a link to one
    :param most: bytes
    :raises ValueError: for anything else, such as a pipe, whose reader would wait for ever, and for a larger file
    :raises OSError: if it can't be read
    """
    opened = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{file.name} is no plain file")
        if found.st_size > most:
            raise ValueError(f"{file.name} has {found.st_size:,} bytes: more than {most:,} are refused")
        with os.fdopen(opened, "rb", closefd=False) as stream:
            return stream.read(found.st_size)
    finally:
        os.close(opened)


def read_object(data: bytes, nan: bool = False) -> dict[str, Any]:
    """
    A JSON object, strictly: no name twice, no number without end, no nesting without end.

    :param nan: whether NaN may be in it, as for what was not measured
    :raises ValueError: saying what is wrong with it
    """
    try:
        content = json.loads(
            data.decode(),
            object_pairs_hook=_without_doubles,
            parse_int=_integer,
            parse_constant=float if nan else _infinity,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError("it is nested too deeply")
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} is there twice")
        content[name] = value
    return content


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits is none that counts anything")
    return int(digits)


def _infinity(constant: str) -> float:
    """As Python writes it; a setting may be infinite, as a bound is."""
    if constant == "NaN":
        raise ValueError("NaN stands for no number")
    return float(constant)
