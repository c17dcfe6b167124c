"""Integers that are given: Python's own, or NumPy's."""

from __future__ import annotations

import operator
from typing import Any


def integer(name: str, value: Any, least: int, below: int | None = None) -> int:
    """
    :param name: of what is given, for the error
    :param value: an integer of any library
    :param least: that it may be
    :param below: that it must be
    :return: Python's, which JSON takes
    :raises ValueError: for what is no integer, such as ``True`` or 1.0, or out of range
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{name}={value!r} must be an integer")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name}={number} must be at least {least}")
    if below is not None and number >= below:
        raise ValueError(f"{name}={number} must be below {below}")
    return number
