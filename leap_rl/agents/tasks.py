"""Reinforcement learning as tasks: an SB3 algorithm learns an environment for a number of steps."""

from __future__ import annotations

import difflib
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents.a2c import LeapA2C
from leap_rl.agents.observed import ObservedTraining, check_learner
from leap_rl.agents.ppo import LeapPPO
from leap_rl.agents.registered import register, registered
from leap_rl.agents.spaces import check_spaces, network_input
from leap_rl.core import (
    Initialization,
    Job,
    LearningCurve,
    LookAhead,
    MetaLearner,
    Report,
    Task,
    TaskFamily,
    TaskResult,
)
from leap_rl.core.initialization import versions
from leap_rl.running.as_json import as_json
from leap_rl.running.integers import integer
from leap_rl.transfer.names import observed_parameters

LOGS_PER_VISIT = 10
"""How often SB3 logs in one visit: its own default for A2C, every 100 rollouts, is never in a short one."""


def observed_algorithm(algorithm: type[BaseAlgorithm]) -> type[ObservedTraining]:
    """
    The observed kind of an algorithm: plain A2C and PPO are taken as ``LeapA2C`` and ``LeapPPO``.

    :param algorithm: a class
    :raises ValueError: for one that can't be observed
    """
    if isinstance(algorithm, type) and issubclass(algorithm, ObservedTraining):
        return algorithm
    observed = {A2C: LeapA2C, PPO: LeapPPO}.get(algorithm)
    if observed is None:
        reason = ": TRPO moves its actor by line search, without a loss" if "TRPO" in str(algorithm) else ""
        raise ValueError(
            f"{getattr(algorithm, '__name__', algorithm)} can't be observed{reason}; use LeapA2C or LeapPPO"
        )
    return observed


