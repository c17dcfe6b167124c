"""JSON that is read back only as it was meant: by its hash, strictly, and by its types."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Form = TypeVar("Form")

LARGEST = 2**64
"""Integers count, or are seeds: from 0 up to this one."""

Positive = Annotated[int, lambda number: number > 0]
Finite = Annotated[float, math.isfinite]
Seconds = Annotated[float, lambda seconds: 0 < seconds < math.inf]

LONGEST_SHOWN = 200
"""Characters of a value in an error."""

DEEPEST = 32
"""Levels of lists and objects in what has no type of its own."""


def sha256(content: Mapping[str, Any]) -> str:
    """Of what a JSON object says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """JSON of an object, dataclasses in it included, with its hash in it, on one line."""
    known = json.loads(json.dumps(content, default=vars))  # as it will be read: keys are text, whatever they were
    return json.dumps({"sha256": sha256(known), **known}) + "\n"


def check_seal(content: dict[str, Any], rest: Mapping[str, Any]) -> None:
    """
    :param content: of what ``sealed`` made, as ``read`` gave it; its hash is taken out
    :param rest: what was taken out of it before
    :raises ValueError: if it is not what it was
    """
    try:
        same = content.pop("sha256", None) == sha256({**content, **rest})
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not same:
        raise ValueError("the sha256 in it is not that of the rest")


def read(file: Path) -> dict[str, Any]:
    """
    An object, strictly: no key twice, no number of thousands of digits.

    :raises ValueError: saying on one line what is wrong with it, without the file's name
    :raises OSError: if it can't be read
    """
    try:
        content = json.loads(file.read_bytes().decode(), object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


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


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is there twice")
    return content


def typed(form: Any, value: Any, where: str = "it") -> Any:
    """
    What JSON holds, as a type describes it. Numbers are Python's ``int`` from 0 below 2⁶⁴ and ``float``, an integer
    included; ``Annotated`` adds a condition; a dataclass has its fields as keys, all that have no default and no
    other; what is ``Any`` is of some levels at most.

    :param form: the type
    :param value: from JSON
    :param where: it is, for the error
    :raises ValueError: naming the first place that is not as described, on one line
    """
    origin, arguments = get_origin(form), get_args(form)
    if form is Any:
        _check_depth(value, where)
        return value
    if origin is Annotated:
        known = typed(arguments[0], value, where)
        if not all(condition(known) for condition in arguments[1:]):
            raise ValueError(f"{where} is out of range: {shown(value)}")
        return known
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _first_that_fits([a for a in arguments if a is not type(None)], value, where)
    if origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in arguments)
    elif origin in (list, tuple):
        fits = isinstance(value, list) and (origin is list or len(value) == len(arguments))
        if fits:
            parts = arguments if origin is tuple else arguments * len(value)
            return origin(typed(p, v, f"{where}[{i}]") for i, (p, v) in enumerate(zip(parts, value, strict=True)))
    elif origin is dict:
        if isinstance(value, dict):
            return {key: typed(arguments[1], v, f"{where}.{shown(key)}") for key, v in value.items()}
        fits = False
    elif dataclasses.is_dataclass(form):
        return _of_fields(form, value, where)
    elif form is float:
        fits = isinstance(value, float) or (type(value) is int and abs(value) < LARGEST)
    elif form is int:
        fits = type(value) is int and 0 <= value < LARGEST
    else:
        fits = type(value) is form
    if not fits:
        raise ValueError(f"{where} is not as it was written: {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value from outside, for an error: short, and on one line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # integers of thousands of digits have no text
        text = type(value).__name__
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}...{text[-LONGEST_SHOWN // 2 :]}"


def _first_that_fits(forms: list[Any], value: Any, where: str) -> Any:
    for form in forms[:-1]:
        try:
            return typed(form, value, where)
        except ValueError:
            continue
    return typed(forms[-1], value, where)


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


def _of_fields(form: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not as it was written: {shown(value)}")
    known = _fields(form)
    for name, (_, needed) in known.items():
        if needed and name not in value:
            raise ValueError(f"{where} has no {name}")
    for name in value:
        if name not in known:
            raise ValueError(f"{where} has {shown(name)}, which this leap_rl doesn't know")
    given = {name: typed(known[name][0], v, f"{where}.{name}") for name, v in value.items()}
    try:
        return form(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_depth(value: Any, where: str, level: int = 0) -> None:
    if level > DEEPEST:
        raise ValueError(f"{where} is nested too deeply")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, where, level + 1)
