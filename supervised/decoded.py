"""Data sets are decoded once: the arrays are kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from leap_rl.running.files import replacing_file


def decoded_once(
    name: str, sources: Sequence[Path], decode: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """
    What ``decode`` gives, from the cache if these sources were decoded before.

    :param name: of the file in the cache, to be changed with the decoding
    :param sources: files and folders that are decoded. A changed file is decoded again, and so is a folder when a file
        anywhere in it came, went or got another name: files in a folder are not looked at one by one, there are many
    :param decode: gives arrays by name. Nothing is kept if it fails
    """
    key = hashlib.sha256(repr([_state(source) for source in sources]).encode()).hexdigest()
    cached = user_cache_path("leap_rl") / f"{name}-{key[:16]}.npz"
    if cached.is_file():
        # One that was cut short or damaged is decoded again.
        with suppress(OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error), np.load(cached) as data:
            return {array: data[array] for array in data.files}
    arrays = decode()
    with replacing_file(cached) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]  # takes any name for allow_pickle
    return arrays


def _state(source: Path) -> list[tuple[str, int, int]]:
    """Of a file, or of a folder and all folders in it: its name, when it changed, and its size."""
    if source.is_dir():
        folders = os.walk(source, followlinks=True)
        return sorted((folder, os.stat(folder).st_mtime_ns, len(files)) for folder, _, files in folders)
    return [(str(source), source.stat().st_mtime_ns, source.stat().st_size)]
