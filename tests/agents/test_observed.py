"""LeapA2C and LeapPPO train as SB3's A2C and PPO do, to the bit, and leave their gradient path."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv

from leap_rl import EnvTasks, MetaTrainer
from leap_rl.agents import LeapA2C, LeapPPO, ObservedTraining, observed_algorithm
from leap_rl.core import FOMAML, MAML, GradientPath, InProcess, Leap, NoPretraining, Reptile
from leap_rl.transfer import FreezeEncoder


class RandomImages(gym.Env[np.ndarray, int]):
    """An image environment that costs nothing: frames and rewards of its own random stream."""

    observation_space = gym.spaces.Box(0, 255, (4, 36, 36), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._frame(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self._frame(), float(self.np_random.normal() + action), self.t == 17, False, {}

    def _frame(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (4, 36, 36), dtype=np.uint8)


def images() -> VecEnv:
    return make_vec_env(RandomImages, 2)


def vectors() -> VecEnv:
    return make_vec_env("CartPole-v1", 2)


PPO_KWARGS = {"n_steps": 16, "batch_size": 8, "n_epochs": 3}
KINDS = [(LeapA2C, A2C, {}), (LeapPPO, PPO, PPO_KWARGS), (LeapPPO, PPO, {**PPO_KWARGS, "target_kl": 1e-4})]
ENVIRONMENTS = [("MlpPolicy", vectors), ("CnnPolicy", images)]


def assert_same_bits(a: Any, b: Any) -> None:
    first, second = a.policy.state_dict(), b.policy.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize(("policy", "make_env"), ENVIRONMENTS)
@pytest.mark.parametrize(("leap", "plain", "kwargs"), KINDS)
@pytest.mark.parametrize(
    "learner", [Leap(), Leap(metric="length", gradients="raw"), Reptile()], ids=["energy", "length", "reptile"]
)
def test_training_is_bit_identical_to_sb3(
    policy: str, make_env: Any, leap: Any, plain: Any, kwargs: dict[str, Any], learner: Any
) -> None:
    watched = leap(policy, make_env(), learner=learner, seed=3, device="cpu", **kwargs).learn(160)
    alone = plain(policy, make_env(), seed=3, device="cpu", **kwargs).learn(160)
    assert watched._n_updates == alone._n_updates
    assert_same_bits(watched, alone)


@pytest.mark.parametrize(("leap", "kwargs"), [(LeapA2C, {}), (LeapPPO, PPO_KWARGS)])
def test_the_path_is_that_of_the_training(leap: Any, kwargs: dict[str, Any]) -> None:
    """Reptile's gradient is θ⁰ - θ^K; every optimizer step is one update of the path."""
    model = leap("MlpPolicy", vectors(), learner=Reptile(), seed=0, device="cpu", **kwargs)
    before = {n: p.detach().clone() for n, p in model.policy.named_parameters()}
    model.learn(160)
    path = model.gradient_path
    assert path.n_updates == (16 if leap is LeapA2C else 5 * 3 * 4)
    for name, p in model.policy.named_parameters():
        assert torch.equal(path.meta_gradient()[name], before[name] - p.detach())


def test_the_loss_is_the_scalar_that_sb3_differentiates() -> None:
    seen = []

    class Recording(Leap):
        def observe(self, parameters: Any) -> GradientPath:
            path = super().observe(parameters)
            update = path.before_update
            path.before_update = lambda loss=None: (seen.append(loss.item()), update(loss))  # type: ignore[method-assign]
            return path

    model = LeapPPO("MlpPolicy", vectors(), learner=Recording(), seed=0, device="cpu", **PPO_KWARGS)
    model.learn(32)
    assert len(seen) == 12
    assert seen[-1] == model.logger.name_to_value["train/loss"]


