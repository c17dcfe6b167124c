"""Engines: whatever a task does, it alone fails, and nothing that it started is left."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leap_rl.core import (
    Engine,
    Initialization,
    InProcess,
    Job,
    LearningCurve,
    NoPretraining,
    Report,
    Task,
    TaskResult,
    Workers,
)

Action = Callable[[], Any]


def result(value: Any) -> TaskResult:
    return TaskResult("does", LearningCurve(np.array([8]), np.array([0.0]), 8), 8, 0.0, scores={"value": value})


@dataclass(frozen=True)
class Does(Task):
    """Whatever it is told to, and gives back what comes of it."""

    action: Action
    name: str = "does"
    steps: int = 8

    def run(self, job: Job, report: Report) -> TaskResult:
        report(3)
        return self.action()


def run(engine: Engine, actions: list[Action]) -> list[TaskResult]:
    theta = Initialization.of(nn.Linear(1, 1))
    jobs = [Job(Does(action), theta, NoPretraining(), 0) for action in actions]
    results = dict(engine.run(jobs, lambda *_: None))
    return [results[i] for i in range(len(jobs))]


def fails_alone(engine: Engine, actions: list[tuple[Action, str]]) -> None:
    """With what is expected to be said of each; another task is learned all the same."""
    *failed, other = run(engine, [*(action for action, _ in actions), lambda: result(1.0)])
    assert other.status == "ok" and other.scores == {"value": 1.0}
    for given, (_, expected) in zip(failed, actions, strict=True):
        assert given.status == "failed"
        assert re.fullmatch(expected, given.reason), given.error


# -- what a task may do ----------------------------------------------------------------------------


class TwoArguments(Exception):
    """Is pickled with one, and so can't be unpickled."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")


class Speechless(BaseException):
    def __str__(self) -> str:
        raise SystemExit


class Odd(SyntaxError):
    text = 5  # type: ignore[assignment]


class NotAsBytes:
    def __reduce__(self) -> Any:
        raise SystemExit("not as bytes")


class NotBack:
    def __reduce__(self) -> Any:
        return sys.exit, ("not back",)


def raises(error: Callable[[], BaseException]) -> Action:
    def action() -> Any:
        raise error()

    return action


def recurses() -> Any:
    return recurses()


def warns() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("of its own", stacklevel=1)


RAISED = [
    (lambda: sys.exit(), "SystemExit"),
    (lambda: sys.exit(0), "SystemExit: 0"),
    (lambda: sys.exit("no licence"), "SystemExit: no licence"),
    (raises(GeneratorExit), "GeneratorExit"),
    (raises(lambda: TwoArguments("a", "b")), ".*TwoArguments: a b"),
    (raises(lambda: ValueError(threading.Lock())), "ValueError: <unlocked .*"),
    (raises(Speechless), ".*Speechless: <exception str.. failed>"),
    (raises(lambda: Odd("odd")), "Odd, which can't be shown"),
    (recurses, "RecursionError: maximum recursion depth exceeded"),
    (lambda: np.empty(1 << 60, np.uint8), "numpy.*MemoryError: Unable to allocate 1.00 EiB .*"),
    (warns, "UserWarning: of its own"),
    (lambda: None, "TypeError: Does.run returned NoneType, not a TaskResult"),
]
RAISED_IN_A_WORKER = [
    (raises(KeyboardInterrupt), "KeyboardInterrupt"),
    (lambda: result(threading.Lock()), "TypeError: cannot pickle '_thread.lock' object"),
    (lambda: result(NotAsBytes()), "SystemExit: not as bytes"),
]
LOST = [
    (lambda: os._exit(3), r"its worker process was lost .*EXIT\(3\).*"),
    (lambda: os._exit(0), r"its worker process was lost .*EXIT\(0\).*"),
    (os.abort, r"its worker process was lost .*SIGABRT.*"),
    (lambda: ctypes.string_at(0), r"its worker process was lost .*SIGSEGV.*"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), r"its worker process was lost .*SIGKILL.*"),
    (lambda: (signal.alarm(1), time.sleep(9)), r"its worker process was lost .*SIGALRM.*"),
    (lambda: os.closerange(3, 4096), "its worker process was lost .*"),
    (lambda: result(NotBack()), "its worker process was lost .*un-serialize.*"),
]


def test_what_a_task_raises_is_its_own() -> None:
    fails_alone(InProcess(), RAISED)
    fails_alone(Workers(1), RAISED + RAISED_IN_A_WORKER)


@pytest.mark.slow
@pytest.mark.parametrize("lost", LOST, ids=[expected for _, expected in LOST])
def test_a_task_that_takes_its_worker_with_it(lost: tuple[Action, str]) -> None:
    fails_alone(Workers(1), [lost])


def test_the_users_ctrl_c_is_no_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(InProcess(), [raises(KeyboardInterrupt)])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux weighs sessions alike, and niceness within one alone")
def test_a_nice_trainer_has_nice_workers() -> None:
    (learned,) = run(Workers(1), [lambda: result(float(os.getsid(0)))])
    assert learned.scores == {"value": float(os.getsid(0))}


@dataclass(frozen=True)
class Scores(Task):
    """Says how good it is so far."""

    name: str = "scores"
    steps: int = 8

    def run(self, job: Job, report: Report) -> TaskResult:
        report(2)
        report(4, 1.5)
        time.sleep(2 * Workers.POLL_SECONDS)
        return result(1.0)


@pytest.mark.parametrize("engine", [InProcess(), Workers(1)], ids=lambda engine: type(engine).__name__)
def test_a_score_is_told_while_a_task_runs(engine: Engine) -> None:
    told: list[tuple[int, int, float]] = []
    theta = Initialization.of(nn.Linear(1, 1))
    jobs = [Job(Scores(), theta, NoPretraining(), 0)]
    for _ in engine.run(jobs, lambda index, steps, score=math.nan: told.append((index, steps, score))):
        pass
    assert (0, 4, 1.5) in told and not any(score == 0 for _, _, score in told)


