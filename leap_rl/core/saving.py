"""A trainer on disk: what a checkpoint holds of it, and the trainer that goes on from one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.initialization import what_learns
from leap_rl.core.learners import MetaLearner, learner_from_settings
from leap_rl.core.meta_optimizer import optimizer_state, restore_optimizer
from leap_rl.core.meta_settings import MetaSettings
from leap_rl.core.meta_state import Best, MetaState, Settings
from leap_rl.core.task import Task, TaskFamily
from leap_rl.running.checkpoint import CheckpointError, Checkpoints, check_tensors
from leap_rl.running.engines import Engine
from leap_rl.running.record import shown

if TYPE_CHECKING:
    from leap_rl.core.trainer import MetaTrainer


def settings_of(trainer: MetaTrainer) -> Settings:
    return Settings(
        **{**vars(trainer.settings), "scope": trainer._theta.scope},
        learner=trainer.learner.settings(),
        meta_optimizer=type(trainer.meta_optimizer).__name__,
        schedule=trainer._meta_optimizer.schedule is not None,
        arithmetic=trainer.engine.arithmetic,
        tensorboard_log=_as_stored(trainer, trainer.tensorboard_log),
    )


def _as_stored(trainer: MetaTrainer, path: Path | None) -> str | None:
    """What lies in ``run_dir`` is found again where that was moved, the rest wherever training goes on from."""
    if path is None:
        return None
    if trainer.run_dir is None:
        return str(path)
    path, run_dir = path.absolute(), trainer.run_dir.absolute()
    return str(path.relative_to(run_dir) if path.is_relative_to(run_dir) else path)


def state_of(trainer: MetaTrainer) -> tuple[dict[str, Tensor], MetaState]:
    """:return: the tensors of a checkpoint, and the rest of it"""
    optimizer_tensors, optimizer_rest = optimizer_state(trainer.meta_optimizer)
    best = trainer.best
    state = MetaState(
        settings=settings_of(trainer),
        tasks=trainer._task_names,
        tasks_steps=[task.steps for task in trainer.tasks],
        eval_tasks=[task.name for task in best.tasks],
        eval_tasks_steps=[task.steps for task in best.tasks],
        config=trainer.config,
        optimizer=optimizer_rest,
        history=trainer.history,
        best=None if best.initialization is None else Best(best.score, best.initialization.config),
        eval_reference=best.reference,
        log_folder=_as_stored(trainer, trainer._log_folder),
    )
    return _tensors(trainer) | {f"optimizer.{n}": t for n, t in optimizer_tensors.items()}, state


def _tensors(trainer: MetaTrainer) -> dict[str, Tensor]:
    """All that a checkpoint holds but the meta optimizer's."""
    theta, best = trainer._theta, trainer.best.initialization
    tensors = {f"theta.{n}": t for n, t in theta.parameters.items()}
    tensors |= {f"buffer.{n}": t for n, t in theta.buffers.items()}
    tensors |= {f"average.{n}": t for n, t in trainer._average.items()}
    if best is not None:
        tensors |= {f"best.{n}": t for n, t in best.parameters.items()}
        tensors |= {f"best_buffer.{n}": t for n, t in best.buffers.items()}
    return tensors


def loaded(
    kind: type[MetaTrainer],
    checkpoints: Checkpoints,
    tasks: TaskFamily,
    learner: MetaLearner | None,
    meta_optimizer_class: type[Optimizer] | None,
    meta_optimizer_kwargs: Mapping[str, Any],
    eval_tasks: Sequence[Task],
    **rest: Any,
) -> MetaTrainer:
    """
    The trainer that goes on from the last checkpoint.

    :param kind: of the trainer
    :param rest: engine, n_workers and verbose, as its constructor takes them
    :raises ValueError: if it is missing, foreign, damaged, of other tasks, or needs what was not given
    """
    run_dir = checkpoints.run_dir
    tensors, state = checkpoints.load(MetaState)
    settings = state.settings
    _check_tasks(run_dir, "tasks", tasks, state.tasks, state.tasks_steps)
    _check_tasks(run_dir, "eval_tasks", eval_tasks, state.eval_tasks, state.eval_tasks_steps)
    arithmetic = (rest["engine"] or Engine).arithmetic
    if settings.arithmetic != arithmetic:
        raise CheckpointError(
            f"{run_dir} began with arithmetic {shown(settings.arithmetic)}, not {arithmetic!r}: "
            "give it an engine of that arithmetic"
        )
    try:
        learner = learner or learner_from_settings(settings.learner)
    except ValueError as error:
        raise CheckpointError(f"{run_dir} was trained by {error}") from None
    if learner.settings() != settings.learner:
        raise CheckpointError(f"{run_dir} was trained by {shown(settings.learner)}, not {learner.settings()}")
    optimizer_class, lr = _optimizer(run_dir, state, learner, meta_optimizer_class, meta_optimizer_kwargs)
    try:
        trainer = kind(
            tasks,
            learner,
            **{name: getattr(settings, name) for name in MetaSettings.__dataclass_fields__},
            meta_optimizer_class=optimizer_class,
            meta_optimizer_kwargs={"lr": lr, **meta_optimizer_kwargs},
            eval_tasks=eval_tasks,
            tensorboard_log=None if settings.tensorboard_log is None else run_dir / settings.tensorboard_log,
            **rest,
        )
    except ValueError as error:
        raise checkpoints.refused(error, MetaState) from None
    for key, value in what_learns(trainer.config).items():
        known = state.config.get(key, value)
        if known != value:
            raise CheckpointError(
                f"{run_dir} was trained with {key} {shown(known)}, not {shown(value)}: a new run takes another, "
                "with initialization=..."
            )
    trainer.run_dir, trainer.checkpoints = run_dir, checkpoints
    try:
        _restore(trainer, tensors, state)
    except ValueError as error:
        raise checkpoints.refused(error, MetaState) from None
    return trainer


