"""A training that falls behind those from scratch says so."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import KVWriter, Logger

from leap_rl.transfer import WatchTransfer

STEPS = np.arange(0, 10_001, 100)


class Memory(KVWriter):
    def __init__(self) -> None:
        self.leads: list[float] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.leads += [v for k, v in key_values.items() if k == "transfer/lead"]


class Model:
    """As much of a model as a callback asks for: steps, and a logger."""

    def __init__(self, memory: Memory) -> None:
        self.num_timesteps = 0
        self.logger = Logger(None, [memory])

    def get_env(self) -> None:
        return None


def watched(returns: list[float], scratch: list[tuple[np.ndarray, np.ndarray]]) -> tuple[WatchTransfer, list[float]]:
    """One episode of 100 steps for each return."""
    memory = Memory()
    model = Model(memory)
    watch = WatchTransfer(scratch, 15_000)
    watch.init_callback(model)  # type: ignore[arg-type]
    for value in returns:
        model.num_timesteps += 100
        watch.update_locals({"infos": [{"episode": {"r": value}}, {}]})
        watch.on_step()
        watch.on_rollout_end()
        model.logger.dump(model.num_timesteps)
    return watch, memory.leads


def scratch(*levels: float) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(STEPS, np.full(len(STEPS), level)) for level in levels]


def test_falling_behind_is_said_once_until_it_caught_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        watch, leads = watched([1.0] * 60, scratch(9.0, 10.0, 11.0))
    assert watch.is_behind and len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "negative transfer after 5,000 steps" in message and "returned 1.0" in message and "10.0 ± 1.0" in message
    assert leads == [pytest.approx(1 - 10)] * 11
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        watch, _ = watched([1.0] * 55 + [30.0] * 60 + [-200.0] * 30, scratch(9.0, 10.0, 11.0))
    assert len(caplog.records) == 2


def test_within_the_seeds_spread_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        watch, leads = watched([8.0] * 60, scratch(9.0, 10.0, 11.0))
    assert not caplog.records and not watch.is_behind and leads[-1] == pytest.approx(-2)


def test_it_compares_at_the_same_step() -> None:
    """Those from scratch learn late: nobody is behind before that, nor compared before they ended an episode."""
    late = [(np.array([5_500, 8_000]), np.array([v, 100.0 + v])) for v in (0.0, 1.0, 2.0)]
    _, leads = watched([1.0] * 100, late)
    assert len(leads) == 100 - 54 and leads[0] == 0.0 and leads[-1] < -50


def test_after_the_end_of_the_others_nothing_is_said() -> None:
    _, leads = watched([1.0] * 200, scratch(9.0, 10.0, 11.0))
    assert len(leads) == 150 - 49


def test_a_spread_needs_three_seeds() -> None:
    for curves in ([], scratch(1.0, 2.0), [*scratch(1.0, 2.0), (np.array([]), np.array([]))]):
        with pytest.raises(ValueError, match="at least 3 seeds are needed"):
            WatchTransfer(curves, 10_000)
