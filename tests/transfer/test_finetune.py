"""Fine-tuning SB3's algorithms by a strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from leap_rl import Initialization, LeapA2C
from leap_rl.core import (
    LPFT,
    Discriminative,
    GradualUnfreezing,
    LinearProbe,
    RelativeGradientNorm,
    ShrinkPerturb,
    Slow,
    SoftShrinkPerturb,
    Strategy,
    Surgical,
    TowardsStart,
    blocks_of,
)
from leap_rl.transfer import FineTune, FreezeEncoder
from leap_rl.transfer.finetune import FrozenTooBriefly
from leap_rl.transfer.names import optimizers, targets

NEUTRAL: list[list[Strategy]] = [
    [Strategy()],
    [Slow(1.0), Discriminative(1.0), LPFT(0.0), GradualUnfreezing(0.0)],
    [RelativeGradientNorm(0.0), TowardsStart(0.0)],
    [ShrinkPerturb(1.0, 0.0), SoftShrinkPerturb(1.0, 0.0)],
    [Surgical(("encoder", "head"))],
]
KWARGS: dict[Any, dict[str, Any]] = {
    A2C: {"n_steps": 5},
    LeapA2C: {"n_steps": 5},
    PPO: {"n_steps": 10, "batch_size": 5, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 5, "train_freq": 5, "target_update_interval": 10},
    SAC: {"buffer_size": 60, "learning_starts": 30},
    TD3: {"buffer_size": 60, "learning_starts": 30},
    TRPO: {"n_steps": 8, "batch_size": 8},
}
ENCODER = ["encoder.cnn.0", "encoder.cnn.2", "encoder.cnn.4", "encoder.linear.0"]


class Pictures(gym.Env):
    """Noise, and a reward for one of three actions."""

    def __init__(self, continuous: bool = False) -> None:
        self.observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)
        self.rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.rng.integers(0, 256, self.observation_space.shape, dtype=np.uint8), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.reset()[0], float(np.all(action == 1)), bool(self.rng.random() < 0.1), False, {}


class Numbers(Pictures):
    """The same for vectors, whose network has no encoder."""

    def __init__(self, continuous: bool = False) -> None:
        super().__init__(continuous)
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self.rng.uniform(-1, 1, 4).astype(np.float32), {}


def made(kind: Any = A2C, vectors: bool = False, **kwargs: Any) -> Any:
    policy, env = ("MlpPolicy", Numbers) if vectors else ("CnnPolicy", Pictures)
    return kind(policy, env(kind in (SAC, TD3)), seed=0, device="cpu", **KWARGS[kind], **kwargs)


def state(model: Any) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.policy.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, t in before.items() if not torch.equal(t, after[name])}


@pytest.mark.parametrize("vectors", [False, True], ids=["images", "vectors"])
@pytest.mark.parametrize("kind", [A2C, PPO, DQN, SAC, TD3])
def test_neutral_strategies_are_plain_training_to_the_bit(kind: Any, vectors: bool) -> None:
    plain = state(made(kind, vectors).learn(40))
    assert moved(state(made(kind, vectors)), plain)
    for strategies in NEUTRAL:
        if vectors:
            strategies = [Surgical(("hidden", "head")) if isinstance(s, Surgical) else s for s in strategies]
        assert not moved(plain, state(made(kind, vectors).learn(40, callback=FineTune(*strategies)))), strategies
    # And one that is not neutral is something else.
    assert moved(plain, state(made(kind, vectors).learn(40, callback=FineTune(Slow(0.5)))))


OUTPUTS = {
    A2C: {"action_net", "value_net"},
    PPO: {"action_net", "value_net"},
    DQN: {"q_net.q_net.4"},
    SAC: {"actor.mu", "actor.log_std", "critic.qf0.4", "critic.qf1.4"},
    TD3: {"actor.mu.4", "critic.qf0.4", "critic.qf1.4"},
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_of_a_network_for_vectors_hidden_layers_are_blocks_and_outputs_are_the_head(kind: Any) -> None:
    """Written out: what a probe trains, and what a block is that is transferred or trained alone."""
    model = made(kind, vectors=True)
    assert list(blocks_of(model)) == ["hidden.0", "hidden.1", "head"]
    before = state(model)
    model.learn(40, callback=FineTune(LinearProbe()))
    trained = {name for name in moved(before, state(model)) if "target" not in name}
    assert {name.rpartition(".")[0] for name in trained} == OUTPUTS[kind]
    model.learn(40)
    assert {name for name in before if "target" not in name} <= moved(before, state(model))

    model, other = made(kind, vectors=True), made(kind, vectors=True).learn(40)
    Initialization.of(other, "all").apply_to(model, layers=["hidden.1"])
    taken = {name for name in moved(before, state(model)) if "target" not in name}
    assert taken and all(name.rpartition(".")[0].endswith(".2") for name in taken)


@pytest.mark.parametrize("enable", [True, False])
def test_a_memory_comes_before_the_layers_that_read_it(enable: bool) -> None:
    recurrent = RecurrentPPO("MlpLstmPolicy", Numbers(), policy_kwargs={"enable_critic_lstm": enable}, device="cpu")
    of = {id(t): block for block, tensors in blocks_of(recurrent).items() for t in tensors}
    found: dict[str, set[str]] = {}
    for name, p in recurrent.policy.named_parameters():
        found.setdefault(of[id(p)], set()).add(name.rpartition(".")[0])
    assert found == {
        "hidden.0": {"lstm_actor", "lstm_critic" if enable else "critic"},
        "hidden.1": {"mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"},
        "hidden.2": {"mlp_extractor.policy_net.2", "mlp_extractor.value_net.2"},
        "head": {"action_net", "value_net"},
    }


def test_a_network_of_outputs_alone_has_no_blocks() -> None:
    model = made(A2C, vectors=True, policy_kwargs={"net_arch": []})
    with pytest.raises(ValueError, match=r"A2C has no blocks: .* \(action_net.weight, "):
        model.learn(20, callback=FineTune(LinearProbe()))


@pytest.mark.parametrize("kind", [A2C, PPO, DQN, LeapA2C])
def test_a_frozen_block_does_not_move_and_the_model_learns_whole_afterwards(kind: Any) -> None:
    model = made(kind)
    before = state(model)
    model.learn(40, callback=FineTune(Surgical(("encoder.cnn.2", "head"))))
    after = state(model)
    trained = {name for name in moved(before, after) if "target" not in name}
    heads = {name for name in before if "features_extractor" not in name and "target" not in name}
    assert {n for n in trained if "features_extractor" in n} == {
        n for n in before if "target" not in n and "features_extractor.cnn.2" in n
    }
    assert trained >= heads
    model.learn(40)
    assert {n for n in before if "target" not in n} == {n for n in moved(after, state(model)) if "target" not in n}


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_actor_and_critic_with_an_optimizer_each_are_both_held(kind: Any) -> None:
    model = made(kind)
    before = state(model)
    model.learn(40, callback=[FineTune(LinearProbe()), FineTune(Slow(0.5, ("head",)), SoftShrinkPerturb(1.0, 0.0))])
    after = state(model)
    trained = {name for name in moved(before, after) if "target" not in name}
    assert trained == {n for n in before if "features_extractor" not in n and "target" not in n}
    assert all(not optimizer._optimizer_step_pre_hooks for optimizer in optimizers(model.policy).values())
    model.learn(40)
    assert {n for n in before if "target" not in n} == {n for n in moved(after, state(model)) if "target" not in n}


def test_each_optimizer_steps_its_own_part_of_a_block() -> None:
    """Of one step each, plain SGD goes half the way, in actor and critic alike."""

    def after(*strategies: Strategy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model = made(
            SAC, gradient_steps=1, policy_kwargs={"optimizer_class": torch.optim.SGD}, learning_rate=1e-3, ent_coef=0.1
        )
        before = state(model)
        model.learn(31, callback=FineTune(*strategies))
        assert model._n_updates == 1
        return before, state(model)

    before, whole = after()
    _, half = after(Slow(0.5))
    critic = [n for n in whole if n.startswith("critic.") and "features_extractor" in n]
    assert critic
    for name in critic:  # the actor's loss has seen another critic
        torch.testing.assert_close(half[name], (before[name] + whole[name]) / 2)
    actor = [n for n in whole if n.startswith("actor.features_extractor")]
    assert moved({n: before[n] for n in actor}, half) == moved({n: before[n] for n in actor}, whole) == set(actor)


def test_an_optimizer_that_would_move_nothing_is_refused() -> None:
    """With a shared encoder, which SB3 trains by the actor's loss, the critic has its head alone."""
    model = made(SAC, policy_kwargs={"share_features_extractor": True})
    with pytest.raises(ValueError, match=r"all blocks of one optimizer are frozen at 0 % of the training \(head\)"):
        model.learn(40, callback=FineTune(Surgical(("encoder",))))
    assert model.num_timesteps == 0
    model.learn(140, callback=FineTune(GradualUnfreezing(1.0)))


