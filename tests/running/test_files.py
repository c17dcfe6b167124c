"""What is written appears whole or not at all; where there is no room, one line says how much is missing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leap_rl.core import Initialization, LearningCurve, TaskResult
from leap_rl.core.kept_results import Visit, save_result
from leap_rl.running.files import clean, replacing_file, replacing_folder, write_rows, write_text


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def result(path: Path, size: int) -> None:
    curve = LearningCurve(np.arange(size), np.zeros(size), size)
    save_result(path, TaskResult("task", curve, size, 1.0), Visit("task", size, 0, {}, None), "run")


def copied(path: Path, size: int) -> None:
    with replacing_folder(path) as folder:
        (folder / "file").write_bytes(bytes(size))


def streamed(path: Path, size: int) -> None:
    with replacing_file(path) as file:
        file.write_bytes(bytes(size))


def initialization(path: Path, size: int) -> None:
    Initialization({"w": nn.Parameter(torch.zeros(size))}, "all").save(path)


# How each writes, and the bytes of its largest file at that size, where it says so beforehand.
WRITERS: dict[str, tuple[Callable[[Path, int], None], int | None]] = {
    "write_text": (lambda path, size: write_text(path, "é" * (size // 2)), 3000),
    "write_rows": (lambda path, size: write_rows(path, [{"x": "y" * size}]), None),
    "save_result": (result, None),
    "Initialization.save": (initialization, None),
    "replacing_folder": (copied, None),
    "replacing_file": (streamed, None),
}


def everything(folder: Path) -> dict[str, bytes | None]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("name", WRITERS)
def test_no_room_is_one_line_and_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    write, size = WRITERS[name]
    write(tmp_path / "it.x", 100)
    before = everything(tmp_path)
    assert len(before) in (1, 2, 3)
    with files_of_at_most(1024), pytest.raises(OSError) as caught:
        write(tmp_path / "it.x", 3000)
    message = str(caught.value)
    assert f"no room for {tmp_path / 'it.x'} (File too large): it needs " in message and "\n" not in message
    assert "1,024 are what one file may have (ulimit -f)" in message
    assert "What was saved before is intact" in message
    if name not in ("replacing_folder", "replacing_file"):  # they don't know what will be written
        assert "are missing" in message
    if size is not None:
        assert f"it needs {size:,} bytes" in message and f"so {size - 1024:,} are missing" in message
    assert everything(tmp_path) == before
    write(tmp_path / "it.x", 3000)
    assert everything(tmp_path) != before


def test_an_error_in_the_block_is_the_callers(tmp_path: Path) -> None:
    for writer in (replacing_file, replacing_folder):
        with pytest.raises(OSError, match="theirs"), writer(tmp_path / "it"):
            raise OSError("theirs")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one of 64 KiB, where that can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can't be mounted here")
    try:
        for name, (write, _) in WRITERS.items():
            write(small / "it.x", 100)
            before = everything(small)
            with pytest.raises(OSError, match=r"no room for .* \(No space left on device\): it needs .* are free") as e:
                write(small / "it.x", 100_000)
            assert name.startswith("replacing") or "are missing" in str(e.value)
            assert everything(small) == before
            subprocess.run(["rm", "-r", str(small / "it.x")], check=True)
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("call", [1, 2])
def test_ctrl_c_between_two_renames_loses_nothing(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older folder makes room for the new one by one rename, and the new one takes its place by another."""
    copied(tmp_path / "kept", 3)
    calls, replace = [], os.replace

    def interrupted(*paths: str) -> None:
        calls.append(paths)
        if len(calls) == call:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        copied(tmp_path / "kept", 5)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").stat().st_size == 3


def test_what_a_killed_process_left_goes_and_what_it_would_have_lost_comes_back(tmp_path: Path) -> None:
    """As ``kill -9`` leaves it between the two renames."""
    copied(tmp_path / "whole", 3)
    for name in (".kept-unfinished-old-x/kept", ".whole-unfinished-old-y/whole", ".kept-unfinished-z"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(bytes(4))
    (tmp_path / ".agent-unfinished-123.zip").write_bytes(b"half")
    (tmp_path / ".git").mkdir()
    clean(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".git", "kept", "whole"]
    assert (tmp_path / "kept" / "file").stat().st_size == 4 and (tmp_path / "whole" / "file").stat().st_size == 3
