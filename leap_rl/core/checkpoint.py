"""The state of a meta-training on disk: tensors as safetensors, the rest as JSON, no pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.curve import LearningCurve
from leap_rl.core.engines import Engine, OnProgress
from leap_rl.core.files import replacing_folder
from leap_rl.core.initialization import Initialization
from leap_rl.core.path import PathStatistics
from leap_rl.core.task import Job, TaskResult

FORMAT = "leap-rl checkpoint"
FORMAT_VERSION = 2


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; says what and what to do."""


class Checkpoints:
    """
    What a meta-training leaves on disk: a checkpoint per meta step, and the results of the running meta step, so that
    a task of an hour is not lost with it. Each is a folder that appears whole or not at all.

    ``running`` holds the results of the running meta step, by ``save_result``.

    :param run_dir: of the meta-training
    :param keep: how many of the last checkpoints stay
    :param keep_every: those of every n-th meta step stay, too; 0: none
    """

    def __init__(self, run_dir: Path, keep: int = 3, keep_every: int = 0) -> None:
        if keep < 1 or keep_every < 0:
            raise ValueError(f"keep={keep} must be at least 1, and keep_every={keep_every} not negative")
        self.run_dir = run_dir
        self.keep = keep
        self.keep_every = keep_every
        self.folder = run_dir / "checkpoints"
        self.running = run_dir / "running"

    def steps(self) -> list[int]:
        """The meta steps that have a checkpoint."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdigit())

    def clean(self) -> None:
        """Remove what a process that was killed left half written."""
        for unfinished in (*self.folder.glob(".*"), *self.running.glob(".*"), *self.run_dir.glob(".*")):
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)

    def save(self, meta_step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the checkpoint after a meta step; older ones and the results that led to it go."""
        _write(self.folder / f"{meta_step:06d}", tensors, state)
        for step in self.steps()[: -self.keep]:
            if not self.keep_every or step % self.keep_every:
                _remove(self.folder / f"{step:06d}")
        if self.running.exists():
            _remove(self.running)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        The last checkpoint.

        :raises CheckpointError: if it is missing, foreign, damaged, or from another version
        """
        if not self.steps():
            raise CheckpointError(f"{self.run_dir} holds no checkpoint: it is no run of leap_rl, or has not begun")
        return _read(self.folder / f"{self.steps()[-1]:06d}", "without this folder the one before it is used")

    def state(self) -> dict[str, Any]:
        """The last checkpoint without its tensors; as ``load`` otherwise."""
        return self.load()[1]


def save_result(folder: Path, result: TaskResult) -> None:
    """Write what a task gave back, but θ^K."""
    tensors = {f"meta_gradient.{name}": t for name, t in (result.meta_gradient or {}).items()}
    tensors["steps"] = torch.as_tensor(result.curve.steps, dtype=torch.int64)
    tensors["values"] = torch.as_tensor(result.curve.values, dtype=torch.float64)
    curve = {key: getattr(result.curve, key) for key in ("budget", "window", "maximize")}
    state = {key: getattr(result, key) for key in ("name", "seconds", "status", "error", "scores", "log")}
    state |= {"num_timesteps": result.steps, "curve": curve}
    state["statistics"] = None if result.statistics is None else vars(result.statistics)
    _write(folder, tensors, state)


def load_result(folder: Path) -> TaskResult | None:
    """
    What ``save_result`` wrote, or ``None``.

    :raises CheckpointError: if it is damaged
    """
    if not folder.exists():
        return None
    tensors, state = _read(folder, "without this folder it is run again")
    prefix = "meta_gradient."
    gradient = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return TaskResult(
        name=state["name"],
        curve=LearningCurve(tensors["steps"].numpy(), tensors["values"].numpy(), **state["curve"]),
        steps=state["num_timesteps"],
        seconds=state["seconds"],
        meta_gradient=gradient or None,
        statistics=None if state["statistics"] is None else PathStatistics(**state["statistics"]),
        status=state["status"],
        error=state["error"],
        scores=state["scores"],
        log=[(step, values) for step, values in state["log"]],
    )


def checkpoint_bytes(theta: Initialization, kept: int, meta_batch_size: int) -> int:
    """
    At most so many bytes are on disk at once: checkpoints of θ⁰, the meta optimizer (Adam's two moments), the best and
    the averaged θ⁰, one more of them than stay, and the results of a meta batch.
    """
    return sum(t.nbytes for t in theta.parameters.values()) * (5 * (kept + 1) + meta_batch_size)


def run_kept(
    engine: Engine, jobs: Sequence[Job], folders: Sequence[Path | None], on_progress: OnProgress
) -> Iterator[tuple[int, TaskResult, bool]]:
    """
    Run jobs and keep each result as it comes, but those that failed; what an interrupted process kept is read instead.

    :param engine: where they run
    :param jobs: independent of each other
    :param folders: one for each job's result; ``None`` keeps it nowhere
    :param on_progress: as of ``Engine.run``
    :return: index of the job, its result, and whether it ran now
    """
    rest = []
    for index, folder in enumerate(folders):
        kept = None if folder is None else load_result(folder)
        if kept is None:
            rest.append(index)
        else:
            on_progress(index, kept.steps)
            yield index, kept, False
    for position, result in engine.run(
        [jobs[index] for index in rest], lambda position, steps: on_progress(rest[position], steps)
    ):
        folder = folders[rest[position]]
        if folder is not None and result.status != "failed":
            save_result(folder, result)
        yield rest[position], result, True


def _write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    data = safetensors.torch.save({name: t.detach().contiguous() for name, t in tensors.items()})
    state = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": hashlib.sha256(data).hexdigest(), **state}
    text = json.dumps(state, indent=1) + "\n"
    try:
        with replacing_folder(folder) as temporary:
            (temporary / "state.safetensors").write_bytes(data)
            (temporary / "state.json").write_text(text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        needed, free = len(data) + len(text), shutil.disk_usage(folder.parent).free
        raise OSError(
            error.errno,
            f"no room for {folder}: it needs {needed:,} bytes, {free:,} are free, so {max(needed - free, 0):,} or a "
            f"higher limit on file size are missing ({os.strerror(error.errno)}). What was saved before is intact",
        ) from None


def _read(folder: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        state = json.loads((folder / "state.json").read_text())
        data = (folder / "state.safetensors").read_bytes()
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} can't be read: {error}; {remedy}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is no checkpoint of leap_rl")
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {state.get('format_version')}, this leap_rl reads {FORMAT_VERSION}"
        )
    damaged = f"{folder} is damaged ({{}}); {remedy}"
    if state.get("sha256") != hashlib.sha256(data).hexdigest():
        raise CheckpointError(damaged.format("the sha256 of state.safetensors is not the one in state.json"))
    try:
        return safetensors.torch.load(data), state
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(damaged.format(error)) from None


def _remove(folder: Path) -> None:
    """At once for whoever looks for it: renamed first."""
    hidden = folder.with_name(f".{folder.name}-removed")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(folder, hidden)
    shutil.rmtree(hidden)


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A torch optimizer's state, its tensors apart from what JSON holds."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return tensors, {"numbers": numbers, "param_groups": state["param_groups"]}


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest["numbers"]}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