def test_learn_starts_a_path_or_continues_it() -> None:
    model = LeapA2C("MlpPolicy", vectors(), seed=0, device="cpu").learn(50)
    first = model.gradient_path
    model.learn(50, reset_num_timesteps=False)
    assert model.gradient_path is first and first.n_updates == 10
    model.learn(50)
    assert model.gradient_path is not first and model.gradient_path.n_updates == 5


def test_the_scope_is_the_encoder_for_images_and_all_else() -> None:
    image_model = LeapA2C("CnnPolicy", images(), device="cpu").learn(20)
    names = set(image_model.gradient_path.meta_gradient())
    assert names == {f"encoder.{n}" for n, _ in image_model.policy.features_extractor.named_parameters()}
    whole = LeapA2C("CnnPolicy", images(), scope="all", device="cpu").learn(20)
    assert set(whole.gradient_path.meta_gradient()) > names
    assert LeapA2C("MlpPolicy", vectors(), device="cpu").scope == "all"


@pytest.mark.parametrize(("leap", "plain", "kwargs"), KINDS[:2])
def test_zips_open_both_ways_and_training_goes_on_alike(
    leap: Any, plain: Any, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"learner": Leap(metric="length", loss_scale=0.1), "scope": "all"}
    leap("MlpPolicy", vectors(), seed=1, device="cpu", **settings, **kwargs).learn(64).save(tmp_path / "leap")
    plain("MlpPolicy", vectors(), seed=1, device="cpu", **kwargs).learn(64).save(tmp_path / "plain")
    models = {
        (kind, file): kind.load(tmp_path / file, env=vectors(), device="cpu")
        for kind in (leap, plain)
        for file in ("leap", "plain")
    }
    assert models[leap, "leap"].learner == settings["learner"]
    assert models[leap, "leap"].gradient_path is None
    for model in models.values():
        model.set_random_seed(7)
        model.learn(64)
    for model in models.values():
        assert_same_bits(model, models[plain, "plain"])
    assert models[leap, "leap"].gradient_path.n_updates == models[leap, "plain"].gradient_path.n_updates > 0
    assert models[leap, "leap"].gradient_path.metric == "length"


@pytest.mark.parametrize("kind", [LeapA2C, A2C])
def test_a_learner_given_to_load_is_the_learner(kind: Any, tmp_path: Path) -> None:
    kind("MlpPolicy", vectors(), device="cpu").save(tmp_path / "agent")
    loaded = LeapA2C.load(tmp_path / "agent", env=vectors(), learner=Reptile(), device="cpu")
    assert loaded.learner == Reptile()
    loaded.save(tmp_path / "again")
    assert LeapA2C.load(tmp_path / "again", device="cpu").learner == Reptile()
    with pytest.raises(ValueError, match="MAML differentiates through the learning process"):
        LeapA2C.load(tmp_path / "agent", learner=MAML(), device="cpu")


def test_a_leap_zip_opens_where_leap_rl_is_not_installed(tmp_path: Path) -> None:
    LeapA2C("MlpPolicy", vectors(), seed=1, device="cpu").learn(20).save(tmp_path / "leap")
    script = (
        "import sys; sys.modules['leap_rl'] = None\n"
        "from stable_baselines3 import A2C\n"
        f"A2C.load({str(tmp_path / 'leap')!r}, env=__import__('gymnasium').make('CartPole-v1')).learn(20)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_predict_is_sb3s() -> None:
    model = LeapA2C("MlpPolicy", vectors(), seed=1, device="cpu")
    observation = np.zeros((2, 4), np.float32)
    twin = A2C("MlpPolicy", vectors(), seed=1, device="cpu")
    assert (model.predict(observation, deterministic=True)[0] == twin.predict(observation, deterministic=True)[0]).all()


def test_hooks_are_gone_after_training() -> None:
    original = torch.autograd.backward
    model = LeapA2C("MlpPolicy", vectors(), device="cpu").learn(20)
    assert torch.autograd.backward is original
    assert not model.policy.optimizer._optimizer_step_pre_hooks
    assert not model.policy.optimizer._optimizer_step_post_hooks


# -- what is in scope --------------------------------------------------------------------------------


class HalfFrozen(NatureCNN):
    """Its convolutions stay as they were drawn."""

    def __init__(self, space: gym.Space[Any], **kwargs: Any) -> None:
        super().__init__(space, **kwargs)
        self.cnn.requires_grad_(False)


class Frozen(NatureCNN):
    """All of it stays as it was drawn."""

    def __init__(self, space: gym.Space[Any], **kwargs: Any) -> None:
        super().__init__(space, **kwargs)
        self.requires_grad_(False)


class Trained(torch.optim.Adam):
    """Owns what needs a gradient, and nothing else."""

    def __init__(self, params: Any, **kwargs: Any) -> None:
        super().__init__([p for p in params if p.requires_grad], **kwargs)


OPTIMIZERS: list[dict[str, Any]] = [
    {},
    {"optimizer_class": Trained},
    {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 0.1}},
    {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"amsgrad": True}},
]


