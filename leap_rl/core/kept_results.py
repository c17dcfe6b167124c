"""Results of learning processes on disk, so that none is run again; each names the visit that it is the result of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from leap_rl.core.curve import LearningCurve
from leap_rl.core.path_statistics import PathStatistics
from leap_rl.core.task import Job, TaskResult
from leap_rl.running.checkpoint import TENSORS, CheckpointError, read, write
from leap_rl.running.engines import Engine, OnProgress
from leap_rl.running.record import Finite, Positive, shown

_GRADIENT = "meta_gradient."


@dataclass(frozen=True)
class Visit:
    """
    What a result is the result of, besides its run and the name of its folder.

    :param task: its name
    :param steps: its budget
    :param seed: of the visit
    :param learner: settings of the meta-learner
    :param start: sha256 of θ⁰; ``None`` where it was drawn from the seed: two machines may draw other last bits
    """

    task: str
    steps: int
    seed: int
    learner: dict[str, Any]
    start: str | None

    @classmethod
    def of(cls, job: Job, start: str | None) -> Visit:
        return cls(job.task.name, job.task.steps, job.seed, job.learner.settings(), start)


@dataclass(frozen=True)
class _Curve:
    budget: Positive
    window: Positive
    maximize: bool


@dataclass(frozen=True)
class _State:
    """A ``TaskResult`` without its tensors."""

    of: Visit
    name: str
    steps: int
    seconds: Finite
    status: Literal["ok", "non_finite"]
    error: str | None
    scores: dict[str, float]
    log: list[tuple[int, dict[str, float]]]
    curve: _Curve
    statistics: PathStatistics | None


class KeptGradient(Mapping[str, Tensor]):
    """
    ∇F as ``save_result`` wrote it, each tensor read when it is asked for: those of a meta batch of a thousand tasks are
    never in memory at once.

    :param folder: of the result; once it went with a checkpoint it is still read, and its room is free with this object
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / TENSORS
        self._mapped = safe_open(self._file, "pt")
        self._names = [n.removeprefix(_GRADIENT) for n in self._mapped.keys() if n.startswith(_GRADIENT)]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        # What was read of a mapping stays in memory as long as the mapping.
        opened = safe_open(self._file, "pt") if self._file.exists() else self._mapped
        tensor: Tensor = opened.get_tensor(_GRADIENT + name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def save_result(folder: Path, result: TaskResult, visit: Visit, run: str) -> None:
    """
    Write what a task gave back, but θ^K.

    :param folder: of this result alone
    :param visit: that it is the result of
    :param run: that it is of
    """
    gradient = result.meta_gradient if result.status == "ok" else None  # that of what diverged is used for nothing
    tensors = {f"{_GRADIENT}{name}": t for name, t in (gradient or {}).items()}
    tensors["steps"] = torch.as_tensor(result.curve.steps, dtype=torch.int64)
    tensors["values"] = torch.as_tensor(result.curve.values, dtype=torch.float64)
    curve = _Curve(result.curve.budget, result.curve.window, result.curve.maximize)
    same = {key: getattr(result, key) for key in ("name", "steps", "seconds", "status", "error", "scores", "log")}
    write(folder, run, tensors, _State(of=visit, curve=curve, statistics=result.statistics, **same))


def load_result(folder: Path, visit: Visit | None = None, run: str | None = None) -> TaskResult | None:
    """
    What ``save_result`` wrote, or ``None`` where nothing is.

    :param visit: that it must be the result of; ``None``: any
    :param run: that it must be of; ``None``: any
    :raises CheckpointError: if it is damaged, or of another visit or run
    """
    if not folder.exists():
        return None
    try:
        tensors, state, its_run = read(folder, _State, any_value=("values",))
        if run not in (None, its_run):
            raise CheckpointError(f"{folder} is of another run")
        for name, now in ({} if visit is None else vars(visit)).items():
            if getattr(state.of, name) != now:
                before = shown(getattr(state.of, name))
                raise CheckpointError(f"{folder} is of another visit: its {name} is {before}, not {shown(now)}")
        return _result(tensors, state, folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Remove {folder}, and it is run again") from None


def _result(tensors: dict[str, Tensor], state: _State, folder: Path) -> TaskResult:
    steps, values = tensors.pop("steps", None), tensors.pop("values", None)
    if not (
        steps is not None
        and values is not None
        and (steps.dtype, values.dtype) == (torch.int64, torch.float64)
        and steps.dim() == 1
        and steps.shape == values.shape
        and (steps[1:] >= steps[:-1]).all()
        and all(name.startswith(_GRADIENT) for name in tensors)
    ):
        raise CheckpointError(f"{folder} is damaged: it holds no learning curve, or more than that and ∇F")
    return TaskResult(
        name=state.name,
        curve=LearningCurve(steps.numpy(), values.numpy(), **vars(state.curve)),
        steps=state.steps,
        seconds=state.seconds,
        meta_gradient={name.removeprefix(_GRADIENT): t for name, t in tensors.items()} or None,
        statistics=state.statistics,
        status=state.status,
        error=state.error,
        scores=state.scores,
        log=state.log,
    )


def run_kept(
    engine: Engine,
    jobs: Sequence[Job],
    folders: Sequence[Path | None],
    on_progress: OnProgress,
    run: str | None = None,
    drawn: Collection[int] = (),
) -> Iterator[tuple[int, TaskResult, bool]]:
    """
    Run jobs and keep each result as it comes, but those that failed; what an interrupted process kept is read instead.
    The ∇F of what is kept stays on disk, and is read when it is asked for.

    :param engine: where they run
    :param jobs: independent of each other
    :param folders: one for each job's result; ``None`` keeps it nowhere
    :param on_progress: as of ``Engine.run``
    :param run: that they are of; needed where any is kept
    :param drawn: indices of the jobs whose θ⁰ was drawn from their seed
    :return: index of the job, its result, and whether it ran now
    :raises CheckpointError: if what was kept is damaged, or of another run or visit
    """
    hashes: dict[int, str] = {}  # jobs share θ⁰
    visits: dict[int, Visit] = {}
    rest = []
    for index, (job, folder) in enumerate(zip(jobs, folders, strict=True)):
        kept = None
        if folder is not None:
            key = id(job.initialization)
            if index not in drawn and key not in hashes:
                hashes[key] = job.initialization.sha256
            visits[index] = Visit.of(job, None if index in drawn else hashes[key])
            kept = load_result(folder, visits[index], run)
        if kept is None:
            rest.append(index)
        else:
            _check_gradient(kept, job, folder)
            on_progress(index, kept.steps)
            yield index, _on_disk(kept, folder), False
    for position, result in engine.run(
        [jobs[index] for index in rest], lambda position, *done: on_progress(rest[position], *done)
    ):
        folder = folders[rest[position]]
        if folder is not None and result.status != "failed":
            assert run is not None
            save_result(folder, result, visits[rest[position]], run)
            result = _on_disk(result, folder)
        yield rest[position], result, True


def _on_disk(result: TaskResult, folder: Path | None) -> TaskResult:
    """What is kept needs no memory as well."""
    if folder is not None and result.meta_gradient is not None:
        result.meta_gradient = KeptGradient(folder) if result.status == "ok" else None
    return result


def _check_gradient(kept: TaskResult, job: Job, folder: Path | None) -> None:
    gradient, theta = kept.meta_gradient, job.initialization.parameters
    if gradient is None:
        return
    if gradient.keys() != theta.keys() or not all(
        t.shape == theta[name].shape and t.is_floating_point() and t.dtype.itemsize >= theta[name].dtype.itemsize
        for name, t in gradient.items()
    ):
        raise CheckpointError(f"{folder} holds the ∇F of other parameters. Remove {folder}, and it is run again")
