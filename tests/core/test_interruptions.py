"""A meta-training that is killed goes on to the same bits; nothing is lost, and nothing logged twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPT = Path(__file__).with_name("interrupted.py")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout.readline, "")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def go_on(folder: Path) -> None:
    """To the end, as fast as it can."""
    code, errors = finish(start(folder, "--workers", "0", "--pause", "0"))
    assert code == 0, errors


def children(pid: int) -> list[int]:
    """Worker processes: what has ``pid`` as its parent and runs Python code of loky's."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"popen_loky" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def outcome(folder: Path) -> dict[str, Any]:
    """All that an interruption must not change."""
    state = json.loads((folder / "checkpoints" / "000006" / "state.json").read_text())["state"]
    points = {}
    for run in sorted((folder / "tensorboard").rglob("*")):
        if run.is_dir() and any(run.glob("events*")):
            events = EventAccumulator(str(run), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                if "seconds" not in tag and "steps_per_second" not in tag:
                    points[run.name, tag] = [(e.step, e.value) for e in events.Scalars(tag)]
    history = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in step["tasks"]]
        for step in state["history"]
    ]
    return {
        "θ⁰": (folder / "initialization" / "model.safetensors").read_bytes(),
        "best": (folder / "best" / "model.safetensors").read_bytes(),
        "checkpoint": (folder / "checkpoints" / "000006" / "state.safetensors").read_bytes(),
        "history": history,
        "steps": state["history"][-1]["timesteps"],
        "tensorboard": points,
    }


def assert_same(now: dict[str, Any], expected: dict[str, Any]) -> None:
    assert now["tensorboard"].keys() == expected["tensorboard"].keys()
    for tag, points in expected["tensorboard"].items():
        assert now["tensorboard"][tag] == points, tag
    assert now == expected


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    go_on(folder)
    expected = outcome(folder)
    for (run, tag), points in expected["tensorboard"].items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), (run, tag)
    return expected


def survive_kills(folder: Path, kills: int, seed: int) -> None:
    """``kill -9`` at random instants, until so many have hit; then let it finish."""
    rng = random.Random(seed)
    hits = 0
    while hits < kills:
        # Without workers it is amid its tasks and checkpoints at once; with them, often while they start.
        process = start(folder, "--workers", rng.choice(["0", "2"]))
        for line in lines(process):
            if line.startswith("learning"):
                break
        time.sleep(rng.uniform(0, 3))
        workers = children(process.pid)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            hits += 1
        process.communicate(timeout=60)
        deadline = time.monotonic() + 10
        while any(map(alive, workers)):
            assert time.monotonic() < deadline, "a worker outlived its trainer by 10 s"
            time.sleep(0.1)
        if (folder / "initialization").exists():
            break  # it was done before
    go_on(folder)


def test_kill_9_of_the_trainer(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    survive_kills(tmp_path, 1, seed=1)
    assert_same(outcome(tmp_path), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_of_the_trainer_again_and_again(tmp_path: Path, undisturbed: dict[str, Any], seed: int) -> None:
    survive_kills(tmp_path, 5, seed)
    assert_same(outcome(tmp_path), undisturbed)


def survive_lost_workers(folder: Path, kills: int, seed: int) -> None:
    """One worker per meta step at a random instant: its task is run again, the others go on."""
    rng = random.Random(seed)
    process = start(folder, "--workers", "2")
    killed = 0
    for line in lines(process):
        # The first meta step waits for the workers to start.
        if line.startswith("meta step") and killed < kills:
            time.sleep(rng.uniform(0, 0.15))
            workers = children(process.pid)
            if workers:
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed += 1
    code, errors = finish(process)
    assert code == 0, errors
    assert killed == kills
    assert "its worker process was lost" in errors and "failed again" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_of_workers_again_and_again(tmp_path: Path, undisturbed: dict[str, Any], seed: int) -> None:
    survive_lost_workers(tmp_path, 5, seed)
    assert_same(outcome(tmp_path), undisturbed)


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker_and_goes_on(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    process = start(tmp_path)
    for line in lines(process):
        if line.startswith("meta step 2"):
            break
    workers = children(process.pid)
    assert workers
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    code, errors = finish(process)
    assert code != 0 and "KeyboardInterrupt" in errors
    deadline = time.monotonic() + 10
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    go_on(tmp_path)
    assert_same(outcome(tmp_path), undisturbed)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """A limit on file size stands for it: writing fails in the same place, with an error of the same kind."""
    code, errors = finish(start(tmp_path, "--file-size-limit", "300", "--workers", "0"))
    assert code != 0
    assert "no room for" in errors and "bytes" in errors and "What was saved before is intact" in errors
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.name > "000002"]
    go_on(tmp_path)
    assert_same(outcome(tmp_path), undisturbed)
