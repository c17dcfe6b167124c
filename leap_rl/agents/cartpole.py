"""A family of CartPoles: tasks that share all but their physics, for recipes that are tried within minutes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from leap_rl.agents.tasks import EnvTasks

Variants = Literal["training", "validation", "test"]

N_VARIANTS: dict[Variants, int] = {"training": 60, "validation": 6, "test": 10}


class SwappedActions(gym.ActionWrapper):  # type: ignore[type-arg]
    """Left is right."""

    def action(self, action: int) -> int:
        return 1 - action


def make_cartpole(length: float, mass: float, force: float, gravity: float, swapped: bool) -> gym.Env:  # type: ignore[type-arg]
    """
    :param length: half the pole's, in metres
    :param mass: of the pole, in kilograms
    :param force: of a push, in newtons
    :param gravity: in metres per square second
    :param swapped: whether the two actions are exchanged
    """
    env = gym.make("CartPole-v1")
    pole: Any = env.unwrapped
    pole.length, pole.masspole, pole.force_mag, pole.gravity = length, mass, force, gravity
    pole.total_mass = pole.masspole + pole.masscart
    pole.polemass_length = pole.masspole * pole.length
    return SwappedActions(env) if swapped else env


def cartpole_family(
    kind: Variants,
    timesteps: int,
    n_envs: int,
    algorithm: type[BaseAlgorithm],
    algorithm_kwargs: Mapping[str, Any],
) -> EnvTasks:
    """
    The variants of one kind, always the same: pole length 0.25 to 1.5, pole mass 0.05 to 0.5, force 5 to 15 and gravity
    7 to 15, uniform; every second one has its actions swapped.

    :param kind: ``"training"`` (60 variants), ``"validation"`` (6) or ``"test"`` (10)
    :param timesteps: budget of one visit, in steps summed over environments
    :param n_envs: environments in parallel
    :param algorithm: as ``EnvTasks`` takes it
    :param algorithm_kwargs: of its constructor; with those of the preset ``cartpole`` PPO learns a variant within some
        12,000 steps
    """
    rng = np.random.default_rng(get_args(Variants).index(kind))
    envs = {}
    for i in range(N_VARIANTS[kind]):
        length, mass = rng.uniform(0.25, 1.5), rng.uniform(0.05, 0.5)
        force, gravity = rng.uniform(5, 15), rng.uniform(7, 15)
        envs[f"{kind}-{i}"] = partial(make_cartpole, length, mass, force, gravity, swapped=i % 2 == 1)
    return EnvTasks(algorithm, "MlpPolicy", envs, timesteps, n_envs, algorithm_kwargs)
