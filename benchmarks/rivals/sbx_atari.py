"""Stable-Baselines Jax: PPO, its network and update compiled by XLA, on SB3's wrappers or on EnvPool."""

from __future__ import annotations

from typing import Any

from answering import answer
from sb3_atari import SB3Agent, make_env
from sbx import PPO


def make(settings: dict[str, Any]) -> SB3Agent:
    return SB3Agent(PPO("CnnPolicy", make_env(settings), seed=settings["seed"], **settings["kwargs"]))


if __name__ == "__main__":
    answer(make, ["sbx-rl", "jax", "flax", "stable-baselines3", "ale-py", "envpool", "numpy"])
