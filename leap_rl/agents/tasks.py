"""Reinforcement learning as tasks: an SB3 algorithm learns an environment for a number of steps."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents.learning import AgentLearning
from leap_rl.agents.observed import ObservedTraining, default_arguments
from leap_rl.agents.registered import register, registered
from leap_rl.agents.spaces import check_spaces, network_input
from leap_rl.core import (
    Initialization,
    Job,
    LearnedTask,
    LearningCurve,
    MetaLearner,
    Report,
    Task,
    TaskFamily,
    TaskResult,
    read_strategies,
)
from leap_rl.core.initialization import versions
from leap_rl.running.as_json import as_json
from leap_rl.running.integers import integer
from leap_rl.transfer.finetune import FineTune
from leap_rl.transfer.names import observed_parameters

OBSERVED = {
    "stable_baselines3": ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"),
    "sb3_contrib": ("CrossQ", "MaskablePPO", "QRDQN", "RecurrentPPO", "TQC"),
}
"""The algorithms of which there is an observed kind, by the library that they are of."""


def observed_algorithm(algorithm: type[BaseAlgorithm]) -> type[ObservedTraining]:
    """
    The observed kind of an algorithm: plain PPO is taken as ``LeapPPO``, and so on.

    :param algorithm: a class
    :raises ValueError: for one that can't be observed
    """
    if isinstance(algorithm, type) and issubclass(algorithm, ObservedTraining) and algorithm is not ObservedTraining:
        return algorithm
    name = getattr(algorithm, "__name__", str(algorithm))
    library = getattr(algorithm, "__module__", "").partition(".")[0]
    if isinstance(algorithm, type) and name in OBSERVED.get(library, ()):
        module = "contrib" if library == "sb3_contrib" else "algorithms"
        observed: type[ObservedTraining] = getattr(import_module(f"leap_rl.agents.{module}"), f"Leap{name}")
        return observed
    reason = UNOBSERVED.get(name, "")
    if not reason and isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm):
        reason = f"it is a class of its own, which only its author knows: let it inherit from Leap{_kin(algorithm)}"
    known = ", ".join(f"Leap{known}" for names in OBSERVED.values() for known in names)
    raise ValueError(f"{name} can't be observed{': ' * bool(reason)}{reason}; use one of {known}")


UNOBSERVED = {
    "TRPO": "TRPO moves its actor by line search, without a loss",
    "ARS": "ARS searches at random, without a gradient",
}


def _kin(algorithm: type[BaseAlgorithm]) -> str:
    """What an algorithm of one's own is a kind of."""
    known = {name for names in OBSERVED.values() for name in names}
    return next((kind.__name__ for kind in algorithm.__mro__ if kind.__name__ in known), "...")


@dataclass(frozen=True)
class EnvTask(LearnedTask):
    """
    One environment to learn. Wherever it goes, what is registered with Gymnasium here goes with it.

    :param name: of the task
    :param env: a Gymnasium id, what is registered by one, or a function that makes the environment
    :param algorithm: that learns
    :param policy: of the algorithm, by SB3's name of it or as a class
    :param steps: budget, summed over environments
    :param n_envs: environments in parallel
    :param algorithm_kwargs: of the algorithm's constructor
    :param finetune: strategies that a learning process is held to, as ``read_strategies`` takes them
    """

    name: str
    env: str | EnvSpec | Callable[[], gym.Env]
    algorithm: type[ObservedTraining]
    policy: str | type[BasePolicy]
    steps: int
    n_envs: int
    algorithm_kwargs: Mapping[str, Any] = field(default_factory=dict)
    finetune: str = ""

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

    def start(self, job: Job) -> AgentLearning:
        """The agent at θ⁰; its replay buffer, if it has one, is empty."""
        with ExitStack() as opened:
            env = opened.enter_context(closing(self.make_vec_env(job.initialization.scope)))
            model = self.make_model(env, self.steps, job.initialization.scope, job.seed, job.device, job.learner)
            job.initialization.apply_to(model)
            return AgentLearning(self, job, model, opened.pop_all())

    def make_model(
        self,
        env: VecEnv,
        steps: int,
        scope: str | None,
        seed: int,
        device: str = "cpu",
        learner: MetaLearner | None = None,
    ) -> ObservedTraining:
        """
        :param env: of the task
        :param steps: that it will learn for
        :param scope: what of it is observed; ``None``: its default
        :param seed: draws the network whole, so what is not in scope is redrawn at every visit
        :param device: where it lives
        :param learner: how it is observed; ``None``: by default
        :raises ValueError: for an environment that the algorithm can't learn
        """
        self.algorithm.check_env(self.name, env)
        kwargs = self.algorithm.arguments(self.algorithm_kwargs, steps, env.num_envs)
        return self.algorithm(self.policy, env, learner=learner, scope=scope, seed=seed, device=device, **kwargs)

    def __repr__(self) -> str:
        kwargs = "".join(f", {name}={value!r}" for name, value in self.algorithm_kwargs.items())
        policy = self.policy if isinstance(self.policy, str) else self.policy.__name__
        text = f"{self.name}: {self.algorithm.__name__}, {policy}, {self.steps:,} steps, {self.n_envs} envs{kwargs}"
        text += f", {self.finetune}" if self.finetune else ""
        return f"{type(self).__name__}({one_line(text)})"


