"""Names of a package that are imported when they are first used: a command need not wait for torch, nor an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    :param package: whose names they are
    :param where: the module of each; after a colon its name there, if it has another
    :return: ``__getattr__`` and ``__dir__`` of the package (PEP 562)
    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = where[name].partition(":")
        return getattr(import_module(module), there or name)

    return get, lambda: sorted(where)
