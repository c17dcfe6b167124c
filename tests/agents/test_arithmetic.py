"""Fast arithmetic: other bits, the same training."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch.utils._python_dispatch import TorchDispatchMode

import leap_rl.agents.arithmetic
from leap_rl import Leap, LeapA2C, LeapPPO, make_atari_env
from leap_rl.agents import speed_up
from leap_rl.transfer import NatureLNCNN

SETTINGS: dict[str, Any] = {"A2C": {"n_steps": 5}, "PPO": {"n_steps": 8, "batch_size": 8, "n_epochs": 2}}


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Hardware without bfloat16 computes it all the same, if slowly."""
    monkeypatch.setattr(leap_rl.agents.arithmetic, "multiplies_bfloat16", lambda device: request.param)
    return bool(request.param)


def made(kind: type, **kwargs: Any) -> Any:
    name = "A2C" if issubclass(kind, A2C) else "PPO"
    env = make_atari_env("Breakout", 1, seed=0)
    return kind("CnnPolicy", env, seed=0, device="cpu", **SETTINGS[name], **kwargs)


@pytest.mark.parametrize("kind", [LeapA2C, LeapPPO])
def test_fast_training_is_near_the_exact_one(kind: type, bfloat16: bool) -> None:
    every_update = Leap(skip_updates=0)
    exact, fast = made(kind, learner=every_update), made(kind, learner=every_update, arithmetic="fast")
    observations = exact.env.reset()
    tensor = torch.as_tensor(observations)
    with torch.no_grad():
        ours, theirs = fast.policy.extract_features(tensor), exact.policy.extract_features(tensor)
    assert theirs.norm() > 1 and (ours - theirs).norm() / theirs.norm() < (2e-2 if bfloat16 else 1e-5)
    fast.learn(32)
    gradient = fast.gradient_path.meta_gradient()
    assert set(gradient) == set(exact.learn(32).gradient_path.meta_gradient())
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in fast.policy.parameters())
    assert any(g.abs().sum() > 0 for g in gradient.values())


