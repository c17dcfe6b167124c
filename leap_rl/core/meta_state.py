"""What a checkpoint of meta-training says besides its tensors, and what it must say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from leap_rl.core.meta_settings import MetaSettings, Sampling
from leap_rl.running.record import LARGEST, Finite, Positive, Seconds, shown, typed


@dataclass(frozen=True, kw_only=True)
class Settings(MetaSettings):
    """
    Those of the trainer, and what JSON can hold of the rest that it was given.

    :param learner: the settings of the meta-learner
    :param meta_optimizer: the name of its class
    :param schedule: whether its ``lr`` is one, which JSON can't hold
    :param arithmetic: of the engine
    :param tensorboard_log: its folder, as seen from the run folder
    """

    # None of them has a default here: what a checkpoint does not say is not guessed.
    meta_batch_size: Positive
    scope: str
    average_from: int | None
    sampling: Sampling
    eval_freq: int
    seed: int
    device: str
    learner: dict[str, Any]
    meta_optimizer: str
    schedule: bool
    arithmetic: str
    tensorboard_log: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
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
