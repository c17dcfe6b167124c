"""A run's folder is one run's, one process's at a time, and TensorBoard's files stay in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard.writer import FileWriter

from leap_rl.commands.run_folder import run_folder
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.running.logger import TensorBoardLogger
from leap_rl.running.run_lock import is_unused, next_run_folder, run_lock

HOLD = """
import os, sys, time
from pathlib import Path
from leap_rl.running.run_lock import run_lock
with run_lock(Path(sys.argv[1]), "the first"):
    if os.fork() == 0:
        print("held", flush=True)
        time.sleep(60)  # what it started lives on
        os._exit(0)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_it_however_it_ends(tmp_path: Path) -> None:
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        said = rf"{tmp_path} is in use by the first \(process {held.pid} on .*, since 20.*\): wait until that ends"
        with pytest.raises(ValueError, match=said), run_lock(tmp_path, "the second"):
            pass
        held.kill()
        held.wait()
        with run_lock(tmp_path, "the second"):
            assert "the second" in (tmp_path / ".holder").read_text()
            with pytest.raises(ValueError, match="in use by the second"), run_lock(tmp_path, "the same process"):
                pass
        assert is_unused(tmp_path)
    finally:
        os.killpg(held.pid, signal.SIGKILL)


def test_numbers_are_claimed_once(tmp_path: Path) -> None:
    """By sixteen at once, beside folders that are no numbers of theirs."""
    for name in ("train_7", "train_x", "meta-train_9"):
        (tmp_path / name).mkdir()
    with ThreadPoolExecutor(16) as pool:
        claimed = [f.result().name for f in [pool.submit(next_run_folder, tmp_path, "train") for _ in range(16)]]
    assert sorted(claimed) == sorted(f"train_{n}" for n in range(8, 24))


def test_a_new_folder_goes_again_if_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (None, Path("a/b/c")):
        with pytest.raises(RuntimeError), run_folder(given, False, "train") as folder:
            assert folder.is_dir()
            raise RuntimeError
        assert not list(tmp_path.iterdir())
    empty = tmp_path / "mine"
    empty.mkdir()
    with run_folder(empty, False, "train"):
        pass
    assert empty.is_dir()
    with run_folder(Path("a"), False, "train") as folder:
        (folder / "settings.yaml").write_text("train: {}\n")
    with pytest.raises(ValueError, match="a exists: --resume a goes on"), run_folder(Path("a"), False, "train"):
        pass
    with run_folder(Path("a"), True, "train"):
        pass
    with pytest.raises(ValueError, match=r"no settings\.yaml"), run_folder(Path("nowhere"), True, "train"):
        pass
    assert not Path("nowhere").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is no folder"), run_folder(Path("file"), False, "train"):
        pass


# TensorBoard


def points(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("x")]


def at(seconds: float) -> Callable[[], float]:
    return lambda: seconds


@pytest.mark.parametrize("later", [100.0, 0.0, -5_000.0], ids=["later", "in the same second", "clock set back"])
def test_every_point_is_there_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: float) -> None:
    """A run of ten steps that is interrupted twice, each time two steps after its last checkpoint."""
    now, step = 1_800_000_000.0, 0
    for sitting, checkpoint in enumerate((4, 7, 10)):
        monkeypatch.setattr("time.time", at(now + sitting * later))
        # Names tie by second; then it is the process that decides, which may be any.
        monkeypatch.setattr("os.getpid", lambda sitting=sitting: (999, 10_000, 50)[sitting])
        logger = TensorBoardLogger(tmp_path, step)
        assert isinstance(logger.writer.file_writer, FileWriter)
        for i in range(step + 1, min(checkpoint + 2, 10) + 1):
            logger.record("x", 10 * i)
            logger.dump(i)
        logger.close()
        step = checkpoint
    assert points(tmp_path) == [(i, 10.0 * i) for i in range(1, 11)]


def test_only_what_is_ours_is_cleaned_up(tmp_path: Path) -> None:
    """The folder of a run may be a project's."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    unfinished = tmp_path / "checkpoints" / ".000001-unfinished-x"
    unfinished.mkdir(parents=True)
    Checkpoints(tmp_path).clean()
    assert (tmp_path / ".git" / "HEAD").is_file() and not unfinished.exists()
