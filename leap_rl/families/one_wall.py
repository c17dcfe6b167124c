"""The environment of the family MiniGrid: a room that a wall with one gap divides. Needs the extra ``minigrid``."""

from __future__ import annotations

from typing import Any

import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Goal, Wall
from minigrid.minigrid_env import MiniGridEnv

SIZE = 9
"""Cells of the room in each direction, its outer walls included."""
EPISODE_STEPS = 160
MISSION = "get to the green goal square"
CELLS = 7 * 7 * 3
"""Numbers in an observation."""
LARGEST = np.array([10, 5, 3], dtype=np.float32)
"""What a cell's kind, colour and state are divided by."""


def _mission() -> str:
    return MISSION


class OneWall(MiniGridEnv):
    """
    The agent stands on one side of the wall, the goal on the other. The reward is
    1 − 0.9 · steps / ``EPISODE_STEPS`` at the goal and 0 before, as in MiniGrid's own rooms. Every episode has the same
    layout.

    :param layout: seed of where the wall is, its gap, the agent and the goal
    """

    def __init__(self, layout: int) -> None:
        self.layout = layout
        super().__init__(mission_space=MissionSpace(_mission), grid_size=SIZE, max_steps=EPISODE_STEPS)

    def _gen_grid(self, width: int, height: int) -> None:
        rng = np.random.default_rng(self.layout)
        inside = (1, SIZE - 1)
        is_row = bool(rng.integers(2))
        wall, gap = int(rng.integers(2, SIZE - 2)), int(rng.integers(*inside))

        def cell(across: int, along: int) -> tuple[int, int]:
            """:param across: the wall; :param along: it"""
            return (along, across) if is_row else (across, along)

        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        for along in range(*inside):
            if along != gap:
                self.grid.set(*cell(wall, along), Wall())
        sides = [
            cell(int(rng.integers(*side)), int(rng.integers(*inside))) for side in ((1, wall), (wall + 1, SIZE - 1))
        ]
        here = int(rng.integers(2))
        self.agent_pos, self.agent_dir = sides[here], int(rng.integers(4))
        self.put_obj(Goal(), *sides[1 - here])
        self.mission = MISSION


def seen(observation: dict[str, Any]) -> np.ndarray:
    """The 7×7 cells before the agent, each with its kind, colour and state, in [0, 1], shape ``(147,)``."""
    return np.asarray(observation["image"] / LARGEST, dtype=np.float32).ravel()
