"""A family of rooms to cross. Needs the extra ``minigrid``."""

from __future__ import annotations

import gymnasium as gym

from leap_rl.families.family import Family


def make_minigrid(layout: float) -> gym.Env:  # type: ignore[type-arg]
    """
    A room of MiniGrid, divided by a wall with one gap.

    :param layout: says where wall, gap, agent and goal are; its whole part is a seed
    """
    from leap_rl.families.one_wall import Moves, OneWall, View

    return Moves(View(OneWall(int(layout))))


MINIGRID = Family(
    "minigrid",
    make_minigrid,
    {"layout": (0, 2**31)},
    module="minigrid",
    documentation="MiniGrid (extra minigrid): a room with a wall; where its gap, the agent and the goal are",
)
