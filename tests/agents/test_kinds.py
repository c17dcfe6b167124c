"""Every algorithm that can be observed trains as its plain kind does, to the bit, and leaves its gradient path."""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv

import leap_rl
import zoo
from leap_rl import EnvTasks, Initialization, LeapDQN, LeapPPO, LeapSAC, LeapTD3, MetaTrainer
from leap_rl.agents import observed_algorithm
from leap_rl.agents.tasks import OBSERVED
from leap_rl.core import FOMAML, GradientPath, GradientPaths, InProcess, Job, Leap, NoPretraining, Reptile
from leap_rl.transfer.names import observed_parameters, optimizers, parameters_of


class Noise(gym.Env[Any, Any]):
    """Observations and rewards of a random stream; episodes of eleven steps."""

    def __init__(self, observations: gym.Space[Any], actions: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observations), actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.t == 11, False, {}

    def action_masks(self) -> np.ndarray:
        return np.array([True, False, True])


DISCRETE, CONTINUOUS = spaces.Discrete(3), spaces.Box(-2, 2, (2,))
VECTOR = spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def vectors(actions: gym.Space[Any], n_envs: int = 2) -> VecEnv:
    return make_vec_env(partial(Noise, VECTOR, actions), n_envs)


ROLLOUT: dict[str, Any] = {"n_steps": 8}
EPOCHS = {**ROLLOUT, "batch_size": 8, "n_epochs": 2}
LSTM = {"lstm_hidden_size": 8, "net_arch": [8]}
REPLAY = {"learning_starts": 10, "batch_size": 8, "buffer_size": 500}
CRITICS = {**REPLAY, "policy_kwargs": {"net_arch": [16, 16]}}
# Everything that makes the optimizers of an algorithm step in turn: few and many gradient steps, delays, targets.
KINDS: dict[str, tuple[str, gym.Space[Any], dict[str, Any]]] = {
    "A2C": ("MlpPolicy", DISCRETE, ROLLOUT),
    "PPO": ("MlpPolicy", CONTINUOUS, EPOCHS),
    "RecurrentPPO": ("MlpLstmPolicy", DISCRETE, {**EPOCHS, "policy_kwargs": LSTM}),
    "MaskablePPO": ("MlpPolicy", DISCRETE, EPOCHS),
    "DQN": ("MlpPolicy", DISCRETE, {**REPLAY, "train_freq": 4, "target_update_interval": 12}),
    "QRDQN": ("MlpPolicy", DISCRETE, {**REPLAY, "train_freq": 2, "gradient_steps": -1}),
    "SAC": ("MlpPolicy", CONTINUOUS, {**CRITICS, "gradient_steps": 2}),
    "SAC, fixed entropy": ("MlpPolicy", CONTINUOUS, {**CRITICS, "ent_coef": 0.1, "use_sde": True}),
    "TQC": ("MlpPolicy", CONTINUOUS, CRITICS),
    "TD3": ("MlpPolicy", CONTINUOUS, {**CRITICS, "policy_delay": 3}),
    "DDPG": ("MlpPolicy", CONTINUOUS, CRITICS),
    "CrossQ": ("MlpPolicy", CONTINUOUS, {**CRITICS, "policy_delay": 2}),
}
REPLAYING = [name for name in KINDS if "learning_starts" in KINDS[name][2]]
ACTOR_CRITIC = [name for name in REPLAYING if "DQN" not in name]
STEPS = 28
# Those that share the code of another take long, and are left out where little can differ.
LIKE_ANOTHER = ("DDPG", "TQC", "CrossQ")
ONE_OF_EACH = [
    pytest.param(name, marks=pytest.mark.slow) if name in LIKE_ANOTHER else name for name in KINDS if "," not in name
]


def plain(name: str) -> Any:
    name = name.partition(",")[0]
    return getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)


