"""Which of SB3's policies the commands choose, by what is observed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from leap_rl.commands.tasks import make_tasks, policy
from leap_rl.settings import AgentSettings, AtariSettings

spaces = gym.spaces
OBSERVED: dict[str, gym.Space[Any]] = {
    "Vector-v0": spaces.Box(-1, 1, (3,)),
    "Last-v0": spaces.Box(0, 255, (36, 50, 3), np.uint8),
    "First-v0": spaces.Box(0, 255, (1, 60, 36), np.uint8),
    "Small-v0": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "Floats-v0": spaces.Box(0, 1, (40, 40, 3), np.float32),
    "Parts-v0": spaces.Dict({"eye": spaces.Box(0, 255, (40, 40, 3), np.uint8), "arm": spaces.Discrete(3)}),
    "Number-v0": spaces.Discrete(5),
}


class Observed(gym.Env[Any, Any]):
    action_space = spaces.Discrete(2)

    def __init__(self, observation_space: gym.Space[Any], render_mode: str | None = None) -> None:
        self.observation_space = observation_space


@pytest.fixture(autouse=True)
def ids() -> Iterator[None]:
    for env_id, space in OBSERVED.items():
        gym.register(env_id, Observed, kwargs={"observation_space": space})
    yield
    for env_id in OBSERVED:
        del gym.registry[env_id]


@pytest.mark.parametrize(
    ("env", "network", "expected"),
    [
        ("", None, "CnnPolicy"),
        ("", "mnih2013", "CnnPolicy"),
        ("Vector-v0", None, "MlpPolicy"),
        ("Number-v0", "mlp", "MlpPolicy"),
        ("Floats-v0", None, "MlpPolicy"),
        ("Last-v0", None, "CnnPolicy"),
        ("First-v0", "nature", "CnnPolicy"),
        ("Last-v0", "mlp", "MlpPolicy"),
        ("Small-v0", None, "MlpPolicy"),
        ("Parts-v0", None, "MultiInputPolicy"),
        ("ALE/Pong-v5", None, "CnnPolicy"),
    ],
)
def test_the_policy_is_one_that_sb3_can_make_of_what_is_observed(env: str, network: Any, expected: str) -> None:
    assert policy(AgentSettings(network=network), env) == expected
    if env.endswith("-v0"):
        PPO(expected, make_vec_env(env, 1), n_steps=4, batch_size=4, device="cpu")


@pytest.mark.parametrize(
    ("env", "network", "message"),
    [
        ("", "mlp", "must be nature or nature-ln or mnih2013, since games are images"),
        ("Vector-v0", "nature", "must be mlp$"),
        ("Small-v0", "mnih2013", "must be mlp$"),
        ("Parts-v0", "nature", "observations of several parts have their own"),
    ],
)
def test_networks_that_do_not_fit(env: str, network: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy(AgentSettings(network=network), env)


def test_images_by_their_ids_share_an_encoder_though_their_actions_differ() -> None:
    tasks = make_tasks([], ["Last-v0", "First-v0"], 64, AgentSettings(algorithm="PPO", n_envs=1), AtariSettings())
    assert tasks[0].policy == "CnnPolicy"
    with pytest.raises(ValueError, match="needs the same observations"):
        tasks.draw_initialization(None, 0)
    tasks = make_tasks([], ["ALE/Pong-v5", "ALE/Breakout-v5"], 64, AgentSettings(n_envs=1), AtariSettings())
    assert tasks.draw_initialization(None, 0).scope == "encoder"
