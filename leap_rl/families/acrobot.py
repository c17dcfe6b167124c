"""A family of Acrobots."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TransformAction

from leap_rl.families.family import Family


def make_acrobot(
    length_1: float, length_2: float, mass_1: float, mass_2: float, torque: float, swapped: bool
) -> gym.Env:  # type: ignore[type-arg]
    """
    :param length_1: of the upper link, in metres; its mass is in the middle
    :param length_2: of the lower link
    :param mass_1: of the upper link, in kilograms
    :param mass_2: of the lower link
    :param torque: at the joint between the two, in newton metres
    :param swapped: whether the two directions are exchanged
    """
    env = gym.make("Acrobot-v1")
    arm: Any = env.unwrapped
    arm.LINK_LENGTH_1, arm.LINK_LENGTH_2 = length_1, length_2
    arm.LINK_COM_POS_1, arm.LINK_COM_POS_2 = length_1 / 2, length_2 / 2
    arm.LINK_MASS_1, arm.LINK_MASS_2 = mass_1, mass_2
    arm.AVAIL_TORQUE = [-torque, 0.0, torque]
    return TransformAction(env, lambda action: 2 - action, env.action_space) if swapped else env


ACROBOT = Family(
    "acrobot",
    make_acrobot,
    {
        "length_1": (0.7, 1.3),
        "length_2": (0.7, 1.3),
        "mass_1": (0.7, 1.3),
        "mass_2": (0.7, 1.3),
        "torque": (0.8, 1.5),
    },
    every_second="swapped",
    documentation="Acrobot-v1: length and mass of both links, the torque; its directions swapped in half of them",
)
