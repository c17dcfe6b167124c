"""Names of a package that are imported when they are first used: a command need not wait for torch, nor an error."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    :param package: whose names they are
    :param file: its ``__init__.py``. What it imports for type checkers alone, under ``if TYPE_CHECKING:``, it has
    :return: ``__getattr__`` and ``__dir__`` of the package (PEP 562)
    """
    statements = ast.parse(Path(file).read_text("utf-8")).body
    imports = next(s.body for s in statements if isinstance(s, ast.If) and ast.unparse(s.test) == "TYPE_CHECKING")
    where = {
        alias.asname or alias.name: (statement.module, alias.name)
        for statement in imports
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, there = where[name]
        return getattr(import_module(module), there)

    return get, lambda: sorted(where)
