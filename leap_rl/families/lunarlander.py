"""A family of moons to land on. Needs the extra ``box2d``."""

from __future__ import annotations

import gymnasium as gym

from leap_rl.families.family import Family


class SwappedEngines(gym.ActionWrapper):  # type: ignore[type-arg]
    """The left engine is the right one."""

    def action(self, action: int) -> int:
        return {1: 3, 3: 1}.get(int(action), action)


def make_lunarlander(gravity: float, wind: float, turbulence: float, swapped: bool) -> gym.Env:  # type: ignore[type-arg]
    """
    :param gravity: downwards, in Gymnasium's unit, of which the moon of LunarLander-v3 has 10
    :param wind: largest force of the wind that pushes the lander sideways
    :param turbulence: largest torque of the wind that turns it
    :param swapped: whether the engines at the sides are exchanged
    """
    env = gym.make("LunarLander-v3", gravity=-gravity, enable_wind=True, wind_power=wind, turbulence_power=turbulence)
    return SwappedEngines(env) if swapped else env


LUNARLANDER = Family(
    "lunarlander",
    make_lunarlander,
    {"gravity": (6, 11.5), "wind": (0, 15), "turbulence": (0, 1.5)},
    every_second="swapped",
    module="Box2D",
    documentation="LunarLander-v3 (extra box2d): gravity, wind, turbulence; side engines swapped in half of them",
)
