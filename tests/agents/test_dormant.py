"""Dormant units are drawn anew, and nothing else changes."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.torch_layers import NatureCNN
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from leap_rl import AtariTasks, EnvTasks, Initialization, Leap, LeapA2C, MetaTrainer, Mnih2013CNN
from leap_rl.agents import RecycleDormant
from leap_rl.agents.dormant import random_observations, recycle
from leap_rl.core import InProcess
from leap_rl.transfer import NatureLNCNN

GAMES = ["Pong", "Qbert"]
LEAP = Leap(skip_updates=0)


def tasks() -> AtariTasks:
    return AtariTasks(LeapA2C, "CnnPolicy", GAMES, 40, n_envs=2, algorithm_kwargs={"arithmetic": "fast"})


def encoder(kind: type[nn.Module]) -> nn.Module:
    """Drawn in one way."""
    torch.manual_seed(0)
    return kind(tasks()[0].make_vec_env("encoder", 1).observation_space)


def kill(net: nn.Module, layer: int, units: list[int]) -> None:
    part = net.linear[0] if layer < 0 else net.cnn[layer]  # type: ignore[index, union-attr]
    with torch.no_grad():
        part.bias[units] = -1e6  # type: ignore[index, union-attr]


@pytest.mark.parametrize("kind", [NatureCNN, Mnih2013CNN])
def test_dormant_units_wake_and_no_other_feature_changes(kind: type[nn.Module]) -> None:
    observations = torch.from_numpy(random_observations(tasks()[0], 32, 0)) / 255
    net = encoder(kind)
    random = copy.deepcopy(net)
    net.linear[0].weight.data *= 3  # type: ignore[index, union-attr]
    net.cnn[0].weight.data *= 2  # type: ignore[index, union-attr]
    kill(net, 0, [3])
    kill(net, 2, [1, 5])
    killed = list(range(0, 200, 2))
    kill(net, -1, killed)
    before = net(observations)
    were_dead = int((before.amax(dim=0) <= 0).sum())
    dead_filters = net.cnn[:4](observations).amax(dim=(0, 2, 3)) <= 0  # type: ignore[index]
    assert recycle(net, random, observations) >= 103
    after = net(observations)
    alive = before.amax(dim=0) > 0
    assert torch.equal(before[:, alive], after[:, alive]) and alive.sum() == before.shape[1] - were_dead
    # As many are positive as in a random network (on one game not all are), and as large.
    now, drawn = after[:, killed], random(observations)[:, killed]
    assert 0.7 < (now.amax(dim=0) > 0).sum() / (drawn.amax(dim=0) > 0).sum() < 1.4
    assert 0.7 < now.square().mean().sqrt() / drawn.square().mean().sqrt() < 1.4
    # A filter that was dead says something now, yet only to those that are new as well.
    assert net.cnn[:2](observations)[:, 3].max() > 0  # type: ignore[index]
    heard = net.cnn[2].weight[:, 3].flatten(1).any(dim=1)  # type: ignore[index, union-attr]
    assert torch.equal(heard, dead_filters) and heard[[1, 5]].all()


def trainer(initialization: Initialization | None = None, **kwargs: object) -> MetaTrainer:
    return MetaTrainer(
        tasks(), LEAP, 1, "encoder", initialization=initialization, engine=InProcess(), seed=3, device="cpu", **kwargs
    )


def dead() -> Initialization:
    """In a layer below as well: what is drawn anew above it has a size that depends on it."""
    dead = tasks().draw_initialization("encoder", 5)
    dead.parameters["encoder.cnn.4.bias"][:9] = -1e6
    dead.parameters["encoder.linear.0.bias"][:300] = -1e6
    return dead


def recycled_units(run_dir: Path) -> list[float]:
    events = EventAccumulator(str(run_dir / "tensorboard" / "Leap_1"))
    events.Reload()
    return [event.value for event in events.Scalars("meta/recycled_units")]


def test_meta_training_recycles_before_each_meta_step_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole, half = (
        trainer(dead(), run_dir=tmp_path / name, tensorboard_log=tmp_path / name / "tensorboard")
        for name in ("whole", "half")
    )
    whole.learn(2, RecycleDormant())
    assert (whole.initialization.parameters["encoder.linear.0.bias"] > -1).all()
    half.learn(1, RecycleDormant())
    resumed = MetaTrainer.load(tmp_path / "half", tasks(), learner=LEAP, engine=InProcess())
    resumed.learn(1, RecycleDormant())
    for name, tensor in whole.initialization.parameters.items():
        assert torch.equal(resumed.initialization.parameters[name], tensor), name
    found = [recycled_units(tmp_path / name) for name in ("whole", "half")]
    assert found[0] == found[1] and found[0][0] >= 309
    counted = [run.initialization.config["recycled_units"] for run in (whole, half, resumed)]
    assert counted == [sum(found[0]), found[0][0], sum(found[0])]


def test_images_in_any_layout_are_fed_as_the_network_sees_them() -> None:
    """Of a world that is the same but for the order of its axes, the same units wake."""

    class Bright(gym.Env[Any, Any]):
        action_space = gym.spaces.Discrete(2)

        def __init__(self, last: bool) -> None:
            self.last = last
            self.observation_space = gym.spaces.Box(0, 255, (40, 44, 3) if last else (3, 40, 44), np.uint8)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.seen(), {}

        def step(self, action: Any) -> Any:
            return self.seen(), 0.0, False, False, {}

        def seen(self) -> Any:
            seen = self.np_random.integers(0, 256, (3, 40, 44), dtype=np.uint8)
            return seen.transpose(1, 2, 0) if self.last else seen

    results = []
    for last in (False, True):
        envs = {name: partial(Bright, last) for name in ("a", "b")}
        tasks = EnvTasks(LeapA2C, "CnnPolicy", envs, 20, n_envs=2)
        theta = tasks.draw_initialization(None, 5)
        theta.parameters["encoder.linear.0.bias"][:300] = -1e6
        meta = MetaTrainer(tasks, LEAP, 2, initialization=theta, engine=InProcess(), seed=3, device="cpu")
        results.append(meta.learn(1, RecycleDormant()).initialization)
    first, last = results
    assert first.config["recycled_units"] == last.config["recycled_units"] >= 300
    for name, tensor in first.parameters.items():
        torch.testing.assert_close(tensor, last.parameters[name], rtol=1e-3, atol=1e-4)  # sums in another order


def test_what_can_not_be_recycled() -> None:
    poles = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 40, n_envs=2)
    with pytest.raises(ValueError, match="recycled in the encoder of images, not in the scope 'all'"):
        MetaTrainer(poles, LEAP, 1, engine=InProcess(), device="cpu").learn(1, RecycleDormant())
    with pytest.raises(ValueError, match="averaged: leave one of the two out"):
        trainer(average_from=1).learn(1, RecycleDormant())
    kwargs = {"policy_kwargs": {"features_extractor_class": NatureLNCNN, "net_arch": []}}
    normalized = AtariTasks(LeapA2C, "CnnPolicy", ["Pong"], 40, n_envs=2, algorithm_kwargs=kwargs)
    with pytest.raises(ValueError, match="NatureLNCNN can't be recycled: a normalization follows its layers"):
        RecycleDormant.check(normalized, normalized.draw_initialization(None, 0))
