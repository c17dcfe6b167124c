"""Where the time of a learning process goes, in TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leap_rl import LeapA2C
from leap_rl.agents import LeapDQN
from tests.agents.test_kinds import REPLAY

STAGES = ("environment", "act", "learn", "observe")


@pytest.mark.parametrize("kind", [LeapA2C, LeapDQN])
def test_every_stage_has_its_time(kind: type, tmp_path: Path) -> None:
    model: Any = kind("MlpPolicy", "CartPole-v1", device="cpu", **(REPLAY if kind is LeapDQN else {}))
    env = model.env
    assert isinstance(env, DummyVecEnv)
    slow = env.envs[0].unwrapped
    step = slow.step
    slow.step = lambda action: (time.sleep(1e-3), step(action))[1]
    model.set_logger(configure(str(tmp_path), ["tensorboard"]))
    started = time.perf_counter()
    model.learn(400, log_interval=4)  # of DQN in episodes, of which there are some twenty
    spent = time.perf_counter() - started
    seconds = {name: getattr(model._stages, name) for name in STAGES}
    assert all(second > 0 for second in seconds.values()), seconds
    assert 0.4 <= seconds["environment"] and sum(seconds.values()) <= spent
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name in STAGES:
        assert events.Scalars(f"time/{name}_us")[-1].value > 0
    assert events.Scalars("time/environment_us")[-1].value >= 1_000


def test_environments_can_be_saved_while_they_are_played(tmp_path: Path) -> None:
    """As SB3's CheckpointCallback does; what somebody put in place of their step stays."""
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0))
    own = env.step
    env.step = own  # type: ignore[method-assign]
    model = LeapA2C("MlpPolicy", env, device="cpu", seed=0)
    model.learn(40, callback=CheckpointCallback(10, str(tmp_path), save_vecnormalize=True))
    assert vars(env)["step"] is own
    del env.step
    saved = sorted(tmp_path.glob("*vecnormalize*.pkl"))
    assert saved and VecNormalize.load(str(saved[0]), make_vec_env("CartPole-v1", 2)).obs_rms.count > 1
    plain = A2C("MlpPolicy", VecNormalize(make_vec_env("CartPole-v1", 2, seed=0)), device="cpu", seed=0).learn(40)
    for name, tensor in plain.policy.state_dict().items():
        assert torch.equal(tensor, model.policy.state_dict()[name])