class _ToJob(BaseCallback):
    """Collects the episodes that end, and says how many steps are done."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps)
                self.returns.append(float(info["episode"]["r"]))
        return True

    def _on_rollout_end(self) -> None:
        self.report(self.num_timesteps)

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


@dataclass(frozen=True)
class EnvTask(Task):
    """
    One environment to learn. Wherever it goes, what is registered with Gymnasium here goes with it.

    :param name: of the task
    :param env: a Gymnasium id, what is registered by one, or a function that makes the environment
    :param algorithm: that learns
    :param policy: of the algorithm, by SB3's name of it or as a class
    :param steps: budget, summed over environments
    :param n_envs: environments in parallel
    :param algorithm_kwargs: of the algorithm's constructor
    """

    name: str
    env: str | EnvSpec | Callable[[], gym.Env]
    algorithm: type[ObservedTraining]
    policy: str | type[ActorCriticPolicy]
    steps: int
    n_envs: int
    algorithm_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def make_vec_env(self, scope: str, n_envs: int | None = None) -> VecEnv:
        """
        :param scope: what is meta-learned, on which the action space may depend
        :param n_envs: ``None``: the task's own number
        :raises ValueError: for spaces that SB3 does not take
        """
        env = self.env.make if isinstance(self.env, EnvSpec) else self.env
        return make_vec_env(env, n_envs or self.n_envs, wrapper_class=check_spaces)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "registered": registered()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        register(state.pop("registered"))
        self.__dict__.update(state)

    def run(self, job: Job, report: Report) -> TaskResult:
        started = time.perf_counter()
        scope = job.initialization.scope
        env = self.make_vec_env(scope)
        try:
            # The seed draws the network whole, so what is not in scope is redrawn at every visit.
            model = self.algorithm(
                self.policy,
                env,
                learner=job.learner,
                scope=scope,
                seed=job.seed,
                device=job.device,
                **self.algorithm_kwargs,
            )
            job.initialization.apply_to(model)
            episodes, memory = _ToJob(report), _Memory()
            model.set_logger(Logger(None, [memory]))
            try:
                rollout = self.n_envs * model.n_steps
                iterations = self.steps // rollout
                steps = self.steps + (rollout if job.learner.looks_ahead else 0)
                model.learn(steps, callback=episodes, log_interval=max(1, iterations // LOGS_PER_VISIT))
                if isinstance(model.gradient_path, LookAhead):
                    episodes.forget_after(model.num_timesteps - rollout)
                    model.gradient_path.rewind()
                diverged = not all(p.isfinite().all() for p in model.policy.parameters())
            except ValueError as error:
                # How torch says that actions can't be drawn from logits that are not finite.
                if "found invalid values" not in str(error):
                    raise
                diverged = True
        finally:
            env.close()
        path = model.gradient_path
        meta_gradient = statistics = None
        # What diverged before its second rollout has nothing that FOMAML could look at.
        if path is not None and not (diverged and (path.n_updates == 0 or isinstance(path, LookAhead))):
            meta_gradient, statistics = path.meta_gradient(), path.statistics()
            # What the optimizer does not move is the same in every task, and stays as it is.
            fixed = {n: torch.zeros_like(t) for n, t in job.initialization.parameters.items() if n not in meta_gradient}
            meta_gradient = {name: g.cpu() for name, g in meta_gradient.items()} | fixed
            diverged = diverged or not all(g.isfinite().all() for g in meta_gradient.values())
        return TaskResult(
            name=self.name,
            curve=LearningCurve(np.asarray(episodes.steps), np.asarray(episodes.returns), self.steps),
            steps=model.num_timesteps,
            seconds=time.perf_counter() - started,
            meta_gradient=meta_gradient,
            statistics=statistics,
            status="non_finite" if diverged else "ok",
            log=memory.log,
            final=Initialization.of(model, scope) if job.return_final else None,
        )


class EnvTasks(TaskFamily):
    """
    Environments to learn with one algorithm and one network.

    :param algorithm: ``LeapA2C`` or ``LeapPPO``; A2C and PPO are taken as those
    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a class of SB3's or your own
    :param envs: what to learn, by name: Gymnasium ids, what ``gymnasium.spec`` gives, or functions that make an
        environment; a sequence of ids is named by them
    :param timesteps: budget of one visit, in steps summed over environments
    :param n_envs: environments in parallel
    :param algorithm_kwargs: of the algorithm's constructor
    :raises ValueError: for what can't be learned
    """

    def __init__(
        self,
        algorithm: type[BaseAlgorithm],
        policy: str | type[ActorCriticPolicy],
        envs: Mapping[str, str | EnvSpec | Callable[[], gym.Env]] | Sequence[str],
        timesteps: int,
        n_envs: int = 8,
        algorithm_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(envs, Mapping):
            named = dict(envs)
        else:
            check_names("envs", envs)
            named = {name: name for name in envs}
        for name, env in named.items():
            if not isinstance(name, str) or not (isinstance(env, str | EnvSpec) or callable(env)):
                raise ValueError(
                    f"envs has {name!r}: {env!r}, but needs a name and an id, or a function without arguments"
                )
        observed, timesteps, n_envs = self._check(algorithm, len(named), timesteps, n_envs, algorithm_kwargs or {})
        kwargs = python_numbers(algorithm_kwargs or {})
        self._tasks: list[EnvTask] = [
            EnvTask(str(name), env, observed, policy, timesteps, n_envs, kwargs) for name, env in named.items()
        ]

    @staticmethod
    def _check(
        algorithm: type[BaseAlgorithm], n_tasks: int, timesteps: int, n_envs: int, algorithm_kwargs: Mapping[str, Any]
    ) -> tuple[type[ObservedTraining], int, int]:
        """:return: the algorithm that observes, timesteps and n_envs as Python's integers"""
        observed = observed_algorithm(algorithm)
        integer("the number of tasks", n_tasks, least=1)
        # The SB3 class after the mixin is the one whose constructor spells its arguments out.
        plain = next(c for c in observed.__mro__ if not issubclass(c, ObservedTraining))
        known = set(inspect.signature(plain).parameters) | {"arithmetic"}
        known -= {"policy", "env", "seed", "device", "_init_setup_model"}
        for name in algorithm_kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"algorithm_kwargs has {name!r}, which {plain.__name__} does not take here{hint}")
        return observed, integer("timesteps", timesteps, least=1), integer("n_envs", n_envs, least=1)

    def check_learner(self, learner: MetaLearner) -> None:
        check_learner(learner)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> EnvTask:  # type: ignore[override]
        return self._tasks[index]

    def __iter__(self) -> Iterator[EnvTask]:
        return iter(self._tasks)

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        first = self._tasks[0]
        # A network is the same for any number of environments, and sixteen games take seconds to make. PPO needs two
        # steps at least, and warns of so small a rollout, which is none that is learned from.
        env = first.make_vec_env(scope or "encoder", n_envs=min(2, first.n_envs))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                model = first.algorithm(
                    first.policy, env, scope=scope, seed=seed, device="cpu", **first.algorithm_kwargs
                )
        except (AssertionError, RuntimeError) as error:  # how SB3 and torch say what a network is not for
            raise ValueError(
                f"{first.name} can't be learned with {first.policy}: {' '.join(str(error).split())}"
            ) from None
        finally:
            env.close()
        assert model.scope is not None
        if not observed_parameters(model, model.scope):
            raise ValueError(f"scope={model.scope!r} has no parameter that is trained: there is nothing to meta-learn")
        self._check_spaces(model, model.scope)
        return Initialization.of(model, model.scope, self._config(model))

    def _check_spaces(self, model: ObservedTraining, scope: str) -> None:
        """
        :param model: of the first task
        :raises ValueError: if a task has other spaces than what is shared allows
        """
        ours = model.observation_space, model.action_space
        for task in self._tasks[1:]:
            env = task.make_vec_env(scope, n_envs=1)
            try:
                env = BaseAlgorithm._wrap_env(env)  # as the network sees it
            except AssertionError as error:
                raise ValueError(f"{task.name} can't be learned: {' '.join(str(error).split())}") from None
            finally:
                env.close()
            theirs = env.observation_space, env.action_space
            needed = {"observations": network_input(theirs[0]) == network_input(ours[0])}
            if scope == "all":
                needed["actions"] = theirs[1] == ours[1]
            for (what, same), mine, other in zip(needed.items(), ours, theirs, strict=False):
                if not same:
                    raise ValueError(
                        f"scope={scope!r} needs the same {what} in every task, "
                        f"but {self._tasks[0].name} has {mine} and {task.name} {other}"
                    )

    def _config(self, model: ObservedTraining) -> dict[str, Any]:
        """Where an initialization from these tasks comes from."""
        first = self._tasks[0]
        return {
            "algorithm": first.algorithm.__name__,
            "policy": as_json(first.policy),
            "network": model.policy.features_extractor_class.__name__,
            "observation_shape": list(model.observation_space.shape or ()),
            "steps_per_visit": first.steps,
            "n_envs": first.n_envs,
            "algorithm_kwargs": as_json(first.algorithm_kwargs),
            "versions": versions("stable-baselines3", "gymnasium"),
        }