class Rates(BaseCallback):
    """Whether each layer of the encoder learns, as updates find it: the steps at which it began to."""

    def __init__(self) -> None:
        super().__init__()
        self.since: dict[str, int] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        for name, p in self.model.policy.features_extractor.named_parameters():
            if p.requires_grad and name.endswith("weight"):
                self.since.setdefault(f"encoder.{name.removesuffix('.weight')}", self.num_timesteps)


def test_blocks_are_unfrozen_from_the_head_down_as_steps_are_spent() -> None:
    rates = Rates()
    made().learn(100, callback=[FineTune(GradualUnfreezing(0.8)), rates])
    assert rates.since == dict(zip(reversed(ENCODER), (25, 45, 65, 85), strict=True))


def test_progress_goes_on_with_the_training() -> None:
    """learn(reset_num_timesteps=False): a share of all steps, those before among them, as SB3 has it for schedules."""
    model, callback, rates = made(), FineTune(LPFT(0.8)), Rates()
    model.learn(50, callback=[callback, rates])
    assert set(rates.since.values()) == {45}
    rates.since.clear()
    model.learn(50, callback=[callback, rates], reset_num_timesteps=False)
    assert set(rates.since.values()) == {85}
    held = TowardsStart(0.1)
    model.learn(20, callback=FineTune(held))
    start = [t.clone() for t in held._start.values()]
    model.learn(20, callback=FineTune(held), reset_num_timesteps=False)
    assert all(torch.equal(a, b) for a, b in zip(start, held._start.values(), strict=True))