# -- processes of a task's own ---------------------------------------------------------------------


def through_a_process(start_method: str | None) -> float:
    context = multiprocessing.get_context(start_method)
    queue = context.SimpleQueue()
    process = context.Process(target=queue.put, args=(3.0,))
    process.start()
    value = queue.get()
    process.join()
    assert process.exitcode == 0
    return value


def through_a_fork() -> float:
    child = os.fork()
    if child == 0:
        sys.exit(3)
    return float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def through_a_loader() -> float:
    return sum(float(x) for (x,) in DataLoader(TensorDataset(torch.tensor([1.0, 2.0])), num_workers=1))


def test_a_task_has_processes_of_its_own() -> None:
    """With each way to start them, and as torch does; a child that is forked by hand ends where it says."""
    ways = [None, *multiprocessing.get_all_start_methods()]
    actions = [lambda way=way: result(through_a_process(way)) for way in ways]
    actions += [lambda: result(through_a_loader()), lambda: result(through_a_fork())]
    results = run(Workers(1), actions)
    assert [r.error for r in results] == [None] * 6
    assert [r.scores["value"] for r in results] == [3.0] * 6


@pytest.mark.slow  # each child imports torch
def test_sb3s_processes_in_a_task() -> None:
    def action() -> TaskResult:
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import SubprocVecEnv

        env = make_vec_env("CartPole-v1", 2, seed=0, vec_env_cls=SubprocVecEnv)
        value = env.reset().sum()
        env.close()
        return result(value)

    alone, in_worker = run(InProcess(), [action]) + run(Workers(1), [action])
    assert alone.scores == in_worker.scores


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"{[pid for pid in pids if alive(pid)]} are still there"
        time.sleep(0.05)


SCRIPT = """
import multiprocessing, os, subprocess, sys, time
sys.path.insert(0, {tests!r})
from test_engines import Workers, result, run

def action():
    # A child each, and a child of a child: multiprocessing's would end by itself, if the worker ended in peace.
    children = [multiprocessing.Process(target=time.sleep, args=(600,), daemon=True)]
    children[0].start()
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    print(os.getpid(), children[0].pid, other.pid, other.stdout.readline(), flush=True)
    time.sleep(600 if {waits} else 0)
    return result(1.0)

run(Workers(1), [action])
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_nothing_that_a_task_starts_outlives_the_trainer(end: signal.Signals | None) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent), waits=end is not None)
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(pids) == 4
    if end is not None:
        assert all(map(alive, pids))
        os.kill(trainer.pid, end)
    assert trainer.wait(30) == -(end or 0)
    wait_until_gone(pids)


# -- a task that hangs -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_task_needs_some_time(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"task_timeout={seconds} must be more than 0 seconds"):
        Workers(task_timeout=seconds)


def test_a_task_that_hangs_is_ended(tmp_path: Path, caplog: Any) -> None:
    """Asleep, or with its process stopped; the others are learned meanwhile, and what it started is ended, too."""
    began: list[int] = []

    def stops_once() -> TaskResult:
        file = tmp_path / "child"
        if not file.exists():
            file.write_text(str(subprocess.Popen(["sleep", "600"]).pid))
            os.kill(os.getpid(), signal.SIGSTOP)
        return result(2.0)

    actions = [stops_once, lambda: time.sleep(600), *[lambda: result(1.0)] * 3]
    engine = Workers(2, task_timeout=0.5)
    theta = Initialization.of(nn.Linear(1, 1))
    jobs = [Job(Does(action), theta, NoPretraining(), 0) for action in actions]
    for index, given in engine.run(jobs, lambda *_: None):
        began.append(index)
        if index == 0:
            assert given.scores == {"value": 2.0}
        elif index == 1:
            assert given.status == "failed"
            said = r"it was ended after (\d\.\d) seconds, with 3 of 8 steps done: task_timeout is 0\.5 seconds"
            match = re.fullmatch(said, given.reason)
            assert match and 0.5 <= float(match[1]) < 2
        else:
            assert given.scores == {"value": 1.0}
    assert sorted(began) == [0, 1, 2, 3, 4]
    assert caplog.text.count("is tried once more: it was ended after") == 2
    wait_until_gone([int((tmp_path / "child").read_text())])


@pytest.mark.slow
def test_a_worker_that_does_not_begin_is_ended() -> None:
    """Stopped before it was given anything: the time that workers have to start counts, and then another begins."""
    engine = Workers(1, task_timeout=8)
    engine.START_SECONDS = 0.0
    pids = [run(engine, [lambda: result(float(os.getpid()))])[0].scores["value"]]
    os.kill(int(pids[0]), signal.SIGSTOP)
    pids += [run(engine, [lambda: result(float(os.getpid()))])[0].scores["value"]]
    assert pids[0] != pids[1]
    wait_until_gone([int(pids[0])])


STOPPED = """
import sys, time
sys.path.insert(0, {tests!r})
from test_engines import Workers, result, run

def action():
    print("began", flush=True)
    time.sleep(7)
    return result(1.0)

print(run(Workers(1, task_timeout=5), [action])[0].status, flush=True)
"""


@pytest.mark.slow
def test_while_the_trainer_is_stopped_no_time_counts() -> None:
    script = STOPPED.format(tests=str(Path(__file__).parent))
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == "began\n"
    os.kill(trainer.pid, signal.SIGSTOP)
    time.sleep(6)
    os.kill(trainer.pid, signal.SIGCONT)
    assert trainer.communicate(timeout=60)[0] == "ok\n"