def test_what_is_saved_is_plain_and_what_is_loaded_is_fast_again(tmp_path: Path, bfloat16: bool) -> None:
    fast = made(LeapA2C, arithmetic="fast")
    fast.learn(20)
    fast.save(tmp_path / "agent")
    observations = fast.env.reset()
    again = LeapA2C.load(tmp_path / "agent", device="cpu")
    plain = A2C.load(tmp_path / "agent", device="cpu")
    for (name, p), q in zip(fast.policy.state_dict().items(), plain.policy.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    weight = next(m for m in again.policy.modules() if isinstance(m, torch.nn.Conv2d)).weight
    assert again.arithmetic == "fast" and weight.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(
        again.predict(observations, deterministic=True)[0], fast.predict(observations, deterministic=True)[0]
    )


def test_what_it_says_it_does(bfloat16: bool, capsys: pytest.CaptureFixture[str]) -> None:
    expected = ["channels-last convolutions", *(["bfloat16 feature extractor", "images as bytes"] if bfloat16 else [])]
    made(LeapA2C, arithmetic="fast", verbose=1)
    assert f"Fast arithmetic: {', '.join(expected)}\n" in capsys.readouterr().out
    ppo = made(PPO)
    assert speed_up(ppo) == [*expected, "fused Adam"]
    before = [p.detach().clone() for p in ppo.policy.parameters()]
    ppo.learn(32)
    assert any(not torch.equal(p, q) for p, q in zip(ppo.policy.parameters(), before, strict=True))


class Casts(TorchDispatchMode):
    """Counts the weights of convolutions and linear layers that are cast to bfloat16."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.n += kwargs.get("dtype") == torch.bfloat16 and isinstance(args[0], torch.nn.Parameter)
        return func(*args, **kwargs)


class WithinRollout(BaseCallback):
    """What a callback may do between two steps of a rollout: move the weights, and compute a gradient."""

    gradient: torch.Tensor | None = None

    def _on_step(self) -> bool:
        policy = self.model.policy
        if self.n_calls % 5 == 2:
            with torch.no_grad():
                for p in policy.features_extractor.parameters():
                    p.mul_(0.9)
        if self.n_calls % 5 == 4:
            with torch.enable_grad():
                loss = policy.predict_values(self.locals["obs_tensor"]).sum()
            (self.gradient,) = torch.autograd.grad(loss, [policy.features_extractor.cnn[0].weight])
        return True


def test_weights_are_cast_once_in_a_rollout_and_whenever_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leap_rl.agents.arithmetic, "multiplies_bfloat16", lambda device: True)
    with Casts() as casts:
        agent = made(LeapA2C, arithmetic="fast")
        agent.learn(15)
    n_cast = len(list(agent.policy.features_extractor.parameters()))
    # 3 rollouts, 3 updates; 6 forward passes each while rolling out. The first convolution's weights are divided
    # before, and what comes of it counts as a parameter with some releases of torch.
    assert casts.n in (3 * (2 * n_cast - 1), 3 * 2 * n_cast)

    moved = made(LeapA2C, arithmetic="fast").learn(15, callback=(callback := WithinRollout()))
    assert callback.gradient is not None and callback.gradient.abs().sum() > 0
    monkeypatch.setattr(leap_rl.agents.observed, "weights_cast_once", lambda device: nullcontext())
    always = made(LeapA2C, arithmetic="fast").learn(15)
    always_moved = made(LeapA2C, arithmetic="fast").learn(15, callback=WithinRollout())
    for one, other in ((agent, always), (moved, always_moved)):
        for p, q in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
            assert torch.equal(p, q)


def test_an_exact_agent_that_is_loaded_to_be_fast_is_fused(tmp_path: Path) -> None:
    made(LeapPPO).save(tmp_path / "agent")
    loaded = LeapPPO.load(tmp_path / "agent", arithmetic="fast", device="cpu")
    assert all(group["fused"] for group in loaded.policy.optimizer.param_groups)


def test_what_was_fast_is_exact_again(tmp_path: Path) -> None:
    """Loaded to be exact, and in plain SB3, it goes on to the bits of an agent that never was fast."""
    made(LeapPPO, arithmetic="fast").save(tmp_path / "agent")
    made(LeapPPO).save(tmp_path / "exact")
    env = make_atari_env("Breakout", 1, seed=0)
    for kind, given in ((LeapPPO, {"arithmetic": "exact"}), (PPO, {})):
        loaded, never = (kind.load(tmp_path / name, env, device="cpu", **given) for name in ("agent", "exact"))
        assert not any(group["fused"] for group in loaded.policy.optimizer.param_groups)
        for agent in (loaded, never):
            agent.set_random_seed(0)
            agent.learn(32)
        for p, q in zip(loaded.policy.parameters(), never.policy.parameters(), strict=True):
            assert torch.equal(p, q)


def test_an_optimizer_is_left_as_it_is_set() -> None:
    class Lean(torch.optim.Adam):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, lr)
            del self.defaults["fused"], self.defaults["foreach"]

    model = made(LeapPPO, policy_kwargs={"optimizer_class": Lean, "optimizer_kwargs": {}})
    model.policy.optimizer.param_groups[0]["foreach"] = False
    model.set_parameters(model.get_parameters())
    assert model.policy.optimizer.param_groups[0]["foreach"] is False


def test_a_copy_of_a_fast_network_follows_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leap_rl.agents.arithmetic, "multiplies_bfloat16", lambda device: True)
    policy = made(LeapA2C, arithmetic="fast").policy
    copied = pickle.loads(pickle.dumps(copy.deepcopy(policy)))
    images = torch.randint(0, 255, (1, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad(), leap_rl.agents.arithmetic.weights_cast_once(torch.device("cpu")):
        before = copied.extract_features(images)
        for p in copied.features_extractor.parameters():
            p.mul_(3)
        assert not torch.allclose(copied.extract_features(images), before)
        torch.testing.assert_close(policy.extract_features(images), before)


def test_a_network_of_vectors_has_nothing_to_speed_up() -> None:
    assert speed_up(A2C("MlpPolicy", "CartPole-v1", device="cpu")) == []


@pytest.mark.parametrize("network", [{}, {"features_extractor_class": NatureLNCNN, "net_arch": []}], ids=["", "ln"])
def test_images_as_bytes_are_images(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, and what of a loss reaches the first convolution; of a copy as well, which learns by itself."""
    monkeypatch.setattr(leap_rl.agents.arithmetic, "multiplies_bfloat16", lambda device: True)
    fast = made(LeapA2C, arithmetic="fast", policy_kwargs=network or None)
    assert "images as bytes" in fast.sped_up
    images = torch.as_tensor(fast.env.reset())
    exact = made(LeapA2C, policy_kwargs=network or None)
    for policy in (fast.policy, copy.deepcopy(fast.policy)):
        with torch.no_grad():
            policy.features_extractor.cnn[0].bias.add_(0.1)
            exact.policy.features_extractor.cnn[0].bias.copy_(policy.features_extractor.cnn[0].bias)
        features = [p.extract_features(images) for p in (exact.policy, policy)]
        torch.testing.assert_close(features[1], features[0], rtol=0.05, atol=0.02)
        torch.testing.assert_close(policy.features_extractor(images / 255), features[0], rtol=0.05, atol=0.02)
        gradients = [
            torch.autograd.grad(f.square().sum(), p.features_extractor.cnn[0].weight)[0].flatten()
            for f, p in zip(features, (exact.policy, policy), strict=True)
        ]
        assert torch.cosine_similarity(*gradients, dim=0) > 0.99
        assert gradients[1].norm() == pytest.approx(gradients[0].norm().item(), rel=0.05)


def test_an_error_in_the_network_ends_bfloat16(bfloat16: bool) -> None:
    fast = made(LeapA2C, arithmetic="fast")
    with pytest.raises(RuntimeError):
        fast.policy.features_extractor(torch.zeros(1, 3, 84, 84))
    assert not torch.is_autocast_enabled("cpu")


def test_unknown_arithmetic() -> None:
    with pytest.raises(ValueError, match="arithmetic='quick' is unknown, choose one of exact, fast"):
        made(LeapA2C, arithmetic="quick")
