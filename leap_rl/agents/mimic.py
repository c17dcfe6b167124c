"""Policy distillation: one agent that acts as several do, each on its own game."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from leap_rl.agents.observed import ObservedTraining
from leap_rl.core import NoPretraining
from leap_rl.transfer.heads import action_meanings


class Mimic(A2C):
    """What ``ActorMimic`` is to SB3: another ``train`` for A2C. The parameters are those of ``ActorMimic``."""

    def __init__(
        self, policy: Any, env: Any, teachers: Sequence[BaseAlgorithm] = (), temperature: float = 0.01, **kwargs: Any
    ) -> None:
        self.teachers = list(teachers)
        self.temperature = temperature
        super().__init__(policy, env, **kwargs)
        if kwargs.get("_init_setup_model", True) and not self.teachers:
            self._check_taught()

    def _setup_model(self) -> None:
        """Also when it is loaded: to learn on if teachers are given, to play if not."""
        super()._setup_model()
        if self.teachers:
            self._check_taught()

    def _check_taught(self) -> None:
        """:raises ValueError: if there are more or fewer teachers than environments, or one can't teach"""
        if len(self.teachers) != self.n_envs:
            raise ValueError(f"{len(self.teachers)} teachers for {self.n_envs} environments: one is needed for each")
        # The environments of each teacher, and where its actions are among the student's.
        self._taught = [
            (teacher, [e for e, other in enumerate(self.teachers) if other is teacher], self._columns(teacher))
            for teacher in dict.fromkeys(self.teachers)
        ]

    def _columns(self, teacher: BaseAlgorithm) -> list[int]:
        name, theirs, ours = type(teacher).__name__, teacher.action_space, self.action_space
        if isinstance(self.observation_space, spaces.Dict):
            raise ValueError("a student sees arrays, not a Dict: its environments need another observation space")
        if hasattr(teacher.policy, "lstm_actor"):
            raise ValueError(f"{name} can't teach: it remembers what it saw, and a student does not")
        if not (hasattr(teacher.policy, "get_distribution") or hasattr(teacher.policy, "q_net")):
            raise ValueError(f"{name} can't teach: it has neither a distribution of discrete actions nor Q-values")
        if teacher.observation_space != self.observation_space:
            raise ValueError(f"{name} sees {teacher.observation_space}, but the student sees {self.observation_space}")
        if not (isinstance(theirs, spaces.Discrete) and isinstance(ours, spaces.Discrete)):
            raise ValueError(f"{name} can't teach: actions must be discrete, here {theirs} and {ours}")
        named = [action_meanings(env) for env in (teacher.get_env(), self.get_env())]
        if theirs.n == ours.n and None in named:  # of some environments nobody says
            return list(range(int(ours.n)))
        meanings, known = named
        if meanings is None or known is None:
            raise ValueError(
                f"{name} has {theirs.n} actions, the student {ours.n}: each needs an environment that names them"
            )
        lacking = [meaning for meaning in meanings if meaning not in known]
        if lacking:
            raise ValueError(f"{name} takes actions that the student has not: {', '.join(lacking)}")
        return [known.index(meaning) for meaning in meanings]

    def _probabilities(self, teacher: Any, observations: Tensor) -> Tensor:
        """Of a teacher's actions, shape (n, its actions)."""
        if hasattr(teacher.policy, "get_distribution"):
            probabilities: Tensor = teacher.policy.get_distribution(observations).distribution.probs
            return probabilities
        return (teacher.policy.q_net(observations) / self.temperature).softmax(dim=1)

    def train(self) -> None:
        if not self.teachers:
            raise ValueError("it was loaded without teachers, to play: ActorMimic.load(..., teachers=[...]) learns on")
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        seen = self.rollout_buffer.observations  # (steps, environments, ...)
        observations, targets = [], []
        for teacher, envs, columns in self._taught:
            theirs = torch.as_tensor(seen[:, envs].reshape(-1, *seen.shape[2:]), device=self.device)
            target = torch.zeros(len(theirs), int(self.action_space.n), device=self.device)  # type: ignore[attr-defined]
            with torch.no_grad():
                target[:, columns] = self._probabilities(teacher, theirs)
            observations.append(theirs)
            targets.append(target)
        target = torch.cat(targets)
        log_probabilities: Tensor = self.policy.get_distribution(torch.cat(observations)).distribution.logits  # type: ignore[union-attr]
        loss = -(target * log_probabilities).sum(dim=1).mean()
        self.policy.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/cross_entropy", loss.item())
        same = (target.argmax(dim=1) == log_probabilities.argmax(dim=1)).float().mean()
        self.logger.record("train/agreement", same.item())

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "teachers", "_taught"]


class ActorMimic(ObservedTraining, Mimic):
    """
    An A2C that learns to act as teachers do, each in its own environments (Actor-Mimic; Parisotto, Ba and
    Salakhutdinov, ICLR 2016): it plays, and after each rollout its policy π goes towards its teachers' on what it saw,
    by the cross entropy -Σ_a π_T(a|s) log π(a|s) (their equation 4). Rewards are not looked at, so the value head stays
    as it was drawn. It is saved as a plain A2C: its encoder is for a new game to start from, as a meta-learned one is::

        ActorMimic("CnnPolicy", make_atari_env(["Pong", "Breakout"], 8, full_action_space=True), [pong, breakout] * 4)

    :param policy: as A2C takes it
    :param env: environments with discrete actions
    :param teachers: trained agents, one for each of the environments. One that has other actions than ``env`` needs an
        environment of its own that says what they mean, as those of games do
    :param temperature: a teacher with Q-values acts by softmax(Q / temperature) (their equation 3)
    :param kwargs: as A2C takes them
    :raises ValueError: if there are more or fewer teachers than environments, or one can't teach
    """

    actions = (spaces.Discrete,)

    def __init__(
        self, policy: Any, env: Any, teachers: Sequence[BaseAlgorithm] = (), temperature: float = 0.01, **kwargs: Any
    ) -> None:
        given = {"learner": NoPretraining(), "teachers": teachers, "temperature": temperature, **kwargs}
        super().__init__(policy, env, **given)
