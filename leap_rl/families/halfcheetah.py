"""
Half cheetahs that are to run at different speeds, after the MAML paper (Finn et al., ICML 2017, section 5.3). Needs the
extra ``mujoco``.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym

from leap_rl.families.family import Family

EPISODE_STEPS = 200
"""As in the paper."""


class TargetVelocity(gym.Wrapper):  # type: ignore[type-arg]
    """
    The reward is −|v − v*| − the control cost, in place of v − the control cost.

    :param env: HalfCheetah
    :param velocity: v*, in metres per second
    """

    def __init__(self, env: gym.Env, velocity: float) -> None:  # type: ignore[type-arg]
        super().__init__(env)
        self.velocity = velocity

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        reward = info["reward_ctrl"] - abs(info["x_velocity"] - self.velocity)
        return observation, reward, terminated, truncated, info


def make_halfcheetah(velocity: float) -> gym.Env:  # type: ignore[type-arg]
    """
    HalfCheetah-v5 with the reward of the paper's code (cbfinn/maml_rl, ``half_cheetah_env_rand.py``): its control cost
    has half the weight of Gymnasium's. Unlike there, v is the speed of the torso's joint, and observations are
    Gymnasium's.

    :param velocity: to run at, in metres per second
    """
    env = gym.make("HalfCheetah-v5", ctrl_cost_weight=0.05, max_episode_steps=EPISODE_STEPS)
    return TargetVelocity(env, velocity)


HALFCHEETAH = Family(
    "halfcheetah",
    make_halfcheetah,
    {"velocity": (0, 2)},
    module="mujoco",
    documentation="HalfCheetah-v5 (extra mujoco), continuous actions: the speed to run at, as in the MAML paper",
)
