"""A family of moons to land on. Needs the extra ``box2d``."""

from __future__ import annotations

import gymnasium as gym
from gymnasium.wrappers import TransformAction

from leap_rl.families.family import Family

SWAPPED = (0, 3, 2, 1)
"""Nothing, the right engine in place of the left, the main one, the left in place of the right."""


def make_lunarlander(gravity: float, wind: float, turbulence: float, swapped: bool) -> gym.Env:  # type: ignore[type-arg]
    """
    :param gravity: downwards, in Gymnasium's unit, of which the moon of LunarLander-v3 has 10
    :param wind: largest force of the wind that pushes the lander sideways
    :param turbulence: largest torque of the wind that turns it
    :param swapped: whether the engines at the sides are exchanged
    """
    env = gym.make("LunarLander-v3", gravity=-gravity, enable_wind=True, wind_power=wind, turbulence_power=turbulence)
    return TransformAction(env, lambda action: SWAPPED[int(action)], env.action_space) if swapped else env


LUNARLANDER = Family(
    "lunarlander",
    make_lunarlander,
    {"gravity": (6, 11.5), "wind": (0, 15), "turbulence": (0, 1.5)},
    every_second="swapped",
    module="Box2D",
    documentation="LunarLander-v3 (extra box2d): gravity, wind, turbulence; side engines swapped in half of them",
)