def made(kind: Any, name: str, env: VecEnv | None = None, **given: Any) -> Any:
    policy, actions, kwargs = KINDS[name]
    return kind(policy, env or vectors(actions), seed=3, device="cpu", **{**copy.deepcopy(kwargs), **given})


def assert_same_bits(a: Any, b: Any) -> None:
    first, second = a.policy.state_dict(), b.policy.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for name in ("log_ent_coef", "exploration_rate", "_n_updates", "num_timesteps"):
        assert getattr(a, name, None) == getattr(b, name, None), name


def test_here_are_all_of_them() -> None:
    assert {name.partition(",")[0] for name in KINDS} == {name for names in OBSERVED.values() for name in names}
    for name in KINDS:
        observed = observed_algorithm(plain(name))
        assert observed is getattr(leap_rl, f"Leap{plain(name).__name__}") and observed.plain() is plain(name)


@pytest.mark.parametrize("name", KINDS)
def test_training_is_bit_identical(name: str) -> None:
    alone = made(plain(name), name).learn(STEPS)
    for learner in (Leap(), Leap(metric="length", gradients="raw", loss_delta="within_rollout")):
        watched = made(observed_algorithm(plain(name)), name, learner=learner).learn(STEPS)
        assert watched.gradient_path.n_updates
        assert_same_bits(watched, alone)


@pytest.mark.parametrize("name", [p for p in ONE_OF_EACH if p != "A2C" and getattr(p, "values", p) != ("CrossQ",)])
def test_training_on_images_is_bit_identical(name: str) -> None:
    policy, actions, kwargs = KINDS[name]
    kwargs = {**kwargs, "policy_kwargs": dict(kwargs.get("policy_kwargs", {}))}
    if name in ACTOR_CRITIC:
        kwargs["policy_kwargs"]["share_features_extractor"] = True

    def learned(kind: Any) -> Any:
        env = make_vec_env(partial(Noise, IMAGE, actions), 2, seed=0)
        return kind(policy.replace("Mlp", "Cnn"), env, seed=3, device="cpu", **copy.deepcopy(kwargs)).learn(STEPS)

    watched = learned(observed_algorithm(plain(name)))
    assert watched.scope == "encoder" and watched.gradient_path.n_updates
    assert_same_bits(watched, learned(plain(name)))


@pytest.mark.parametrize("name", ["A2C", "PPO", "DQN"])
def test_schedules_are_sb3s_also_where_the_last_rollout_is_more_than_was_asked_for(name: str) -> None:
    given = {"learning_rate": lambda remaining: 1e-2 * remaining}
    alone = made(plain(name), name, **given).learn(STEPS)
    assert alone._current_progress_remaining < 0 or name == "DQN"
    assert_same_bits(made(observed_algorithm(plain(name)), name, **given).learn(STEPS), alone)


# -- which path is followed ------------------------------------------------------------------------


class Recorded:
    """What every optimizer of a model does, seen by hooks that share nothing with ours: in float64, and in order."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.updates: dict[str, list[tuple[float, dict[str, torch.Tensor], dict[str, torch.Tensor]]]] = {}
        for part, optimizer in optimizers(model.policy).items():
            self.updates[part] = []
            optimizer.register_step_pre_hook(lambda optimizer, *_, part=part: self.update(part, optimizer))

    def update(self, part: str, optimizer: Any) -> None:
        """SB3's own variables say which loss it is."""
        frame = inspect.currentframe()
        while frame is not None and not (
            frame.f_code.co_name == "train" and "site-packages" in frame.f_code.co_filename
        ):
            frame = frame.f_back
        assert frame is not None
        loss = frame.f_locals["loss" if part == "policy" else f"{part}_loss"]
        own = {id(p) for p in parameters_of(optimizer)}
        named = {n: p for n, p in observed_parameters(self.model, "all").items() if id(p) in own}
        theta = {n: p.detach().double().clone() for n, p in named.items()}
        gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in named.items()}
        gradient = {n: g.double().clone() for n, g in gradients.items()}
        self.updates[part].append((loss.item(), theta, gradient))

    def meta_gradient(self, metric: str) -> dict[str, torch.Tensor]:
        """Equation (8) as it stands, with the stabilizer, of each part."""
        found = {}
        for updates in self.updates.values():
            end = {n: observed_parameters(self.model, "all")[n].detach().double() for n in updates[0][1]}
            total = {n: torch.zeros_like(t) for n, t in end.items()}
            for i, (f, theta, gradient) in enumerate(updates):
                after = updates[i + 1][1] if i + 1 < len(updates) else end
                loss_delta = -abs(updates[i + 1][0] - f) if i + 1 < len(updates) else 0.0
                step = {n: after[n] - theta[n] for n in theta}
                length = (sum(float(d.square().sum()) for d in step.values()) + loss_delta**2) ** 0.5
                weight = 1 / length if metric == "length" else 1.0
                for n in total:
                    total[n] -= weight * (loss_delta * gradient[n] + step[n])
            found |= total
        return found


