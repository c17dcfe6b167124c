"""An agent that learns an environment: the learning process of a visit, and what it shows of itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from leap_rl.agents.observed import ObservedTraining
from leap_rl.core import LearningCurve, LearningProcess, LookAhead, Report, read_strategies
from leap_rl.transfer.episodes import Episodes
from leap_rl.transfer.finetune import FineTune

if TYPE_CHECKING:
    from leap_rl.agents.tasks import EnvTask

LOGS_PER_VISIT = 10
"""How often a visit logs. SB3's own defaults are never in a short one, or after every few episodes in a long one."""

REPORTS_PER_VISIT = 100
"""How often a visit says at most how far it is: an off-policy agent may have as many rollouts as steps."""


def learns(
    model: BaseAlgorithm,
    steps: int,
    callbacks: list[BaseCallback],
    log_interval: int | None = None,
    reset_num_timesteps: bool = True,
) -> bool:
    """
    Let a model learn.

    :param steps: in environment steps
    :param callbacks: as of SB3's ``learn``
    :param log_interval: as of SB3's ``learn``
    :param reset_num_timesteps: as of SB3's ``learn``
    :return: whether it could to the end; one that diverges can't act any more
    """
    try:
        model.learn(steps, callbacks, log_interval, reset_num_timesteps=reset_num_timesteps)  # type: ignore[arg-type]
    except ValueError as error:
        # How torch says that actions can't be drawn from a distribution that is not finite.
        if "found invalid values" not in str(error):
            raise
        return False
    return True


def is_finite(model: BaseAlgorithm) -> bool:
    """Whether its weights are; a policy may diverge in the last update."""
    return all(bool(p.isfinite().all()) for p in model.policy.parameters())


class AgentLearning(LearningProcess):
    """An agent learns its environment, held to the fine-tuning strategies of the task."""

    task: EnvTask
    model: ObservedTraining

    def learn(self, report: Report) -> None:
        model, budget = self.model, self.task.steps
        visit, memory = _Visit(budget, report), _Memory()
        model.set_logger(Logger(None, [memory]))
        model.look_ahead = ahead = model.rollout_steps if model.learner.looks_ahead else 0
        held = [FineTune(*read_strategies(self.task.finetune))] if self.task.finetune else []
        self.finite = learns(model, budget + ahead, [*held, visit])
        self.path = model.gradient_path
        if self.finite:
            if isinstance(self.path, LookAhead):
                visit.forget_after(model.num_timesteps - ahead)
                self.path.rewind()
            self.finite = is_finite(model)
        self.curve, self.steps, self.log = visit.curve(budget), model.num_timesteps, memory.log


class _Visit(Episodes):
    """
    What a learning process shows of itself: the episodes that end, and what SB3 logs.

    :param steps: of its budget
    :param report: called with the steps done
    """

    def __init__(self, steps: int, report: Report) -> None:
        super().__init__()
        self.budget = steps
        self.report = report
        self._rollouts = self._reported = 0

    def _on_training_start(self) -> None:
        rollouts = self.budget // self.model.rollout_steps  # type: ignore[attr-defined]
        self._log_every = max(1, rollouts // LOGS_PER_VISIT)

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts % self._log_every == 0:
            self.model.dump_logs()
        if self.num_timesteps - self._reported >= self.budget / REPORTS_PER_VISIT:
            self._reported = self.num_timesteps
            last = self.returns[-LearningCurve.window :]
            self.report(self.num_timesteps, float(np.mean(last)) if last else math.nan)

    def forget_after(self, steps: int) -> None:
        """What a rollout that was only looked at had to say of the agent, is not said."""
        kept = sum(s <= steps for s in self.steps)
        self.steps, self.returns = self.steps[:kept], self.returns[:kept]


class _Memory(KVWriter):
    """Keeps what SB3 logs for TensorBoard. The trainer writes it, in one place and in the order of the tasks."""

    def __init__(self) -> None:
        self.log: list[tuple[int, dict[str, float]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.log.append(
            (step, {k: float(v) for k, v in key_values.items() if "tensorboard" not in (key_excluded.get(k) or ())})
        )