def _check_tasks(run_dir: Path, what: str, tasks: Sequence[Task], names: list[str], budgets: list[int]) -> None:
    now, steps = [task.name for task in tasks], [task.steps for task in tasks]
    if now != names:
        raise CheckpointError(f"{run_dir} was trained with {what} {shown(names)}, not {shown(now)}")
    if steps != budgets:
        raise CheckpointError(f"{run_dir} was trained with {what} of other budgets than {shown(steps)} steps")


def _optimizer(
    run_dir: Path,
    state: MetaState,
    learner: MetaLearner,
    optimizer_class: type[Optimizer] | None,
    kwargs: Mapping[str, Any],
) -> tuple[type[Optimizer] | None, float]:
    """:return: the class of the meta optimizer, and a learning rate to construct it with: the real one comes with its
    state"""
    name = state.settings.meta_optimizer
    if state.settings.schedule and not callable(kwargs.get("lr")):
        raise CheckpointError(f"{run_dir} was trained with a schedule: give it as meta_optimizer_kwargs['lr']")
    if optimizer_class is not None and optimizer_class.__name__ != name:
        raise CheckpointError(
            f"{run_dir} was trained with {shown(name)}, not {optimizer_class.__name__}: a new run "
            "takes another meta optimizer, with initialization=..."
        )
    if learner.order != "chain" and optimizer_class is None:
        optimizer_class = getattr(torch.optim, name, None)
        if not isinstance(optimizer_class, type):
            raise CheckpointError(f"{run_dir} was trained with {shown(name)}: give it as meta_optimizer_class")
    group: dict[str, Any] = next(iter(state.optimizer.param_groups), {})
    for key, value in kwargs.items():
        value = list(value) if isinstance(value, tuple) else value  # as JSON has betas
        if not callable(value) and group.get(key, value) != value:
            raise CheckpointError(
                f"{run_dir} was trained with {key}={shown(group[key])} of the meta optimizer, not {value}: "
                "a new run takes another, with initialization=..."
            )
    lr = group.get("lr")
    return optimizer_class, lr if isinstance(lr, float) and 0 < lr < math.inf else 0.0


def _restore(trainer: MetaTrainer, tensors: Mapping[str, Tensor], state: MetaState) -> None:
    """
    :raises ValueError: if the tensors are not those of such a run
    """
    trainer.meta_step, trainer.num_timesteps = state.step, state.num_timesteps
    trainer.history = state.history
    trainer._steps_of = state.steps_of()
    trainer.best.reference = state.eval_reference
    average_from = state.settings.average_from
    if average_from is not None and trainer.meta_step >= average_from:
        trainer._average = {name: tensor.detach().clone() for name, tensor in trainer._theta.parameters.items()}
    if state.best is not None:
        trainer.best.score, trainer.best.initialization = state.best.score, trainer._current()
        trainer.best.initialization.config = state.best.config
    optimizer = {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")}
    restore_optimizer(trainer.meta_optimizer, optimizer, state.optimizer, trainer.meta_step > 0)
    own = _tensors(trainer)
    check_tensors({n: t for n, t in tensors.items() if not n.startswith("optimizer.")}, own)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    trainer._theta.config = state.config
    if state.log_folder is not None and trainer.run_dir is not None:
        trainer._log_folder = trainer.run_dir / state.log_folder