class EnvTasks(TaskFamily):
    """
    Environments to learn with one algorithm and one network.

    :param algorithm: ``LeapA2C``, ``LeapDQN``, ``LeapSAC`` or another observed one; plain ones are taken as those
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
        policy: str | type[BasePolicy],
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
        self._tasks = self._made(EnvTask, named, algorithm, policy, timesteps, n_envs, algorithm_kwargs or {})

    @staticmethod
    def _made(
        task: Callable[..., EnvTask],
        envs: Mapping[str, str | EnvSpec | Callable[[], gym.Env]],
        algorithm: type[BaseAlgorithm],
        policy: str | type[BasePolicy],
        timesteps: int,
        n_envs: int,
        algorithm_kwargs: Mapping[str, Any],
    ) -> list[EnvTask]:
        """
        :param task: of each environment
        :raises ValueError: as the constructor
        """
        observed = observed_algorithm(algorithm)
        if isinstance(policy, str) and policy not in observed.policy_aliases:
            known_policies = ", ".join(observed.policy_aliases)
            raise ValueError(f"{observed.plain().__name__} has no policy {policy!r}: choose one of {known_policies}")
        integer("the number of tasks", len(envs), least=1)
        known = {*inspect.signature(observed).parameters, *inspect.signature(observed.plain()).parameters}
        known -= {"policy", "env", "seed", "device", "learner", "scope", "tensorboard_log", "_init_setup_model"}
        for name in algorithm_kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"algorithm_kwargs has {name!r}, which {observed.plain().__name__} does not take here{hint}"
                )
        timesteps, kwargs = integer("timesteps", timesteps, least=1), python_numbers(algorithm_kwargs)
        check_learns(observed, timesteps, kwargs)
        n_envs = integer("n_envs", n_envs, least=1)
        warn_of_rollouts(observed, timesteps, n_envs, kwargs)
        return [task(str(name), env, observed, policy, timesteps, n_envs, kwargs) for name, env in envs.items()]

    def check_learner(self, learner: MetaLearner) -> None:
        self._tasks[0].algorithm.check_learner(learner)

    def finetuned(self, strategies: str) -> EnvTasks:
        first, family = self._tasks[0], copy.copy(self)
        held = FineTune(*read_strategies(strategies))
        with closing(first.make_vec_env("encoder", n_envs=min(2, first.n_envs))) as env, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # as in draw_initialization
            held.check(first.make_model(env, first.steps, None, seed=0), first.steps, first.n_envs)
        family._tasks = [replace(task, finetune=strategies) for task in self._tasks]
        return family

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
                model = first.make_model(env, 1, scope, seed)
        # How SB3 and torch say what a network is not for.
        except (AssertionError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{first.name} can't be learned with {first.policy}: {' '.join(str(error).split())}"
            ) from error
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
                task.algorithm.check_env(task.name, env)
                env = BaseAlgorithm._wrap_env(env)  # as the network sees it
            except AssertionError as error:
                raise ValueError(f"{task.name} can't be learned: {' '.join(str(error).split())}") from None
            finally:
                env.close()
            theirs = env.observation_space, env.action_space
            needed = {"observations": network_input(theirs[0]) == network_input(ours[0])}
            if scope not in ("encoder", "mlp_extractor"):  # which hold no layer of actions
                needed["actions"] = theirs[1] == ours[1]
            for (what, same), mine, other in zip(needed.items(), ours, theirs, strict=False):
                if not same:
                    raise ValueError(
                        f"scope={scope!r} needs the same {what} in every task, "
                        f"but {self._tasks[0].name} has {mine} and {task.name} {other}"
                    )

    def __repr__(self) -> str:
        names = [task.name for task in self._tasks]
        shown = ", ".join(names if len(names) <= 5 else [*names[:3], "...", names[-1]])
        first = repr(self._tasks[0]).partition(": ")[2].removesuffix(")")
        return f"{type(self).__name__}({one_line(f'{len(names)} tasks ({shown}): {first}')})"

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
                _, _, _, infos = env.step(np.array(self._actions(env)))
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

    def _actions(self, env: VecEnv) -> list[Any]:
        space = env.action_space
        if self.task.algorithm.plain().__name__ != "MaskablePPO":
            return [space.sample() for _ in range(env.num_envs)]
        masks = [np.asarray(mask, dtype=np.int8) for mask in env.env_method("action_masks")]
        if isinstance(space, spaces.Discrete):
            return [space.sample(mask) for mask in masks]
        if isinstance(space, spaces.MultiDiscrete):
            ends = np.cumsum(space.nvec)[:-1]
            return [space.sample(tuple(np.split(mask, ends))) for mask in masks]
        raise ValueError(f"{self.name}: no random policy with masks for {space}")


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


def one_line(text: str, most: int = 200) -> str:
    """:param most: characters"""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def check_learns(algorithm: type[ObservedTraining], timesteps: int, algorithm_kwargs: Mapping[str, Any]) -> None:
    """:raises ValueError: if no update is made in so many steps"""
    starts = {**default_arguments(algorithm), **algorithm_kwargs}.get("learning_starts", 0)
    if timesteps <= starts:
        raise ValueError(
            f"timesteps={timesteps} ends before the first update: learning_starts of {algorithm.plain().__name__} "
            f"is {starts}"
        )


def warn_of_rollouts(
    algorithm: type[ObservedTraining], timesteps: int, n_envs: int, algorithm_kwargs: Mapping[str, Any]
) -> None:
    """Where whole rollouts are many more steps than were asked for, as of PPO's, which are long."""
    if algorithm.replays():
        return
    n_steps = {**default_arguments(algorithm), **algorithm_kwargs}["n_steps"]
    rollout = n_steps * n_envs
    whole = -(-timesteps // rollout) * rollout
    if whole > 1.1 * timesteps:
        warnings.warn(
            f"{timesteps:,} timesteps are {whole:,} of each visit: a rollout has {rollout:,} ({n_envs} environments, "
            f"{n_steps:,} steps in each). Fewer n_steps keep to what was asked for",
            stacklevel=4,  # where the tasks are made
        )


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
