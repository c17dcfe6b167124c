"""A head of 18 actions in a game of fewer."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

from leap_rl import AtariTasks, EnvTasks, Initialization, LeapA2C, make_atari_env
from leap_rl.core import InitializationError

BOX = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture(scope="module")
def whole() -> Initialization:
    """Of scope ``"all"``, as meta-training draws and saves it."""
    tasks = AtariTasks(LeapA2C, "CnnPolicy", ["Pong", "Qbert"], 100, n_envs=1)
    initialization = tasks.draw_initialization("all", 0)
    initialization.parameters["action_net.weight"] = torch.arange(18.0)[:, None].repeat(1, 512)
    initialization.parameters["action_net.bias"] = torch.arange(18.0)
    return initialization


def model(game: str = "Breakout", kind: Any = A2C, **kwargs: Any) -> Any:
    return kind("CnnPolicy", make_atari_env(game, 1, seed=0), seed=1, device="cpu", **kwargs)


@pytest.mark.parametrize("kind", [A2C, PPO])
@pytest.mark.parametrize("game", ["Breakout", "Pong", "MsPacman", "Seaquest"])
def test_rows_are_taken_by_what_actions_mean(whole: Initialization, game: str, kind: Any) -> None:
    target = model(game, kind)
    whole.apply_to(target, head="map")
    meanings = target.env.env_method("get_action_meanings")[0]
    rows = [whole.config["action_meanings"].index(meaning) for meaning in meanings]
    assert target.policy.action_net.bias.tolist() == [float(row) for row in rows]
    assert target.policy.action_net.weight[:, 0].tolist() == [float(row) for row in rows]
    assert torch.equal(target.policy.features_extractor.cnn[0].weight, whole.parameters["encoder.cnn.0.weight"])
    assert torch.equal(target.policy.value_net.weight, whole.parameters["value_net.weight"])


def test_a_head_is_redrawn(whole: Initialization) -> None:
    target = model()
    before = target.policy.action_net.weight.detach().clone()
    whole.apply_to(target, head="redraw")
    assert torch.equal(target.policy.action_net.weight, before)
    assert torch.equal(target.policy.value_net.weight, whole.parameters["value_net.weight"])


def test_meanings_survive_the_disk(whole: Initialization, tmp_path: Any) -> None:
    whole.save(tmp_path / "init")
    target = model()
    Initialization.load(tmp_path / "init").apply_to(target, head="map")
    assert target.policy.action_net.bias.tolist() == [0.0, 1.0, 3.0, 4.0]  # NOOP, FIRE, RIGHT, LEFT of 18


def test_what_cannot_be_fitted(whole: Initialization) -> None:
    def refused(message: str, target: Any, initialization: Initialization = whole, head: Any = "map") -> None:
        state = {n: t.clone() for n, t in target.policy.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            initialization.apply_to(target, head=head)
        assert all(torch.equal(t, state[n]) for n, t in target.policy.state_dict().items())

    refused("for another network", model(), head=None)
    refused("head='mapp' is unknown", model(), head="mapp")
    refused("has none .its scope is 'encoder'", model(), Initialization.of(model(), "encoder"))
    refused("DQN has no head of an actor", model(kind=DQN, buffer_size=10))
    nameless = whole.clone()
    del nameless.config["action_meanings"]
    refused("does not say what its actions mean", model(), nameless)
    few = whole.clone()
    few.config["action_meanings"] = ["NOOP", "FIRE"]
    refused("has no action RIGHT, LEFT", model(), few)
    with pytest.raises(TypeError, match="is for SB3 models"):
        whole.apply_to(nn.Linear(1, 1), head="map")


@pytest.mark.parametrize(("learned", "new"), [("CartPole-v1", "Pendulum-v1"), ("Pendulum-v1", "CartPole-v1")])
def test_a_head_is_redrawn_between_discrete_and_continuous_actions(learned: str, new: str) -> None:
    def made(name: str) -> PPO:
        sizes = {"n_steps": 8, "batch_size": 8, "seed": 0, "device": "cpu"}
        env = gym.make(name)
        return PPO("MlpPolicy", gym.wrappers.TransformObservation(env, lambda o: o[:3], BOX), **sizes)

    start, target = Initialization.of(made(learned), "all"), made(new)
    before = {name: p.detach().clone() for name, p in target.policy.named_parameters()}
    start.apply_to(target, head="redraw")
    for name, p in target.policy.named_parameters():
        redrawn = name.startswith("action_net") or name == "log_std"
        assert torch.equal(p, before[name] if redrawn else start.parameters[name]), name
    target.learn(8)


def test_another_activation_is_another_network() -> None:
    relu = {"policy_kwargs": {"activation_fn": nn.ReLU}, "n_steps": 8}
    start = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 64, 1, relu).draw_initialization(None, 0)
    with pytest.raises(InitializationError, match=r"activation_fn \S+ReLU: \S+Tanh in the model"):
        start.apply_to(A2C("MlpPolicy", "CartPole-v1", device="cpu"))
    start.apply_to(A2C("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"activation_fn": nn.ReLU}))
