"""EnvPool's Atari games, as every rival here has them."""

from __future__ import annotations

from typing import Any

import envpool


def make_pool(game: str, n_envs: int, seed: int, n_threads: int) -> Any:
    """EnvPool's own environments, synchronous, by SB3's preprocessing as far as EnvPool has it."""
    return envpool.make(
        f"{game}-v5",
        env_type="gymnasium",
        num_envs=n_envs,
        num_threads=n_threads,
        seed=seed,
        stack_num=4,
        frame_skip=4,
        noop_max=30,
        episodic_life=True,
        reward_clip=True,
        use_fire_reset=True,
        repeat_action_probability=0.0,
    )
