"""What a checkpoint of meta-training says besides its tensors, and what it must say."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from leap_rl.running.checkpoint import check_tensors
from leap_rl.running.record import LARGEST, Finite, Positive, Seconds, shown, typed

if TYPE_CHECKING:  # what a run says of itself is read without torch
    from torch import Tensor
    from torch.optim import Optimizer

Sampling = Literal["without_replacement", "reshuffle", "with_replacement"]


@dataclass(frozen=True)
class Settings:
    """As ``MetaTrainer`` has them; whether ``lr`` is a schedule, which JSON can't hold."""

    learner: dict[str, Any]
    meta_batch_size: Positive
    scope: str
    meta_optimizer: str
    schedule: bool
    average_from: int | None
    sampling: Sampling
    eval_freq: int
    seed: int
    device: str
    arithmetic: str
    tensorboard_log: str | None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu"):
            import torch

            try:
                torch.device(self.device)
            except RuntimeError:
                raise ValueError(f"device is {shown(self.device)}") from None


@dataclass(frozen=True)
class OptimizerState:
    """What of an optimizer's state is no tensor."""

    numbers: dict[str, float | bool | None]
    param_groups: list[dict[str, Any]]


@dataclass(frozen=True)
class Best:
    """The best initialization, by the evaluation tasks."""

    score: Finite
    config: dict[str, Any]


# What each task of a meta step has in ``history``, of which types; statistics and scores of its own besides. Checked by
# hand: a history has tens of thousands of them, and is checked whenever it is saved.
_NUMBER = (int, float)
_ROW: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "status": (str,),
    "steps": (int,),
    "seconds": _NUMBER,
    "area": (float,),
    "final_score": (float,),
}
_ROW_MAY_HAVE: dict[str, tuple[type, ...]] = {**_ROW, "error": (str,)}
_FIGURE = (*_NUMBER, type(None))


def _steps(row: dict[str, Any], where: str) -> int:
    """
    :raises ValueError: if it is no row of a history
    """
    for name, value in row.items():
        if type(value) not in _ROW_MAY_HAVE.get(name, _FIGURE) or (type(value) is int and abs(value) >= LARGEST):
            raise ValueError(f"{where}.{shown(name)[1:-1]} is not as it was written: {shown(value)}")
    if not row.keys() >= _ROW.keys() or row["status"] not in ("ok", "non_finite", "failed") or row["steps"] < 0:
        raise ValueError(f"{where} lacks one of {', '.join(_ROW)}, or has another status or fewer steps than there are")
    steps: int = row["steps"]
    return steps


@dataclass(frozen=True)
class _MetaStep:
    meta_step: int
    timesteps: int
    seconds: Seconds
    tasks: list[dict[str, Any]]  # of rows


@dataclass(frozen=True)
class MetaState:
    """
    :param settings: of the trainer
    :param tasks: names
    :param tasks_steps: their budgets
    :param eval_tasks: names
    :param eval_tasks_steps: their budgets
    :param config: of θ⁰
    :param optimizer: of the meta optimizer
    :param history: as of the trainer; meta step and steps follow from it
    :param best: if there was an evaluation
    :param eval_reference: area of each evaluation task at first
    :param log_folder: of TensorBoard
    """

    settings: Settings
    tasks: list[str]
    tasks_steps: list[int]
    eval_tasks: list[str]
    eval_tasks_steps: list[int]
    config: dict[str, Any]
    optimizer: OptimizerState
    history: list[dict[str, Any]]
    best: Best | None
    eval_reference: dict[str, float]
    log_folder: str | None

    def __post_init__(self) -> None:
        steps = 0
        for number, entry in enumerate(self.history, start=1):
            where = f"history.{number - 1}"
            meta_step = typed(_MetaStep, entry, where)
            steps += sum(_steps(row, f"{where}.tasks") for row in meta_step.tasks)
            if (meta_step.meta_step, meta_step.timesteps) != (number, steps):
                raise ValueError(f"{where} is of another meta step, or counts other steps than its tasks")
        typed(dict[str, str], self.config.get("versions", {}), "config.versions")

    @property
    def step(self) -> int:
        """The meta step."""
        return len(self.history)

    @property
    def num_timesteps(self) -> int:
        """Over all meta steps and tasks."""
        return self.history[-1]["timesteps"] if self.history else 0

    def steps_of(self) -> dict[str, int]:
        """Of each task that was visited, over all its visits."""
        steps: Counter[str] = Counter()
        for entry in self.history:
            for row in entry["tasks"]:
                steps[row["name"]] += row["steps"]
        return dict(steps)


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Tensor], OptimizerState]:
    """A torch optimizer's state, its tensors apart from what JSON holds."""
    from torch import Tensor

    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    return tensors, OptimizerState(numbers, state["param_groups"])


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: OptimizerState, began: bool) -> None:
    """
    The inverse of ``optimizer_state``.

    :param optimizer: of the same class, for the same parameters, which has made no step
    :param began: whether the one that was saved had made one
    :raises ValueError: if it is not the state of such an optimizer
    """
    probe = _stepped(optimizer, rest, began)
    expected_tensors, expected = optimizer_state(probe)
    check_tensors(tensors, expected_tensors, "optimizer.")
    if rest.numbers.keys() != expected.numbers.keys():
        raise ValueError(f"the meta optimizer has {shown(sorted(rest.numbers))}, not {shown(sorted(expected.numbers))}")
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest.numbers}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest.param_groups})


def _stepped(optimizer: Optimizer, rest: OptimizerState, began: bool) -> Optimizer:
    """One of the same class and settings, a step along no gradient later: torch itself says what its state is."""
    import torch

    (group,) = optimizer.param_groups
    ours = optimizer.state_dict()["param_groups"]
    if [g.keys() for g in rest.param_groups] != [g.keys() for g in ours]:
        raise ValueError("the meta optimizer has other settings than it had")
    for key, value in rest.param_groups[0].items():
        if value != ours[0][key] if key == "params" else _kind(value) != _kind(group[key]):
            raise ValueError(f"{key} of the meta optimizer is {shown(value)}")
    known = inspect.signature(type(optimizer)).parameters
    settings = {key: value for key, value in rest.param_groups[0].items() if key in known and key != "params"}
    parameters = [torch.zeros_like(p, requires_grad=True) for p in group["params"]]
    try:
        probe = type(optimizer)(parameters, **settings)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        if began:
            probe.step()
    except Exception as error:  # whatever a class says of settings that it does not take
        raise ValueError(f"the meta optimizer does not take its settings ({error})") from None
    return probe


def _kind(value: Any) -> Any:
    """Of a setting: what it may be instead, so that none of another type slips through."""
    if value is None or isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float if math.isfinite(value) else None
    return [_kind(part) for part in value] if isinstance(value, list | tuple) else type(value)
