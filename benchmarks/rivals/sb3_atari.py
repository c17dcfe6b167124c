"""Stable-Baselines3's A2C and PPO, or those of a library with the same interface, on its wrappers or on EnvPool."""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium as gym
from answering import answer
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack

gym.register_envs(ale_py)  # here, since the processes of SubprocVecEnv import this file


class SB3Agent:
    """What is asked of any agent with SB3's interface."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def learn(self, steps: int) -> None:
        self.model.learn(steps, reset_num_timesteps=False)

    @property
    def steps(self) -> int:
        return self.model.num_timesteps

    @property
    def returns(self) -> list[float]:
        return [episode["r"] for episode in self.model.ep_info_buffer or ()]


def make_env(settings: dict[str, Any]) -> VecEnv:
    game, n_envs, seed = settings["game"], settings["n_envs"], settings["seed"]
    if settings["env"] == "EnvPool":
        from envpool_adapter import EnvPoolVecEnv

        return EnvPoolVecEnv(game, n_envs, seed, settings["threads"])
    kinds: dict[str, type[DummyVecEnv | SubprocVecEnv]]
    kinds = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}
    return VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", n_envs, seed, vec_env_cls=kinds[settings["env"]]), 4)


def make(settings: dict[str, Any]) -> SB3Agent:
    algorithm = {"A2C": A2C, "PPO": PPO}[settings["algorithm"]]
    env = make_env(settings)
    return SB3Agent(algorithm("CnnPolicy", env, seed=settings["seed"], device="cpu", **settings["kwargs"]))


if __name__ == "__main__":
    answer(make, ["stable-baselines3", "torch", "ale-py", "envpool", "numpy"])
