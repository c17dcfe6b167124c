"""JSON that is read back only as it was meant: by its hash, strictly, and by its types."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from leap_rl.running.outside import read_file, read_object

Form = TypeVar("Form")

LARGEST = 2**64
"""Integers count, or are seeds: from 0 up to this one."""

Positive = Annotated[int, lambda number: number > 0]
Finite = Annotated[float, math.isfinite]
Seconds = Annotated[float, lambda seconds: 0 < seconds < math.inf]

LONGEST_SHOWN = 200
"""Characters of a value in an error."""

LARGEST_FILE = 2**32
"""Bytes."""


def sha256(content: Mapping[str, Any]) -> str:
    """Of what a JSON object says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """JSON of an object that is not empty, dataclasses in it included, with its hash in it, on one line."""
    text = json.dumps(content, default=vars)
    known = json.loads(text)  # as it will be read: keys are text, whatever they were
    return f'{{"sha256": "{sha256(known)}", {text[1:]}\n'


def check_seal(content: dict[str, Any], rest: Mapping[str, Any]) -> None:
    """
    :param content: of what ``sealed`` made, as ``read`` gave it; its hash is taken out
    :param rest: what was taken out of it before
    :raises ValueError: if it is not what it was
    """
    if content.pop("sha256", None) != sha256({**content, **rest}):
        raise ValueError("the sha256 in it is not that of the rest")


def read(file: Path) -> dict[str, Any]:
    """
    An object, as ``read_object`` reads it.

    :raises ValueError: saying on one line what is wrong with it, without the file's name
    :raises OSError: if it can't be read
    """
    return read_object(read_file(file, LARGEST_FILE), nan=True)


def read_sealed(file: Path, form: type[Form]) -> Form:
    """
    What ``sealed`` made, as a type describes it.

    :raises ValueError: if it is not what it was, or of another form
    :raises OSError: if it can't be read
    """
    content = read(file)
    check_seal(content, {})
    known: Form = typed(form, content)
    return known


def typed(form: Any, value: Any, where: str = "it") -> Any:
    """
    What JSON holds, as a type describes it. Numbers are Python's ``int`` from 0 below 2⁶⁴ and ``float``, an integer
    included; ``Annotated`` adds a condition; a dataclass has its fields as keys, all that have no default and no
    other; what is ``Any`` is anything that ``read`` takes.

    :param form: the type
    :param value: from JSON
    :param where: it is, for the error
    :raises ValueError: naming the first place that is not as described, on one line
    """
    try:
        return _typed(form, value)
    except _Misfit as misfit:
        raise ValueError(f"{'.'.join([where, *map(_key, misfit.path)])} {misfit}") from None


class _Misfit(Exception):
    """What is wrong, and in which place: the path grows on the way out, so that what fits costs nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: deque[str | int] = deque()


def _key(key: str | int) -> str:
    return shown(key)[1:-1] if isinstance(key, str) else str(key)


def _within(key: str | int, form: Any, value: Any) -> Any:
    try:
        return _typed(form, value)
    except _Misfit as misfit:
        misfit.path.appendleft(key)
        raise


def _typed(form: Any, value: Any) -> Any:
    if form is float:
        fits = type(value) is float or (type(value) is int and abs(value) < LARGEST)
    elif form is int:
        fits = type(value) is int and 0 <= value < LARGEST
    elif form is Any:
        return value
    elif isinstance(form, type) and not get_args(form):
        if dataclasses.is_dataclass(form):
            return _of_fields(form, value)
        fits = type(value) is form
    else:
        return _of_parts(form, value)
    if not fits:
        raise _Misfit(f"is not as it was written: {shown(value)}")
    return value


def _of_parts(form: Any, value: Any) -> Any:
    origin, arguments = get_origin(form), get_args(form)
    if origin is Annotated:
        known = _typed(arguments[0], value)
        if not all(condition(known) for condition in arguments[1:]):
            raise _Misfit(f"is out of range: {shown(value)}")
        return known
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        *others, last = (a for a in arguments if a is not type(None))
        for other in others:
            try:
                return _typed(other, value)
            except _Misfit:
                continue
        return _typed(last, value)
    if origin is list and isinstance(value, list):
        return [_within(i, arguments[0], part) for i, part in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_within(i, arguments[i], part) for i, part in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _within(key, arguments[1], part) for key, part in value.items()}
    if origin is Literal and any(type(value) is type(choice) and value == choice for choice in arguments):
        return value
    raise _Misfit(f"is not as it was written: {shown(value)}")


def shown(value: Any) -> str:
    """A value from outside, for an error: short, and on one line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # integers of thousands of digits have no text
        text = type(value).__name__
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}...{text[-LONGEST_SHOWN // 2 :]}"


@functools.cache
def _fields(form: Any) -> dict[str, tuple[Any, bool]]:
    """Type of each field of a dataclass, and whether it must be there."""
    hints = get_type_hints(form, include_extras=True)
    missing = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is missing and f.default_factory is missing)
        for f in dataclasses.fields(form)
        if f.init
    }


def _of_fields(form: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise _Misfit(f"is not as it was written: {shown(value)}")
    known = _fields(form)
    for name, (_, needed) in known.items():
        if needed and name not in value:
            raise _Misfit(f"has no {name}")
    for name in value:
        if name not in known:
            raise _Misfit(f"has {shown(name)}, which this leap_rl doesn't know")
    given = {name: _within(name, known[name][0], part) for name, part in value.items()}
    try:
        return form(**given)
    except ValueError as error:
        raise _Misfit(f"is not as it was written: {error}") from None
