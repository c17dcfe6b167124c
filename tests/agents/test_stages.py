"""Where the time of a learning process goes, in TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
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
    assert "step" not in vars(env)
    seconds = {name: getattr(model._stages, name) for name in STAGES}
    assert all(second > 0 for second in seconds.values()), seconds
    assert 0.4 <= seconds["environment"] and sum(seconds.values()) <= spent
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name in STAGES:
        assert events.Scalars(f"time/{name}_us")[-1].value > 0
    assert events.Scalars("time/environment_us")[-1].value >= 1_000


def test_an_error_in_the_environment_leaves_it_as_it_was() -> None:
    model = LeapA2C("MlpPolicy", "CartPole-v1", device="cpu")
    env = model.env
    assert isinstance(env, DummyVecEnv)

    def fails(action: Any) -> Any:
        raise OSError("broken")

    env.envs[0].unwrapped.step = fails
    with pytest.raises(OSError):
        model.learn(10)
    assert "step" not in vars(env)
