"""Tasks on a Ray cluster: one machine or many."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
import logging
import math
import os
import pickle
import platform
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import cloudpickle
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from leap_rl.running.engines.base import (
    Engine,
    Job,
    OnProgress,
    Result,
    TaskError,
    check_timeout,
    described,
    ended_late,
)
from leap_rl.running.engines.process import run_job
from leap_rl.running.outside import first_line

_log = logging.getLogger(__name__)

SAME_EVERYWHERE = ("leap-rl", "torch", "numpy", "stable-baselines3", "gymnasium", "ale-py")
"""Packages whose versions decide what a task learns."""

AT_ONCE = 4
"""Tasks that the cluster is given for each that it has room for: θ⁰ of the others is not in its memory yet."""

_remote: Any = ray.remote
_runs = itertools.count()
_SMALL = (str, bytes, bool, int, float, type(None))
REPORT_SECONDS = 0.5
REPORT_SHARE = 0.01
"""A run says how far it is after so many seconds, or so much of its budget."""

ANSWER_SECONDS = 10.0


class RayEngine(Engine):
    """
    Jobs as Ray tasks, as many at once as the cluster has room for. What jobs share, such as θ⁰, is put into Ray's
    object store once, and fetched once by each node. On machines of one kind results are those of the other engines to
    the bit.

    Ray retries nothing by itself: a task whose process or node is lost is one that failed, and is run once more on what
    is left of the cluster. While the cluster has no room at all, tasks wait.

    :param address: of a cluster's head, ``"auto"`` for the one that this machine belongs to; ``None`` starts one of
        this machine alone, which ends with this process
    :param num_cpus: of each task
    :param num_gpus: of each task, also a part of one
    :param task_timeout: seconds of wall-clock that one run of a task may take, from when it begins; then it has failed
    :raises ValueError: for no cluster at that address, for one that can't run such a task, and for machines with other
        versions of what decides what is learned
    """

    POLL_SECONDS = 0.2

    def __init__(
        self,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        task_timeout: float | None = None,
    ) -> None:
        if not num_cpus > 0 or not num_gpus >= 0:
            raise ValueError(f"num_cpus={num_cpus} must be more than 0, and num_gpus={num_gpus} not negative")
        check_timeout(task_timeout)
        self.address = address
        self.task_timeout = task_timeout
        self._resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        _connect(address)
        self._check_room()
        _check_machines()
        self._task = _remote(max_retries=0, **self._resources)(_run)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Lost, it begins anew, and knows of each run from its next report on.
        lasting = _remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Board)
        self._board = lasting.options(scheduling_strategy=here).remote()

    def _check_room(self) -> None:
        there = ray.cluster_resources()
        for resource, wanted in (("CPU", self._resources["num_cpus"]), ("GPU", self._resources["num_gpus"])):
            if there.get(resource, 0) < wanted:
                raise ValueError(
                    f"a task takes {wanted:g} {resource}s, but the Ray cluster has {there.get(resource, 0):g} in all"
                )

    def outcomes(
        self, jobs: Sequence[Job[Result]], waiting: deque[int], on_progress: OnProgress
    ) -> Iterator[tuple[int, Result | BaseException]]:
        sent = _Sent(jobs)
        running: dict[Any, _Run] = {}
        looked_at = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE * self._slots():
                    run = _Run(waiting.popleft(), next(_runs))
                    try:
                        parts = sent.parts(run.index)
                        reference = self._task.remote(self._board, run.number, _facts(), *parts)
                    except Exception as error:  # whatever pickling it raises
                        yield run.index, TaskError(f"{described(error)}\nit can't be pickled")
                    else:
                        running[reference] = run
                if not running:
                    continue
                ray.wait(list(running), timeout=self.POLL_SECONDS)
                done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)  # all that are
                steps_of = ray.get(self._board.steps.remote([run.number for run in running.values()]))
                now = time.monotonic()
                # While this process was stopped (by Ctrl-Z for one), no task's time counts.
                passed, looked_at = min(now - looked_at, 1.0), now
                for reference, run in list(running.items()):
                    steps = steps_of.get(run.number)
                    if steps is not None:
                        run.seconds += passed
                        on_progress(run.index, *steps)
                    if reference in done:
                        outcome = _outcome(reference)
                    elif self.task_timeout is not None and run.seconds > self.task_timeout:
                        ray.cancel(reference, force=True)
                        outcome = ended_late(jobs[run.index], run.seconds, steps[0] if steps else 0, self.task_timeout)
                    else:
                        continue
                    del running[reference], reference
                    yield run.index, outcome
        finally:
            # Left early, by Ctrl-C for one: what still runs is of no use to anyone.
            for reference in running:
                ray.cancel(reference, force=True)

    def _slots(self) -> int:
        """How many tasks the cluster has room for now; nodes come and go."""
        there = ray.cluster_resources()
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        return max(1, int(min(there.get(names[key], 0) / n for key, n in self._resources.items() if n)))


@dataclasses.dataclass
class _Run:
    """
    A job that was given to the cluster.

    :param index: of the job
    :param number: of this run among all of this process
    :param seconds: since it was first heard of
    """

    index: int
    number: int
    seconds: float = 0.0


class _Sent:
    """Jobs, by the values of their fields: what several of them share is put into the object store once."""

    def __init__(self, jobs: Sequence[Job[Any]]) -> None:
        self._jobs = jobs
        shared = Counter(id(value) for job in jobs for value in vars(job).values() if not isinstance(value, _SMALL))
        self._shared = {identity for identity, count in shared.items() if count > 1}
        self._references: dict[int, ray.ObjectRef] = {}

    def parts(self, index: int) -> tuple[Any, ...]:
        """:return: class, names of the fields, and of each what it is or where it is"""
        job = self._jobs[index]
        return type(job), tuple(vars(job)), *(self._part(value) for value in vars(job).values())

    def _part(self, value: Any) -> Any:
        if id(value) not in self._shared:
            return value
        if id(value) not in self._references:
            self._references[id(value)] = ray.put(value)
        return self._references[id(value)]


class _Board:
    """An actor beside the trainer, to which runs say how far they are."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[int, float]] = {}

    def report(self, run: int, steps: int, score: float) -> None:
        self._steps[run] = steps, score

    def steps(self, runs: Sequence[int]) -> dict[int, tuple[int, float]]:
        """:return: steps and score of each of these runs that has begun; of no other is anything kept"""
        self._steps = {run: self._steps[run] for run in runs if run in self._steps}
        return self._steps


