"""Atari games as tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents import EnvTask, EnvTasks, ObservedTraining
from leap_rl.agents.tasks import check_names
from leap_rl.atari.emulator import action_set
from leap_rl.atari.games import game_name, rom_id
from leap_rl.atari.vec_env import PREPROCESSING_VERSION, make_atari_env
from leap_rl.core.initialization import versions
from leap_rl.running.as_json import as_json


@dataclass(frozen=True, repr=False)
class AtariTask(EnvTask):
    """
    One game to learn; see ``EnvTask``.

    :param env_kwargs: of ``make_atari_env``
    """

    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def make_vec_env(self, scope: str, n_envs: int | None = None) -> VecEnv:
        # A head that is shared needs the same actions in every game. A task has one core, so one thread.
        kwargs = {"full_action_space": scope == "all", "n_threads": 1, **self.env_kwargs}
        return make_atari_env(self.name, n_envs or self.n_envs, **kwargs)


class AtariTasks(EnvTasks):
    """
    Atari games to learn with one algorithm and one network. With the scope ``"all"`` every game has the full set
    of 18 actions.

    :param algorithm: ``LeapA2C``, ``LeapDQN`` or another observed one that takes discrete actions; plain ones are taken
        as those
    :param policy: ``"CnnPolicy"``; another network by ``algorithm_kwargs["policy_kwargs"]``
    :param games: in any spelling that ``make_atari_env`` takes
    :param timesteps: budget of one visit to a game, in steps summed over environments
    :param n_envs: environments in parallel
    :param algorithm_kwargs: of the algorithm's constructor
    :param env_kwargs: of ``make_atari_env``
    :raises ValueError: for what can't be learned
    """

    def __init__(
        self,
        algorithm: type[BaseAlgorithm],
        policy: str | type[BasePolicy],
        games: Sequence[str],
        timesteps: int,
        n_envs: int = 16,
        algorithm_kwargs: Mapping[str, Any] | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_names("games", games)
        names = [game_name(game) for game in games]
        check_names("games", names)
        for setting in ("mode", "difficulty"):
            if setting in (env_kwargs or {}):
                raise ValueError(
                    f"env_kwargs has {setting!r}, but a flavour of a game is a task of its own, and goes by its name, "
                    "such as SpaceInvaders-m3-d1"
                )
        self._env_kwargs = dict(env_kwargs or {})
        task = partial(AtariTask, env_kwargs=dict(self._env_kwargs))
        shared = (algorithm, policy, timesteps, n_envs, algorithm_kwargs or {})
        self._tasks = self._made(task, {name: name for name in names}, *shared)

    def _check_spaces(self, model: ObservedTraining, scope: str) -> None:
        """One preprocessing and, where the head is shared, all 18 actions, but of another scope."""
        if scope in ("encoder", "mlp_extractor") or self._env_kwargs.get("full_action_space", scope == "all"):
            return
        actions = {task.name: action_set(rom_id(task.name), full=False) for task in self._tasks}
        (first, ours), *others = actions.items()
        for name, theirs in others:
            if theirs != ours:
                raise ValueError(
                    f"scope={scope!r} needs the same actions in every task, but {first} has {len(ours)} and {name} "
                    f"{len(theirs)} of its own: give full_action_space=True"
                )

    def _config(self, model: ObservedTraining) -> dict[str, Any]:
        config = {**super()._config(model), "preprocessing": PREPROCESSING_VERSION}
        config["versions"] |= versions("ale-py")
        config["env_kwargs"] = as_json(self._env_kwargs)
        if model.scope == "all":
            assert model.env is not None
            config["action_meanings"] = model.env.env_method("get_action_meanings", indices=[0])[0]
        return config