def test_an_optimizer_of_several_groups() -> None:
    def grouped() -> Any:
        model = made()
        parameters = list(model.policy.parameters())
        groups: list[dict[str, Any]] = [{"params": parameters[::2]}, {"params": parameters[1::2], "weight_decay": 0.1}]
        model.policy.optimizer = torch.optim.Adam(groups, lr=1e-3)
        return model

    # Each is made when it learns: they draw from one global generator.
    plain = grouped().learn(20)
    neutral = grouped().learn(20, callback=FineTune(Discriminative(1.0), LPFT(0.0)))
    frozen = grouped()
    before = state(frozen)
    frozen.learn(20, callback=FineTune(LinearProbe()))
    assert not moved(state(plain), state(neutral))
    trained = moved(before, state(frozen))
    assert trained and not any("features_extractor" in name for name in trained)
    assert len(frozen.policy.optimizer.param_groups) == 2


def test_strategies_are_given_by_their_names() -> None:
    assert [type(s) for s in FineTune("lp-ft:probe=0.2+slow", LinearProbe()).strategies] == [LPFT, Slow, LinearProbe]
    with pytest.raises(ValueError, match="FreezeEncoder needs an encoder, and ActorCriticPolicy has none"):
        FreezeEncoder(32).check(A2C("MlpPolicy", "CartPole-v1", device="cpu"), 64)


def test_callbacks_together_multiply() -> None:
    both = state(made().learn(20, callback=[FineTune(Slow(0.5)), FineTune(Slow(0.5))]))
    once = state(made().learn(20, callback=FineTune(Slow(0.25))))
    assert not moved(once, both)


def test_a_saved_agent_is_a_plain_one(tmp_path: Path) -> None:
    class Save(BaseCallback):
        def _on_step(self) -> bool:
            self.model.save(tmp_path / "agent")
            return True

    made().learn(10, callback=[FineTune(LinearProbe(), Slow(0.5, ("head",)), TowardsStart()), Save()])
    loaded = A2C.load(tmp_path / "agent", env=Pictures())
    before = state(loaded)
    loaded.learn(10)
    assert any("features_extractor" in name for name in moved(before, state(loaded)))