def _run(board: Any, number: int, expected: Mapping[str, str], kind: type, names: Sequence[str], *values: Any) -> bytes:
    """In a worker of Ray's."""
    try:
        differing = _differing(_facts(), expected)
        if differing:
            raise RuntimeError(f"this machine has {differing}")
        job = kind(**dict(zip(names, values, strict=True)))
        last, at = -math.inf, -math.inf

        def report(steps: int, score: float = math.nan) -> None:
            nonlocal last, at
            if time.monotonic() - at >= REPORT_SECONDS or steps - last >= REPORT_SHARE * job.steps:
                last, at = steps, time.monotonic()
                board.report.remote(number, steps, score)

        report(0)
        # As bytes: Ray would give back arrays in its own memory, and keep that as long as one of them lives.
        return cloudpickle.dumps(run_job(job, report))
    except BaseException as error:
        raise TaskError(described(error)) from None


def _outcome(reference: Any) -> Any:
    """What a task returned, or how it failed."""
    try:
        data = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, TaskError) else TaskError(described(cause if cause is not None else error))
    except ray.exceptions.RayError as error:
        return TaskError(f"its worker process or its machine was lost ({type(error).__name__}: {first_line(error)})")
    try:
        return pickle.loads(data)
    except KeyboardInterrupt:  # the user's
        raise
    except BaseException as error:
        return TaskError(f"{described(error)}\nits result can't be unpickled")


@functools.cache
def _facts() -> dict[str, str]:
    """What decides what a task learns, of this machine."""
    facts = {"Python": platform.python_version()}
    for package in SAME_EVERYWHERE:
        with suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts


def _differing(facts: Mapping[str, str], expected: Mapping[str, str]) -> str:
    names = sorted({name for name, _ in facts.items() ^ expected.items()})
    return ", ".join(f"{name} {facts.get(name, 'not')}, not {expected.get(name, 'none')}" for name in names)


def _capability() -> str:
    """Of the processor, for which torch chooses its kernels."""
    return torch.backends.cpu.get_cpu_capability()


def _connect(address: str | None) -> None:
    if ray.is_initialized():
        return
    host, _, port = (address or "").rpartition(":")
    try:
        if host and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None
    paths = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    try:
        ray.init(
            address or "local",  # None would follow RAY_ADDRESS
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},  # what is imported here is found there
            include_dashboard=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str | None, error: Exception) -> ValueError:
    return ValueError(
        f"there is no Ray cluster at {address!r} ({first_line(error)}): start one by `ray start --head`, or leave the "
        "address out for this machine alone"
    )


def _check_machines() -> None:
    """
    :raises ValueError: naming the machine that has other versions
    """
    machines = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            look = _remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_look)
            machines[node["NodeManagerAddress"], node["NodeID"]] = look.remote()
    for (address, _), reference in machines.items():
        try:
            facts, capability = ray.get(reference)
        except ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise ValueError(f"the Ray node {address} can't run a task: {reason}") from None
        differing = _differing(facts, _facts())
        if differing:
            raise ValueError(f"the Ray node {address} has {differing}: install the same on every machine")
        if capability != _capability():
            _log.warning(
                "The Ray node %s computes with %s, this machine with %s: results may differ in their last bits",
                address,
                capability,
                _capability(),
            )


def _look() -> tuple[dict[str, str], str]:
    return _facts(), _capability()