@dataclass(frozen=True)
class RandomPolicy(Task):
    """
    An environment in which actions are drawn at random, for as long as a task learns it: what its learning curve would
    be without learning.

    :param task: whose environments and budget
    """

    task: EnvTask

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.task.name

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.task.steps

    def run(self, job: Job, report: Report) -> TaskResult:
        started = time.perf_counter()
        env = self.task.make_vec_env(job.initialization.scope)
        steps, returns, done = [], [], 0
        try:
            env.seed(job.seed)
            env.action_space.seed(job.seed)
            env.reset()
            while done < self.steps:
                _, _, _, infos = env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)]))
                done += env.num_envs
                ended = [float(info["episode"]["r"]) for info in infos if "episode" in info]
                steps += [done] * len(ended)
                returns += ended
                if ended:
                    report(done)
        finally:
            env.close()
        curve = LearningCurve(np.array(steps), np.array(returns), self.steps)
        return TaskResult(self.name, curve, done, time.perf_counter() - started)


class RandomPolicies(TaskFamily):
    """
    ``RandomPolicy`` of each task.

    :param tasks: the tasks
    """

    def __init__(self, tasks: EnvTasks) -> None:
        self.tasks = tasks
        # No network plays, so that one is as good as another: whatever the seed, it is drawn once.
        self._drawn = functools.cache(functools.partial(tasks.draw_initialization, seed=0))

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> RandomPolicy:  # type: ignore[override]
        return RandomPolicy(self.tasks[index])

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        return self._drawn(scope)


def python_numbers(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """SB3 takes Python's numbers, not all of NumPy's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in kwargs.items()}


def check_names(what: str, names: Sequence[str]) -> None:
    """
    :param what: they are called
    :raises ValueError: for a string alone, whose letters are no names, and for a name that comes twice
    """
    if isinstance(names, str):
        raise ValueError(f"{what}={names!r} must be a list: [{names!r}]")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"{what} are listed twice: {', '.join(twice)}")