def test_noise_is_drawn_from_the_seed_of_the_run_and_again_where_another_process_goes_on() -> None:
    def noise(seed: int, steps: int = 0, goes_on: bool = False) -> Tensor:
        model = made()
        model.seed, model.num_timesteps = seed, steps
        strategy = SoftShrinkPerturb()
        callback = FineTune(strategy)
        if goes_on:
            callback.resume(model)
        callback.init_callback(model)
        model._total_timesteps = 100
        callback.num_timesteps = steps
        callback.on_training_start({}, {})
        (generator,) = strategy._generators.values()
        return torch.rand(3, generator=generator)

    assert torch.equal(noise(0), noise(0))
    assert not torch.equal(noise(0), noise(1)) and not torch.equal(noise(0), noise(0, 50, True))


def test_what_was_shrunk_is_in_the_target_network_too() -> None:
    for kind, steps in ((DQN, 5), (SAC, 30)):  # no update is made
        model = made(kind)
        before = state(model)
        model.learn(steps, callback=FineTune(ShrinkPerturb(0.5, 0.0)))
        assert model._n_updates == 0
        pairs = targets(model.policy)
        assert pairs and all(torch.equal(*pair) for pair in pairs)
        weights = [name for name in before if name.endswith("cnn.0.weight")]
        # What was shrunk when training began is not again where it goes on, nor is the target filled.
        with torch.no_grad():
            pairs[0][0].zero_()
        strategy = ShrinkPerturb(0.5, 0.0)
        FineTune(strategy).resume(model)
        now = state(model)
        model.learning_starts = model.target_update_interval = 1000
        model.learn(1, callback=FineTune(strategy), reset_num_timesteps=False)
        assert not moved(now, state(model))
        with torch.no_grad():
            pairs[0][0].copy_(pairs[0][1])
        assert len(weights) > 1 and all(torch.equal(state(model)[n], 0.5 * before[n]) for n in weights)


def test_a_strategy_that_would_be_over_before_the_first_update_is_refused() -> None:
    """Else it would be plain training, and nobody would know."""
    for kind, steps in ((A2C, 40), (PPO, 90), (DQN, 90), (SAC, 290)):
        model = made(kind)
        before = state(model)
        with pytest.raises(FrozenTooBriefly, match=r"encoder.cnn.0, .* until the first update: freeze for a larger"):
            model.learn(steps, callback=FineTune(LPFT()))
        assert model.num_timesteps == 0 and not moved(before, state(model))
        FineTune(LPFT()).check(model)
        FineTune(LPFT()).check(model, 400)
        if kind is A2C:
            with pytest.raises(FrozenTooBriefly):
                FineTune(LPFT()).check(model, 400, n_envs=9)
        FineTune(Slow(0.0, end=1.0)).check(model, steps)  # a warm-up begins at 0 and is nowhere frozen
    # Counted in steps, what is over when training goes on is refused, unless another process saw it end.
    model = made().learn(50)
    with pytest.raises(ValueError, match="would freeze nothing: this training goes on, and has made 50"):
        model.learn(20, callback=FreezeEncoder(20), reset_num_timesteps=False)
    frozen = FreezeEncoder(20)
    frozen.resume(model)
    model.learn(20, callback=frozen, reset_num_timesteps=False)


def test_an_observed_model_learns_whole_after_an_interruption() -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyboardInterrupt

    for kind, again in ((LeapA2C, None), (A2C, FineTune())):
        model = made(kind)
        with pytest.raises(KeyboardInterrupt):
            model.learn(20, callback=[FineTune(LinearProbe()), Interrupt()])
        before = state(model)
        model.learn(20, callback=again)
        assert moved(before, state(model)) == set(before)


@pytest.mark.parametrize(
    ("kind", "strategies", "message"),
    [
        (A2C, [Surgical(("encoder.conv1",))], r"no block 'encoder.conv1': .*did you mean encoder.cnn"),
        (A2C, [Surgical(("head",)), Slow(0.0, ("head",))], "all blocks are frozen"),
        (DQN, [Surgical(("haed",))], "did you mean head"),
        (TRPO, [Strategy()], "TRPO moves its policy by line search"),
        (A2C, [LPFT(patience=2)], "waits for validation errors, which SB3 has not"),
    ],
)
def test_what_cannot_be_is_said_before_any_step(kind: Any, strategies: list[Strategy], message: str) -> None:
    model = made(kind)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        model.learn(20, callback=FineTune(ShrinkPerturb(), *strategies))
    assert model.num_timesteps == 0 and not moved(before, state(model))
    with pytest.raises(ValueError, match=message):
        FineTune(ShrinkPerturb(), *strategies).check(model)
    assert all(p.requires_grad for name, p in model.policy.named_parameters() if "target" not in name)
