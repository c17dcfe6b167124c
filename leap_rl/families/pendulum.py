"""A family of pendulums: continuous actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TransformAction

from leap_rl.families.family import Family


def make_pendulum(gravity: float, length: float, mass: float, mirrored: bool) -> gym.Env:  # type: ignore[type-arg]
    """
    :param gravity: in metres per square second
    :param length: in metres
    :param mass: in kilograms
    :param mirrored: whether the torque has the other sign
    """
    env = gym.make("Pendulum-v1")
    pendulum: Any = env.unwrapped
    pendulum.g, pendulum.l, pendulum.m = gravity, length, mass
    return TransformAction(env, lambda torque: -torque, env.action_space) if mirrored else env


PENDULUM = Family(
    "pendulum",
    make_pendulum,
    {"gravity": (7, 13), "length": (0.7, 1.3), "mass": (0.7, 1.3)},
    every_second="mirrored",
    documentation="Pendulum-v1, continuous actions: gravity, length, mass; the torque mirrored in half of them",
)