@pytest.mark.parametrize(
    ("name", "metric"), [*((name, "length") for name in KINDS), ("DQN", "energy"), ("SAC", "energy")]
)
def test_the_meta_gradient_is_that_of_each_optimizers_own_loss(name: str, metric: Any) -> None:
    kwargs: dict[str, Any] = {"use_rms_prop": False} if name == "A2C" else {}
    learner = Leap(metric=metric, loss_scale=1.0)
    model = made(observed_algorithm(plain(name)), name, learner=learner, **kwargs)
    recorded = Recorded(model)
    model.learn(STEPS)
    expected, found = recorded.meta_gradient(metric), model.gradient_path.meta_gradient()
    assert found.keys() == expected.keys() == observed_parameters(model, "all").keys()
    reference = torch.cat([expected[n].flatten() for n in found])
    assert reference.norm() > 0
    difference = torch.cat([found[n].double().flatten() for n in found]) - reference
    assert difference.norm() / reference.norm() < 1e-5
    assert model.gradient_path.n_updates == sum(map(len, recorded.updates.values()))


@pytest.mark.parametrize("name", ACTOR_CRITIC)
def test_actor_and_critic_are_parts_of_the_scope(name: str) -> None:
    kind = observed_algorithm(plain(name))
    both = made(kind, name).learn(STEPS)
    assert isinstance(both.gradient_path, GradientPaths) and list(both.gradient_path) == ["actor", "critic"]
    whole = both.gradient_path.meta_gradient()
    for part in ("actor", "critic"):
        alone = made(kind, name, scope=part).learn(STEPS)
        assert isinstance(alone.gradient_path, GradientPath)
        gradient = alone.gradient_path.meta_gradient()
        assert gradient.keys() == {n for n in whole if n.startswith(f"{part}.")}
        assert all(torch.equal(g, whole[n]) for n, g in gradient.items())
        assert alone.gradient_path.n_updates == both.gradient_path[part].n_updates
    delay = getattr(both, "policy_delay", 1)
    assert both.gradient_path["actor"].n_updates == both.gradient_path["critic"].n_updates // delay
    united, parts = both.gradient_path.statistics(), [path.statistics() for path in both.gradient_path.values()]
    assert united.updates == sum(p.updates for p in parts) and united.segments == sum(p.segments for p in parts)
    assert united.meta_gradient_norm == pytest.approx(torch.cat([g.flatten() for g in whole.values()]).norm().item())
    assert united.loss_share == pytest.approx(sum(p.loss_share * p.energy for p in parts) / united.energy)
    assert not any("target" in n for n in whole)


@pytest.mark.parametrize("name", ACTOR_CRITIC[:1])
def test_an_interrupted_training_goes_on_with_its_paths(name: str) -> None:
    model = made(observed_algorithm(plain(name)), name)
    step = model.critic.optimizer.step

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if model.gradient_path["critic"].n_updates == 9:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    model.critic.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.learn(STEPS)
    model.critic.optimizer.step = step
    paths = model.gradient_path
    before = paths.n_updates
    model.learn(STEPS, reset_num_timesteps=False)
    assert model.gradient_path is paths and paths.n_updates > before
    assert all(g.isfinite().all() for g in paths.meta_gradient().values())