@pytest.mark.parametrize(
    ("learner", "extractor", "optimizer"),
    [(Leap(metric="length"), e, o) for e in (HalfFrozen, Frozen) for o in OPTIMIZERS]
    + [(FOMAML(), HalfFrozen, OPTIMIZERS[1]), (Reptile(), NatureCNN, OPTIMIZERS[3])],
)
def test_what_is_frozen_stays_out_of_the_path_and_the_bits_are_sb3s(
    learner: Any, extractor: Any, optimizer: dict[str, Any]
) -> None:
    kwargs = {"policy_kwargs": {"features_extractor_class": extractor, "net_arch": [4], **optimizer}, **PPO_KWARGS}
    watched = LeapPPO("CnnPolicy", images(), learner=learner, seed=3, device="cpu", **copy.deepcopy(kwargs)).learn(64)
    alone = PPO("CnnPolicy", images(), seed=3, device="cpu", **copy.deepcopy(kwargs)).learn(64)
    assert_same_bits(watched, alone)
    # By SB3's own names: what moved, of the encoder where it is the scope.
    start = PPO("CnnPolicy", images(), seed=3, device="cpu", **copy.deepcopy(kwargs)).policy.state_dict()
    moved = {name for name, t in alone.policy.state_dict().items() if not torch.equal(t, start[name])}
    assert watched.scope == ("all" if extractor is Frozen else "encoder")
    if watched.scope == "encoder":
        moved = {name for name in moved if "features_extractor" in name}
    assert set(watched.gradient_path.meta_gradient()) == {
        name.replace("pi_features", "features")
        .replace("vf_features", "features")
        .replace("features_extractor", "encoder")
        for name in moved
    }


def test_a_scope_of_which_nothing_is_trained() -> None:
    """An agent learns as SB3's; there is nothing to meta-learn."""
    kwargs: Any = {"policy_kwargs": {"features_extractor_class": Frozen}, **PPO_KWARGS}
    watched = LeapPPO("CnnPolicy", images(), scope="encoder", seed=3, device="cpu", **kwargs).learn(64)
    assert watched.gradient_path is None
    assert_same_bits(watched, PPO("CnnPolicy", images(), seed=3, device="cpu", **kwargs).learn(64))
    tasks = EnvTasks(LeapPPO, "CnnPolicy", {"a": RandomImages}, 64, 2, kwargs)
    with pytest.raises(ValueError, match="scope='encoder' has no parameter that is trained"):
        tasks.draw_initialization("encoder", 0)


