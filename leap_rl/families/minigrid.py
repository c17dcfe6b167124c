"""A family of rooms to cross. Needs the extra ``minigrid``."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TransformAction, TransformObservation

from leap_rl.families.family import Family


def make_minigrid(layout: float) -> gym.Env:  # type: ignore[type-arg]
    """
    A room of MiniGrid, divided by a wall with one gap.

    :param layout: says where wall, gap, agent and goal are; its whole part is a seed
    """
    from leap_rl.families.one_wall import CELLS, OneWall, seen

    env = TransformObservation(OneWall(int(layout)), seen, gym.spaces.Box(0, 1, (CELLS,), np.float32))
    # Turn left, turn right, go on: nothing can be picked up here.
    return TransformAction(env, lambda action: action, gym.spaces.Discrete(3))


MINIGRID = Family(
    "minigrid",
    make_minigrid,
    {"layout": (0, 2**31)},
    module="minigrid",
    documentation="MiniGrid (extra minigrid): a room with a wall; where its gap, the agent and the goal are",
)