# -- saved and loaded ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_zips_open_both_ways_and_training_goes_on_alike(name: str, tmp_path: Path) -> None:
    leap, other, actions = observed_algorithm(plain(name)), plain(name), KINDS[name][1]
    made(leap, name, learner=Leap(metric="length"), scope="all").learn(STEPS).save(tmp_path / "leap")
    made(other, name).learn(STEPS).save(tmp_path / "plain")
    models = {
        (kind, file): kind.load(tmp_path / file, env=vectors(actions), device="cpu")
        for kind in (leap, other)
        for file in ("leap", "plain")
    }
    assert models[leap, "leap"].learner == Leap(metric="length") and models[leap, "leap"].scope == "all"
    for model in models.values():
        model.set_random_seed(7)
        model.learn(STEPS)
    for model in models.values():
        assert_same_bits(model, models[other, "plain"])
    assert models[leap, "leap"].gradient_path.n_updates == models[leap, "plain"].gradient_path.n_updates > 0


# -- initializations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "policy"),
    [(n, "CnnLstmPolicy" if n == "RecurrentPPO" else "CnnPolicy") for n in KINDS if "," not in n and n != "CrossQ"],
)
def test_it_learns_from_the_zoo(name: str, policy: str) -> None:
    """The encoder is filled wherever it is, and it is what is observed."""
    kwargs = dict(KINDS[name][2])
    if name in ACTOR_CRITIC:
        kwargs["policy_kwargs"] = {"share_features_extractor": True}
    if name in REPLAYING:
        kwargs["buffer_size"] = 40
    env = make_vec_env(partial(Noise, IMAGE, KINDS[name][1]), 2)
    model = observed_algorithm(plain(name))(policy, env, learner=Reptile(), seed=0, device="cpu", **kwargs)
    theta = zoo.load("atari-a2c-leap")
    theta.apply_to(model)
    assert model.scope == "encoder"
    extractors = [m for m in model.policy.modules() if isinstance(m, NatureCNN)]
    assert len(extractors) == (2 if name in REPLAYING else 1)
    for extractor in extractors:
        for n, parameter in extractor.named_parameters():
            assert torch.equal(parameter, theta.parameters[f"encoder.{n}"])
    model.learn(16)
    gradient = model.gradient_path.meta_gradient()
    assert gradient.keys() == theta.parameters.keys() and any(g.norm() > 0 for g in gradient.values())


@pytest.mark.parametrize("name", REPLAYING)
def test_target_networks_are_no_part_of_an_initialization_and_start_as_copies(name: str) -> None:
    kind = observed_algorithm(plain(name))
    theta = Initialization.of(made(kind, name).learn(STEPS), "all")
    assert not any("target" in n for n in [*theta.parameters, *theta.buffers])
    model = made(kind, name)
    theta.apply_to(model)
    state = model.policy.state_dict()
    for target in [n for n in state if "_target." in n]:
        assert torch.equal(state[target], state[target.replace("_target.", ".")]), target
    again = Initialization.of(model, "all")
    assert all(torch.equal(t, again.parameters[n]) for n, t in theta.parameters.items())


# -- as tasks --------------------------------------------------------------------------------------


def tasks(name: str, timesteps: int = STEPS, n_envs: int = 2, **given: Any) -> EnvTasks:
    policy, actions, kwargs = KINDS[name]
    envs = {"a": partial(Noise, VECTOR, actions), "b": partial(Noise, VECTOR, actions)}
    return EnvTasks(plain(name), policy, envs, timesteps, n_envs, {**kwargs, **given})