@pytest.mark.parametrize(("learner", "optimizer"), [(Leap(), OPTIMIZERS[1]), (FOMAML(), OPTIMIZERS[0])])
def test_what_is_frozen_is_the_same_in_every_task_and_stays_as_it_is(
    learner: Any, optimizer: dict[str, Any], tmp_path: Path
) -> None:
    kwargs: Any = {"policy_kwargs": {"features_extractor_class": HalfFrozen, **optimizer}, **PPO_KWARGS}

    def tasks() -> EnvTasks:
        return EnvTasks(LeapPPO, "CnnPolicy", {"a": RandomImages, "b": RandomImages}, 32, 2, kwargs)

    trainer = MetaTrainer(tasks(), learner, 2, engine=InProcess(), seed=0, device="cpu", run_dir=tmp_path / "run")
    start = trainer.initialization.parameters
    trainer.learn(1)
    trainer = MetaTrainer.load(tmp_path / "run", tasks(), engine=InProcess()).learn(1)
    now = trainer.initialization
    moved = {name for name, tensor in now.parameters.items() if not torch.equal(tensor, start[name])}
    assert moved == {"encoder.linear.0.weight", "encoder.linear.0.bias"}
    model = PPO("CnnPolicy", images(), device="cpu", **kwargs)
    now.apply_to(model)
    assert torch.equal(model.policy.features_extractor.cnn[0].weight, start["encoder.cnn.0.weight"])


def test_an_encoder_that_an_interrupted_training_left_frozen_is_in_the_path_again() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyboardInterrupt

    model = LeapPPO("CnnPolicy", images(), learner=Reptile(), seed=0, device="cpu", **PPO_KWARGS)
    with pytest.raises(KeyboardInterrupt):
        model.learn(64, callback=[FreezeEncoder(64), Stop()])
    model.learn(128, callback=FreezeEncoder(64))
    assert all(g.norm() > 0 for g in model.gradient_path.meta_gradient().values())


@pytest.mark.parametrize("scope", [None, "mlp_extractor"])
def test_images_without_an_encoder_are_learned_as_sb3_does(scope: str | None) -> None:
    watched = LeapPPO("MlpPolicy", images(), scope=scope, seed=3, device="cpu", **PPO_KWARGS).learn(64)
    assert watched.scope == (scope or "all")
    assert_same_bits(watched, PPO("MlpPolicy", images(), seed=3, device="cpu", **PPO_KWARGS).learn(64))


def test_images_that_are_normalized_already_have_an_encoder() -> None:
    class Floats(gym.ObservationWrapper[Any, Any, Any]):
        observation_space = gym.spaces.Box(0, 1, (4, 36, 36), np.float32)

        def observation(self, observation: Any) -> Any:
            return (observation / 255).astype(np.float32)

    env = make_vec_env(lambda: Floats(RandomImages()), 2)
    kwargs: Any = {"policy_kwargs": {"normalize_images": False}, "seed": 3, "device": "cpu", **PPO_KWARGS}
    watched = LeapPPO("CnnPolicy", env, **kwargs).learn(32)
    assert watched.scope == "encoder"


# -- what can't be observed ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [TRPO, ARS, "A2C", int, ObservedTraining])
def test_algorithms_that_cannot_be_observed(algorithm: Any) -> None:
    with pytest.raises(ValueError, match=r"can't be observed.*; use one of LeapA2C, .*LeapTQC"):
        observed_algorithm(algorithm)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scope": "decoder"}, "'decoder' matches no parameter.*'mlp_extractor'"),
        ({"scope": "encoder"}, "matches no parameter"),
        ({"learner": Leap(loss_delta="same_batch")}, "same_batch"),
    ],
)
def test_bad_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeapA2C("MlpPolicy", vectors(), device="cpu", **kwargs)


def test_two_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="share_features_extractor"):
        LeapA2C("CnnPolicy", images(), policy_kwargs={"share_features_extractor": False}, device="cpu")


def test_a_learner_of_ones_own_that_observes_nothing() -> None:
    model = LeapA2C("MlpPolicy", vectors(), learner=NoPretraining(), device="cpu").learn(20)
    assert model.gradient_path is None
