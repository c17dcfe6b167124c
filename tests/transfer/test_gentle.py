"""Starting gently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

from leap_rl import make_atari_env
from leap_rl.transfer import FreezeEncoder, SlowEncoder


def made(kind: Any = A2C, **kwargs: Any) -> Any:
    kwargs |= {"n_steps": 5} if kind is A2C else {}
    kwargs |= {"n_steps": 10, "batch_size": 10, "n_epochs": 2} if kind is PPO else {}
    kwargs |= {"buffer_size": 60, "learning_starts": 5, "train_freq": 5} if kind is DQN else {}
    return kind("CnnPolicy", make_atari_env("Breakout", 1, seed=0), seed=0, device="cpu", **kwargs)


def parts(model: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    named = [(n, p.detach().clone()) for n, p in model.policy.named_parameters() if "target" not in n]
    return [p for n, p in named if "features_extractor" in n], [p for n, p in named if "features_extractor" not in n]


def equal(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


class Watch(BaseCallback):
    """The encoder at the end of every rollout, before it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders: list[tuple[int, list[torch.Tensor]]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.encoders.append((self.num_timesteps, parts(self.model)[0]))


@pytest.mark.parametrize("kind", [A2C, PPO, DQN])
def test_the_encoder_stays_as_long_as_it_is_frozen_and_learns_then(kind: Any) -> None:
    model = made(kind)
    before, head = parts(model)
    watch = Watch()
    model.learn(80, callback=[FreezeEncoder(40), watch])
    for steps, encoder in watch.encoders:
        if steps <= 40:
            assert equal(before, encoder), steps
    after, head_after = parts(model)
    assert not equal(before, after) and not equal(head, head_after)
    assert all(p.requires_grad for n, p in model.policy.named_parameters() if "target" not in n)


def test_a_training_that_ends_frozen_leaves_a_model_that_learns() -> None:
    model = made()
    before, head = parts(model)
    model.learn(40, callback=FreezeEncoder(1000))
    after, head_after = parts(model)
    assert equal(before, after) and not equal(head, head_after)
    model.learn(40)
    assert not equal(before, parts(model)[0])


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_a_factor_of_one_changes_nothing_and_of_zero_freezes(kind: Any) -> None:
    # Each is made when it learns: they draw from one global generator.
    plain = made(kind).learn(40)
    one = made(kind).learn(40, callback=SlowEncoder(1.0))
    zero = made(kind)
    before = parts(zero)[0]
    zero.learn(40, callback=SlowEncoder(0.0))
    assert all(equal(p, q) for p, q in zip(parts(plain), parts(one), strict=True))
    assert equal(before, parts(zero)[0])


def test_the_encoders_first_step_is_the_factor_of_the_whole_one(tmp_path: Path) -> None:
    """SGD's step is its rate times the gradient, which the first update has in common."""
    sgd = {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}, "learning_rate": 0.5}
    start, head = parts(made(**sgd))
    plain = made(**sgd).learn(5)
    slow = made(**sgd).learn(5, callback=SlowEncoder(0.1))
    for p0, p, q in zip(start, parts(plain)[0], parts(slow)[0], strict=True):
        torch.testing.assert_close(q - p0, 0.1 * (p - p0), rtol=1e-2, atol=1e-7)
    assert equal(parts(plain)[1], parts(slow)[1]) and not equal(head, parts(slow)[1])
    # What is saved in the middle opens in a plain model.
    assert len(slow.policy.optimizer.param_groups) == 1
    slow.save(tmp_path / "agent")
    A2C.load(tmp_path / "agent", env=slow.env).learn(10)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        FreezeEncoder(0)
    with pytest.raises(ValueError, match=r"factor=1.5 must be from 0 to 1"):
        SlowEncoder(1.5)
    with pytest.raises(ValueError, match="FreezeEncoder needs an encoder, and ActorCriticPolicy has none"):
        A2C("MlpPolicy", "CartPole-v1", device="cpu").learn(10, callback=FreezeEncoder(5))


class Interrupted(BaseCallback):
    def _on_step(self) -> bool:
        if self.num_timesteps >= 20:
            raise KeyboardInterrupt
        return True


def test_an_interrupted_training_leaves_nothing_behind(tmp_path: Path) -> None:
    """SB3 ends no callback then: the next training undoes what was left, and what is saved meanwhile is plain."""
    model = made()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            model.learn(40, callback=[FreezeEncoder(1000), SlowEncoder(0.5), Interrupted()])
    model.save(tmp_path / "agent")
    A2C.load(tmp_path / "agent", env=model.env).learn(10)
    before = parts(model)[0]
    model.learn(20, callback=[FreezeEncoder(10), SlowEncoder(1.0)])
    assert not equal(before, parts(model)[0])
    assert not model.policy.optimizer._optimizer_step_pre_hooks


def test_algorithms_that_cannot_be_started_gently() -> None:
    env = make_atari_env("Breakout", 1, seed=0)
    trpo = TRPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu")
    for callback in (FreezeEncoder(100), SlowEncoder(0.5)):
        with pytest.raises(ValueError, match="TRPO moves its policy by line search"):
            trpo.learn(16, callback=callback)
    with pytest.raises(ValueError, match="a rollout has 10 steps, so freeze it for at least as many"):
        made(PPO).learn(10, callback=FreezeEncoder(9))


def test_an_encoder_is_frozen_past_the_steps_before_the_first_update() -> None:
    env = make_atari_env("Breakout", 1, seed=0)
    dqn = DQN("CnnPolicy", env, buffer_size=50, learning_starts=10, batch_size=4, seed=0, device="cpu")
    with pytest.raises(ValueError, match="learning starts after 10 steps, so freeze it for more"):
        dqn.learn(16, callback=FreezeEncoder(10))
    before, head = parts_of(dqn)
    dqn.learn(16, callback=FreezeEncoder(20))
    assert equal(before, parts_of(dqn)[0]) and not equal(head, parts_of(dqn)[1])


def parts_of(dqn: DQN) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Copies of the encoder's tensors and of the head's."""
    named = {n: p.detach().clone() for n, p in dqn.policy.q_net.named_parameters()}
    encoder = [t for n, t in named.items() if n.startswith("features_extractor.")]
    return encoder, [t for n, t in named.items() if not n.startswith("features_extractor.")]