def visited(family: EnvTasks, learner: Any = None, index: int = 0, **given: Any) -> Any:
    theta = family.draw_initialization(None, 0)
    job = Job(family[index], theta, learner or Leap(), 5, "cpu", return_final=True, **given)
    ((_, result),) = InProcess().run([job], lambda *_: None)
    return result


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_visit_is_a_training_from_the_initialization(name: str) -> None:
    """The same as SB3 alone with that seed, whatever the algorithm: replay, exploration and noise begin anew."""
    family = tasks(name)
    first, again = visited(family), visited(family)
    assert first.status == "ok" and first.meta_gradient.keys() == first.final.parameters.keys()
    assert all(torch.equal(g, again.meta_gradient[n]) for n, g in first.meta_gradient.items())
    theta = family.draw_initialization(None, 0)
    policy, actions, kwargs = KINDS[name]
    alone = plain(name)(policy, vectors(actions), seed=5, device="cpu", **copy.deepcopy(kwargs))
    theta.apply_to(alone)
    alone.learn(STEPS)
    assert first.steps == alone.num_timesteps
    for n, tensor in Initialization.of(alone, "all").parameters.items():
        assert torch.equal(tensor, first.final.parameters[n]), n
    assert 0 < first.log[-1][0] <= first.steps and "train/n_updates" not in first.log[-1][1]
    assert "rollout/ep_rew_mean" in first.log[-1][1]


@pytest.mark.parametrize(("name", "timesteps", "n_envs", "steps"), [("DQN", 61, 2, 64), ("SAC", 61, 3, 63)])
def test_a_budget_is_overshot_by_less_than_what_is_collected_at_a_time(
    name: str, timesteps: int, n_envs: int, steps: int
) -> None:
    result = visited(tasks(name, timesteps, n_envs))
    assert result.steps == steps and result.curve.budget == timesteps


def test_a_replay_buffer_has_room_for_a_visit_and_no_more() -> None:
    family = tasks("SAC", buffer_size=10**6)
    model = family[0].make_model(vectors(CONTINUOUS), STEPS, None, 0)
    assert STEPS / 2 < model.replay_buffer.buffer_size < STEPS / 2 + 5  # rows of two environments
    assert family[0].algorithm.arguments({"buffer_size": 10}, STEPS, 2)["buffer_size"] == 10
    whole = {"train_freq": (1, "episode"), "buffer_size": 300}
    assert family[0].algorithm.arguments(whole, STEPS, 1)["buffer_size"] == 300


def test_noise_that_has_a_state_begins_anew_at_every_visit() -> None:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.5 * np.ones(2))
    family = tasks("TD3", n_envs=1, action_noise=noise)
    first, again = visited(family), visited(family)
    assert all(torch.equal(t, again.final.parameters[n]) for n, t in first.final.parameters.items())
    assert not noise.noise_prev.any()


@pytest.mark.parametrize("name", ["RecurrentPPO", "MaskablePPO"])
def test_fomaml_takes_its_look_ahead_back(name: str) -> None:
    family = tasks(name, 64)
    without, ahead = visited(family, NoPretraining()), visited(family, FOMAML())
    assert ahead.steps == without.steps + 16
    assert all(torch.equal(t, ahead.final.parameters[n]) for n, t in without.final.parameters.items())


@pytest.mark.parametrize("name", ["DQN", "SAC"])
def test_meta_training_in_workers_and_going_on(name: str, tmp_path: Path) -> None:
    """Two processes and one give the same bits, and so does a run that is gone on with."""
    kwargs: dict[str, Any] = {"seed": 0, "device": "cpu"}
    whole = MetaTrainer(tasks(name), Leap(), 2, engine=InProcess(), **kwargs).learn(3)
    MetaTrainer(tasks(name), Leap(), 2, n_workers=2, run_dir=tmp_path, **kwargs).learn(2)
    resumed = MetaTrainer.load(tmp_path, tasks(name), n_workers=2).learn(1)
    start = tasks(name).draw_initialization(None, 0).parameters
    for n, tensor in whole.initialization.parameters.items():
        assert torch.equal(tensor, resumed.initialization.parameters[n]), n
        assert not torch.equal(tensor, start[n]), n
    assert [row["status"] for row in resumed.history[-1]["tasks"]] == ["ok", "ok"]
    model = made(plain(name), name)
    whole.initialization.apply_to(model)
    model.learn(20)


