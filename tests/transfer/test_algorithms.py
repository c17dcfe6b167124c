"""An encoder in every algorithm of SB3 and sb3-contrib that has one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from leap_rl import Initialization, LeapA2C, LeapPPO
from leap_rl.core import InitializationError

STEPS = {"n_steps": 16}
OFF_POLICY = {"buffer_size": 100, "learning_starts": 8, "train_freq": 4}
ALGORITHMS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "A2C": (A2C, "CnnPolicy", STEPS),
    "PPO": (PPO, "CnnPolicy", {**STEPS, "batch_size": 16, "n_epochs": 1}),
    "PPO, nothing shared": (
        PPO,
        "CnnPolicy",
        {**STEPS, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"share_features_extractor": False}},
    ),
    "LeapA2C": (LeapA2C, "CnnPolicy", STEPS),
    "LeapPPO": (LeapPPO, "CnnPolicy", {**STEPS, "batch_size": 16, "n_epochs": 1}),
    "RecurrentPPO": (RecurrentPPO, "CnnLstmPolicy", {**STEPS, "batch_size": 16, "n_epochs": 1}),
    "MaskablePPO": (MaskablePPO, "CnnPolicy", {**STEPS, "batch_size": 16, "n_epochs": 1}),
    "TRPO": (TRPO, "CnnPolicy", {**STEPS, "batch_size": 16}),
    "DQN": (DQN, "CnnPolicy", OFF_POLICY),
    "QRDQN": (QRDQN, "CnnPolicy", OFF_POLICY),
    "SAC": (SAC, "CnnPolicy", {"buffer_size": 100, "learning_starts": 8, "train_freq": 8}),
}


class Pictures(gym.Env):
    """Noise; the action does nothing."""

    def __init__(self, continuous: bool = False, size: int = 84) -> None:
        self.observation_space = spaces.Box(0, 255, (4, size, size), np.uint8)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
        self.rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.rng.integers(0, 256, self.observation_space.shape, dtype=np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], 1.0, bool(self.rng.random() < 0.1), False, {}

    def action_masks(self) -> np.ndarray:
        return np.ones(3, dtype=bool)


def made(name: str, seed: int = 1, size: int = 84) -> Any:
    kind, policy, kwargs = ALGORITHMS[name]
    return kind(policy, Pictures(name == "SAC", size), seed=seed, device="cpu", **kwargs)


@pytest.fixture(scope="module")
def encoder() -> Initialization:
    return Initialization.of(made("A2C", seed=0), "encoder", {"network": "NatureCNN"})


def extractors(model: Any) -> list[nn.Module]:
    found = {id(m): m for m in model.policy.modules() if isinstance(m, NatureCNN)}
    return list(found.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_copy_of_the_encoder_is_filled_and_nothing_else(name: str, encoder: Initialization) -> None:
    model = made(name)
    before = {n: p.detach().clone() for n, p in model.policy.named_parameters() if "features_extractor" not in n}
    encoder.apply_to(model)
    assert extractors(model)
    for extractor in extractors(model):
        for parameter, (parameter_name, expected) in zip(
            extractor.parameters(), encoder.parameters.items(), strict=True
        ):
            assert torch.equal(parameter, expected), parameter_name
    for n, p in model.policy.named_parameters():
        if n in before:
            assert torch.equal(p, before[n]), n
    again = Initialization.of(model, "encoder")
    assert all(torch.equal(t, again.parameters[n]) for n, t in encoder.parameters.items())


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "SAC"])
def test_it_learns_from_there(name: str, encoder: Initialization) -> None:
    model = made(name)
    encoder.apply_to(model)
    model.learn(32)
    trained = [p for extractor in extractors(model) for p in extractor.parameters()]
    assert all(p.isfinite().all() for p in trained)
    start = list(encoder.parameters.values())
    assert any(not torch.equal(p, start[i % len(start)]) for i, p in enumerate(trained))  # it is not frozen


@pytest.mark.parametrize("name", ["PPO", "DQN", "RecurrentPPO"])
def test_another_network_is_refused_and_left_alone(name: str, encoder: Initialization) -> None:
    model = made(name, size=64)
    before = {n: t.clone() for n, t in model.policy.state_dict().items()}
    with pytest.raises(InitializationError, match=r"encoder.linear.0.weight \(512, 3136\): the model has"):
        encoder.apply_to(model)
    assert all(torch.equal(t, before[n]) for n, t in model.policy.state_dict().items())
