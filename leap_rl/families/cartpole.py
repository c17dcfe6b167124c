"""A family of CartPoles, for recipes that are tried within minutes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TransformAction

from leap_rl.families.family import Family


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
    return TransformAction(env, lambda action: 1 - action, env.action_space) if swapped else env


CARTPOLE = Family(
    "cartpole",
    make_cartpole,
    {"length": (0.25, 1.5), "mass": (0.05, 0.5), "force": (5, 15), "gravity": (7, 15)},
    every_second="swapped",
    documentation="CartPole-v1: length and mass of the pole, force of a push, gravity; actions swapped in half of them",
)