def test_an_actor_alone_is_meta_learned_and_its_critic_is_drawn_anew() -> None:
    trainer = MetaTrainer(tasks("SAC"), Reptile(), 2, scope="actor", engine=InProcess(), seed=0, device="cpu").learn(1)
    assert {n.partition(".")[0] for n in trainer.initialization.parameters} == {"actor"}


# -- what can't be learned -------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPLAYING)
def test_a_look_ahead_needs_data_that_was_not_learned_from(name: str) -> None:
    message = f"FOMAML looks ahead to data that was not learned from, but Leap{plain(name).__name__} draws"
    with pytest.raises(ValueError, match=message):
        made(observed_algorithm(plain(name)), name, learner=FOMAML())
    with pytest.raises(ValueError, match=message):
        MetaTrainer(tasks(name), FOMAML(), 1)


@pytest.mark.parametrize(
    ("algorithm", "env", "message"),
    [
        ("SAC", "CartPole-v1", r"CartPole-v1 can't be learned: SAC takes actions of Box, not Discrete\(2\)"),
        ("TQC", "CartPole-v1", "TQC takes actions of Box, not"),
        ("DQN", "Pendulum-v1", r"Pendulum-v1 can't be learned: DQN takes actions of Discrete, not Box\(-2"),
        ("MaskablePPO", "CartPole-v1", "CartPole-v1 can't be learned: MaskablePPO needs a method action_masks"),
        ("MaskablePPO", "Pendulum-v1", "takes actions of Discrete or MultiDiscrete or MultiBinary, not Box"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_actions_that_an_algorithm_does_not_take(algorithm: str, env: str, message: str, is_first: bool) -> None:
    fits = partial(Noise, VECTOR, CONTINUOUS if algorithm in ("SAC", "TQC") else DISCRETE)
    envs: dict[str, Any] = {env: env} if is_first else {"fits": fits, env: env}
    family = EnvTasks(plain(algorithm), "MlpPolicy", envs, 200)
    with pytest.raises(ValueError, match=message) as refused:
        MetaTrainer(family, Leap(), 1)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("algorithm", "policy"), [("CrossQ", "CnnPolicy"), ("RecurrentPPO", "MlpPolicy"), ("A2C", "M")]
)
def test_policies_that_an_algorithm_does_not_have(algorithm: str, policy: str) -> None:
    with pytest.raises(ValueError, match=f"{algorithm} has no policy '{policy}': choose one of .*Policy"):
        EnvTasks(plain(algorithm), policy, ["CartPole-v1"], 200)


def test_a_visit_that_ends_before_its_first_update() -> None:
    message = "timesteps=100 ends before the first update: learning_starts of SAC is 100"
    with pytest.raises(ValueError, match=message):
        EnvTasks(LeapSAC, "MlpPolicy", ["Pendulum-v1"], 100)
    EnvTasks(LeapSAC, "MlpPolicy", ["Pendulum-v1"], 100, algorithm_kwargs={"learning_starts": 99})


@pytest.mark.parametrize(("kind", "name"), [(LeapDQN, "n_epochs"), (LeapTD3, "ent_coef"), (LeapSAC, "policy_delay")])
def test_arguments_of_another_algorithm(kind: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"has '{name}', which {kind.plain().__name__} does not take"):
        EnvTasks(kind, "MlpPolicy", ["Pendulum-v1"], 1000, algorithm_kwargs={name: 1})


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_two_encoders_are_refused(name: str) -> None:
    env = make_vec_env(partial(Noise, IMAGE, CONTINUOUS), 1)
    with pytest.raises(ValueError, match=r"give policy_kwargs=\{'share_features_extractor': True\}"):
        observed_algorithm(plain(name))("CnnPolicy", env, buffer_size=20)
    for scope in ("actor", "critic"):
        with pytest.raises(ValueError, match=f"scope='{scope}' leaves out the encoder that the {scope} sees through"):
            observed_algorithm(plain(name))("CnnPolicy", env, scope=scope, buffer_size=20)


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_an_agent_with_two_encoders_opens_where_nothing_is_observed(name: str, tmp_path: Path) -> None:
    def learned(kind: Any, **given: Any) -> Any:
        env = make_vec_env(partial(Noise, IMAGE, CONTINUOUS), 1, seed=0)
        return kind("CnnPolicy", env, buffer_size=40, learning_starts=10, seed=0, device="cpu", **given).learn(14)

    theirs = learned(plain(name))
    theirs.save(tmp_path / "agent")
    opened = observed_algorithm(plain(name)).load(tmp_path / "agent", learner=NoPretraining(), device="cpu")
    assert_same_bits(theirs, opened)
    ours = learned(observed_algorithm(plain(name)), learner=NoPretraining())
    assert_same_bits(theirs, ours)
    assert ours.gradient_path is None


# -- how it looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in KINDS if "," not in n])
def test_a_constructor_shows_what_sb3s_takes(name: str) -> None:
    theirs, ours = (dict(inspect.signature(k).parameters) for k in (plain(name), observed_algorithm(plain(name))))
    added = {n: p for n, p in ours.items() if n not in theirs}
    assert {n: p for n, p in ours.items() if n in theirs} == theirs and list(ours)[: len(theirs)] == list(theirs)
    assert {n: p.default for n, p in added.items()} == {"learner": None, "scope": None, "arithmetic": "exact"}


def test_a_constructor_of_ones_own_shows_its_own() -> None:
    class Own(LeapDQN):
        def __init__(self, policy: str, env: Any, epsilon: float = 0.1) -> None:
            super().__init__(policy, env, exploration_final_eps=epsilon)

    assert list(inspect.signature(Own).parameters) == ["policy", "env", "epsilon"]
    assert inspect.signature(type("Heir", (Own,), {})) == inspect.signature(Own)


def test_a_constructor_that_hands_on_what_it_is_given_is_a_task() -> None:
    class Own(LeapDQN):
        def __init__(self, *args: Any, epsilon: float = 0.1, **kwargs: Any) -> None:
            super().__init__(*args, exploration_final_eps=epsilon, **kwargs)

    kwargs = {"epsilon": 0.2, "learning_starts": 10, "batch_size": 8, "buffer_size": 100}
    result = visited(EnvTasks(Own, "MlpPolicy", ["CartPole-v1"], 40, 2, kwargs))
    assert result.status == "ok" and result.statistics.updates == 4


def test_classes_of_ones_own_know_what_sb3s_have() -> None:
    class Own(LeapPPO):
        def __init__(self, *args: Any, epsilon: float = 0.2, **kwargs: Any) -> None:
            super().__init__(*args, clip_range=epsilon, **kwargs)

    class Late(LeapDQN):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    class Mixed(Aside, LeapPPO):
        pass

    assert Mixed.plain() is Own.plain() is stable_baselines3.PPO
    with pytest.warns(UserWarning, match="are 4,096 of each visit"):
        EnvTasks(Own, "MlpPolicy", ["CartPole-v1"], 2_500, 2)
    kwargs = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
    for kind in (Own, Mixed):
        assert visited(EnvTasks(kind, "MlpPolicy", ["CartPole-v1"], 32, 2, kwargs)).status == "ok"
    with pytest.raises(ValueError, match="timesteps=90 ends before the first update: learning_starts of DQN is 100"):
        EnvTasks(Late, "MlpPolicy", ["CartPole-v1"], 90)


def test_what_cannot_be_observed_and_why() -> None:
    class Mine(stable_baselines3.PPO):
        pass

    for kind, why in (
        (sb3_contrib.ARS, "ARS can't be observed: ARS searches at random, without a gradient; use one of"),
        (Mine, "Mine can't be observed: it is a class of its own, .*: let it inherit from LeapPPO; use one of"),
    ):
        with pytest.raises(ValueError, match=why):
            EnvTasks(kind, "MlpPolicy", ["CartPole-v1"], 4_096)


class Aside:
    """A mixin that is none of SB3's."""


def test_what_a_task_sets_itself_is_no_argument() -> None:
    with pytest.raises(ValueError, match="has 'tensorboard_log', which PPO does not take here"):
        EnvTasks(LeapPPO, "MlpPolicy", ["CartPole-v1"], 4_096, 2, {"tensorboard_log": "runs"})


def test_reprs_are_a_line_that_one_can_read() -> None:
    family = tasks("SAC", policy_kwargs={"net_arch": [64] * 100})
    theta = family.draw_initialization(None, 0)
    for what, start in (
        (family, "EnvTasks(2 tasks (a, b): LeapSAC, MlpPolicy, 28 steps, 2 envs, learning_starts=10, "),
        (family[0], "EnvTask(a: LeapSAC, MlpPolicy, 28 steps, 2 envs, learning_starts=10, "),
        (theta, f"Initialization(scope='all', {len(theta.parameters)} tensors of "),
    ):
        assert repr(what).startswith(start) and len(repr(what)) < 250 and len(repr(what).splitlines()) == 1
    assert repr(theta).endswith(" values, FlattenExtractor, LeapSAC)")
    many = EnvTasks(LeapDQN, "MlpPolicy", {f"t{i}": "CartPole-v1" for i in range(60)}, 200)
    assert repr(many).startswith("EnvTasks(60 tasks (t0, t1, t2, ..., t59): LeapDQN")


def test_fast_arithmetic_is_for_all_of_them() -> None:
    env = make_vec_env(partial(Noise, IMAGE, DISCRETE), 2)
    model = LeapDQN("CnnPolicy", env, arithmetic="fast", **{**REPLAY, "buffer_size": 40}).learn(24)
    assert "channels-last convolutions" in model.sped_up and "fused Adam" in model.sped_up
    assert all(g.isfinite().all() for g in model.gradient_path.meta_gradient().values())
    both = made(LeapSAC, "SAC", arithmetic="fast").learn(STEPS)
    assert all(o.param_groups[0]["fused"] for o in optimizers(both.policy).values())
    assert all(torch.isfinite(p).all() for p in both.policy.parameters())


@pytest.mark.slow
def test_constructors_are_checked_as_sb3s_are(tmp_path: Path) -> None:
    wrong = [
        'LeapA2C("MlpPolicy", "CartPole-v1", learning_rte=1e-3)',
        'LeapA2C("MlpPolicy", "CartPole-v1", n_steps="many")',
        'LeapQRDQN("MlpPolicy", "CartPole-v1", buffer_sze=3)',
        'LeapSAC("MlpPolicy", "Pendulum-v1", tau=0.1, scope=3)',
        'LeapDQN("MlpPolicy", "CartPole-v1", learner=3)',
    ]
    right = [
        'LeapA2C("MlpPolicy", "CartPole-v1", learning_rate=1e-3, arithmetic="fast")',
        'LeapSAC("MlpPolicy", "Pendulum-v1", tau=0.1, learner=Leap(), scope="actor").learn(10).predict',
        'LeapMaskablePPO("MlpPolicy", "CartPole-v1").gradient_path',
    ]
    imports = "from leap_rl import Leap, LeapA2C, LeapDQN, LeapMaskablePPO, LeapQRDQN, LeapSAC\n"
    (tmp_path / "script.py").write_text(imports + "\n".join(wrong + right) + "\n")
    root = Path(leap_rl.__file__).parents[1]
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(tmp_path / "script.py")]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
    assert {int(n) for n in re.findall(r"script\.py:(\d+): error", said)} == set(range(2, 2 + len(wrong))), said
