"""LeapA2C and LeapPPO, observed with the energy, in the environment that runs the benchmark."""

from __future__ import annotations

from typing import Any

from answering import answer
from sb3_atari import SB3Agent

from leap_rl import Leap, LeapA2C, LeapPPO, make_atari_env


def make(settings: dict[str, Any]) -> SB3Agent:
    algorithm = {"A2C": LeapA2C, "PPO": LeapPPO}[settings["algorithm"]]
    env = make_atari_env(settings["game"], settings["n_envs"], settings["seed"], n_threads=settings["threads"])
    learner = Leap(metric="energy")
    model = algorithm("CnnPolicy", env, learner=learner, seed=settings["seed"], device="cpu", **settings["kwargs"])
    return SB3Agent(model)


if __name__ == "__main__":
    answer(make, ["stable-baselines3", "torch", "ale-py", "numpy"])
