"""``run.json``: which run a folder is of. What the run leaves there names it, so that nothing of another enters."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leap_rl.running.files import write_text
from leap_rl.running.record import read, sha256

_DRAWN = "run"
"""Drawn at random, so that no two runs are the same, whatever their settings."""


def begin_run(folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """
    :param folder: of a new run; one that has its ``run.json`` keeps it
    :param settings: those that must stay as they are for as long as the run goes on, JSON
    """
    if not (folder / "run.json").is_file():
        write_text(folder / "run.json", json.dumps({_DRAWN: secrets.token_hex(16), **(settings or {})}) + "\n")


def run_id(folder: Path) -> str:
    """
    The hash of ``run.json``: with any of its settings the run would be another.

    :raises ValueError: if it can't be read
    """
    return sha256(_read(folder))


def run_settings(folder: Path) -> dict[str, Any]:
    """
    What ``begin_run`` was given.

    :raises ValueError: if it can't be read
    """
    return {key: value for key, value in _read(folder).items() if key != _DRAWN}


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "run.json"
    try:
        return read(file)
    except FileNotFoundError:
        raise ValueError(
            f"{file} is missing (runs of an older leap_rl have none): put it back, or begin again in another folder"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} can't be read ({error}): put it back, or begin again in another folder") from None
