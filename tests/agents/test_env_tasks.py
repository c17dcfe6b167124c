"""Any Gymnasium environment as a task."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.ppo import MlpPolicy

from leap_rl import FOMAML, EnvTasks, Leap, LeapA2C, LeapPPO, LeapSAC, MetaTrainer
from leap_rl.agents import RandomPolicies
from leap_rl.core import MAML, Initialization, InProcess, Job, NoPretraining

PPO_KWARGS = {"n_steps": 32, "batch_size": 32, "n_epochs": 2}


def heavier(mass: float) -> gym.Env[Any, Any]:
    env = gym.make("CartPole-v1")
    env.unwrapped.masspole = mass  # type: ignore[attr-defined]
    return env


def job(tasks: EnvTasks, index: int = 0, seed: int = 0, **kwargs: Any) -> Job:
    return Job(tasks[index], tasks.draw_initialization(None, 0), Leap(), seed, "cpu", **kwargs)


def test_a_learning_process_gives_back_all_that_is_needed() -> None:
    tasks = EnvTasks(LeapPPO, "MlpPolicy", {"light": lambda: heavier(0.05)}, 640, 2, PPO_KWARGS)
    reported: list[int] = []
    j = job(tasks, return_final=True)
    result = j.task.run(j, lambda steps, score=0.0: reported.append(steps))
    assert (result.name, result.status, result.steps) == ("light", "ok", 640)
    assert reported == list(range(64, 641, 64))
    assert result.statistics is not None and result.statistics.updates == 10 * 2 * 2
    assert result.meta_gradient is not None and result.final is not None
    assert result.meta_gradient.keys() == j.initialization.parameters.keys() == result.final.parameters.keys()
    assert (np.diff(result.curve.steps) >= 0).all() and result.curve.steps[-1] <= 640
    assert result.curve.values.sum() <= 640, "CartPole pays 1 per step, whole episodes only"
    assert [steps for steps, _ in result.log] == list(range(64, 641, 64))
    assert {"rollout/ep_rew_mean", "time/fps", "train/loss"} <= result.log[-1][1].keys()


def test_the_same_job_gives_the_same_bits_and_another_seed_others() -> None:
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 200, 2)
    first, again, other = (t.task.run(t, lambda *_: None) for t in (job(tasks), job(tasks), job(tasks, seed=1)))
    assert first.meta_gradient is not None and again.meta_gradient is not None and other.meta_gradient is not None
    for name, gradient in first.meta_gradient.items():
        assert torch.equal(gradient, again.meta_gradient[name])
    assert any(not torch.equal(g, other.meta_gradient[n]) for n, g in first.meta_gradient.items())


@pytest.mark.parametrize("fails", ["to be started", "while it learns", "not at all"])
def test_environments_are_closed_however_a_process_ends(fails: str) -> None:
    closed = []

    class Closes(gym.Wrapper):  # type: ignore[type-arg]
        def step(self, action: Any) -> Any:
            if fails == "while it learns":
                raise OSError("the power is off")
            return super().step(action)

        def close(self) -> None:
            closed.append(True)
            super().close()

    tasks = EnvTasks(LeapA2C, "MlpPolicy", {"it": lambda: Closes(gym.make("CartPole-v1"))}, 20, 2)
    start = tasks.draw_initialization(None, 0)
    closed.clear()
    if fails == "to be started":
        start = Initialization({"mlp_extractor.policy_net.0.weight": torch.zeros(3, 3)}, "all")
    j = Job(tasks[0], start, Leap(), 0, "cpu")
    with nullcontext() if fails == "not at all" else pytest.raises((OSError, ValueError)):
        j.task.run(j, lambda *_: None)
    assert len(closed) == 2


def test_what_is_not_in_scope_is_redrawn_at_every_visit() -> None:
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 10, 2)
    drawn = tasks.draw_initialization("all", 0)
    part = {n: t for n, t in drawn.parameters.items() if n.startswith("mlp_extractor.")}
    finals = []
    for seed in (0, 1):
        j = Job(tasks[0], Initialization(part, "mlp_extractor"), NoPretraining(), seed, "cpu", return_final=True)
        model_head: list[torch.Tensor] = []

        class Spy(LeapA2C):
            def learn(self, *args: Any, **kwargs: Any) -> Any:
                model_head.append(self.policy.action_net.weight.detach().clone())  # noqa: B023
                return super().learn(*args, **kwargs)

        task = EnvTasks(Spy, "MlpPolicy", ["CartPole-v1"], 10, 2)[0]
        task.run(j, lambda *_: None)
        finals.append(model_head[0])
    assert not torch.equal(finals[0], finals[1])


@pytest.mark.parametrize("learner", [Leap(), FOMAML()])
def test_a_process_that_diverges_says_so_instead_of_failing(learner: Any) -> None:
    """After its first update, when FOMAML has nothing to look at yet, too."""
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 400, 2, {"learning_rate": 1e30})
    j = Job(tasks[0], tasks.draw_initialization(None, 0), learner, 0, "cpu")
    assert j.task.run(j, lambda *_: None).status == "non_finite"


def test_an_error_of_the_environment_is_an_error() -> None:
    class Broken(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            raise ValueError("the simulator is gone")

    tasks = EnvTasks(LeapA2C, "MlpPolicy", {"broken": lambda: Broken(gym.make("CartPole-v1"))}, 100, 2)
    j = job(tasks)
    with pytest.raises(ValueError, match="the simulator is gone"):
        j.task.run(j, lambda *_: None)


def test_scope_all_needs_the_same_spaces_in_every_task() -> None:
    actions = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1", "Acrobot-v1"], 120)
    with pytest.raises(ValueError, match="the same observations in every task, but CartPole-v1 has"):
        MetaTrainer(actions, Leap(), 2)
    discrete = {str(n): partial(Seen, spaces.Box(-1, 1, (3,)), spaces.Discrete(n)) for n in (2, 3)}
    with pytest.raises(ValueError, match="scope='all' needs the same actions in every task, but 2 has"):
        MetaTrainer(EnvTasks(LeapA2C, "MlpPolicy", discrete, 120), Leap(), 2)
    MetaTrainer(EnvTasks(LeapA2C, "MlpPolicy", discrete, 120), Leap(), 2, scope="mlp_extractor")
    boxes = {str(n): partial(Seen, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (n,))) for n in (2, 3)}
    for scope in ("actor", "critic"):
        with pytest.raises(ValueError, match=f"scope='{scope}' needs the same actions in every task, but 2 has"):
            MetaTrainer(EnvTasks(LeapSAC, "MlpPolicy", boxes, 200), Leap(), 2, scope=scope)


def test_the_path_of_a_short_process_is_empty_and_the_trainer_warns() -> None:
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 50, 2)  # 5 updates; RMSprop is cold for 12
    meta = MetaTrainer(tasks, Leap(), 1, engine=InProcess(), seed=0, device="cpu")
    before = meta.initialization
    with pytest.warns(UserWarning, match="had 5 updates and all were skipped"):
        meta.learn(1)
    for name, tensor in meta.initialization.parameters.items():
        assert torch.equal(tensor, before.parameters[name])


@pytest.mark.parametrize("algorithm", [LeapA2C, LeapPPO])
def test_fomaml_takes_its_look_ahead_back(algorithm: Any) -> None:
    """One rollout more than the budget gives the gradient; θ^K is where the budget ends, bit for bit."""
    kwargs = {"n_steps": 8} if algorithm is LeapA2C else {"n_steps": 8, "batch_size": 8, "n_epochs": 2}
    # What is scheduled ends with the budget.
    kwargs |= {"learning_rate": lambda remaining: 1e-2 * remaining}
    tasks = EnvTasks(algorithm, "MlpPolicy", ["CartPole-v1"], timesteps=64, n_envs=2, algorithm_kwargs=kwargs)
    theta = tasks.draw_initialization(None, 0)
    plain, ahead = (
        tasks[0].run(Job(tasks[0], theta, learner, 3, "cpu", return_final=True), lambda *_: None)
        for learner in (NoPretraining(), FOMAML())
    )
    assert plain.final is not None and ahead.final is not None and ahead.meta_gradient is not None
    for name, tensor in plain.final.parameters.items():
        assert torch.equal(tensor, ahead.final.parameters[name])
    assert ahead.steps == plain.steps + 16
    np.testing.assert_array_equal(plain.curve.values, ahead.curve.values)
    assert all(g.norm() > 0 for g in ahead.meta_gradient.values())


@pytest.mark.parametrize("learner", [Leap(), FOMAML()])
def test_a_process_that_diverges_before_its_first_update(learner: Any) -> None:
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 64, n_envs=2)
    theta = tasks.draw_initialization(None, 0)
    for tensor in theta.parameters.values():
        tensor.fill_(float("nan"))
    result = tasks[0].run(Job(tasks[0], theta, learner, 0, "cpu"), lambda *_: None)
    assert result.status == "non_finite" and result.meta_gradient is None


@pytest.mark.parametrize("learner", [MAML(), Leap(loss_delta="same_batch")])
def test_a_learner_that_needs_more_than_sb3_shows_is_refused_before_any_run(learner: Any) -> None:
    with pytest.raises(ValueError, match="SB3"):
        MetaTrainer(EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 64), learner, 1)


def test_names_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"envs='CartPole-v1' must be a list: \['CartPole-v1'\]"):
        EnvTasks(LeapA2C, "MlpPolicy", "CartPole-v1", 64)
    with pytest.raises(ValueError, match="envs are listed twice: CartPole-v1"):
        EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1", "CartPole-v1"], 64)


def test_observations_in_parts_must_have_the_same_shapes() -> None:
    class Parts(gym.Env[Any, Any]):
        action_space = gym.spaces.Discrete(2)

        def __init__(self, size: int) -> None:
            self.observation_space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (size,))})

    tasks = EnvTasks(LeapA2C, "MultiInputPolicy", {"two": lambda: Parts(2), "three": lambda: Parts(3)}, 64)
    with pytest.raises(ValueError, match="needs the same observations in every task"):
        tasks.draw_initialization(None, 0)


def test_what_a_random_policy_has() -> None:
    policies = RandomPolicies(EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 6_001, n_envs=4))
    jobs = [Job(policies[0], policies.draw_initialization(None, 0), NoPretraining(), seed) for seed in (0, 0, 1)]
    first, same, other = (result for _, result in InProcess().run(jobs, lambda *_: None))
    assert (first.name, first.steps, first.curve.budget) == ("CartPole-v1", 6_004, 6_001)
    assert 18 < first.curve.area() < 26  # some 22 steps an episode, as is well known
    np.testing.assert_array_equal(first.curve.values, same.curve.values)
    assert first.curve.area() != other.curve.area()


@pytest.mark.parametrize("actions", [gym.spaces.Discrete(4), gym.spaces.MultiDiscrete([2, 3])], ids=str)
def test_a_random_policy_takes_no_masked_action(actions: gym.Space[Any]) -> None:
    kinds = pytest.importorskip("sb3_contrib")
    policies = RandomPolicies(
        EnvTasks(kinds.MaskablePPO, "MlpPolicy", {"m": partial(Masked, actions)}, 4_096, n_envs=2)
    )
    result = policies[0].run(
        Job(policies[0], policies.draw_initialization(None, 0), NoPretraining(), 0), lambda *_: None
    )
    assert result.curve.values.mean() == 8  # every step was allowed


class Seen(gym.Env[Any, Any]):
    """Observations and actions of any kind, and an episode of eight steps."""

    def __init__(self, observations: gym.Space[Any], actions: gym.Space[Any] | None = None) -> None:
        self.observation_space = observations
        self.action_space = actions or gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 8, False, {}


class Masked(Seen):
    """The first action alone is allowed, of each kind."""

    def __init__(self, actions: gym.Space[Any]) -> None:
        super().__init__(gym.spaces.Box(-1, 1, (2,)), actions)

    def action_masks(self) -> np.ndarray:
        sizes = [self.action_space.n] if isinstance(self.action_space, spaces.Discrete) else self.action_space.nvec
        return np.concatenate([np.arange(n) == 0 for n in sizes])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(not np.any(action)), terminated, truncated, info


spaces = gym.spaces
IMAGES = spaces.Box(0, 255, (40, 48, 3), np.uint8)


def families(policy: str, *envs: Any, **kwargs: Any) -> EnvTasks:
    """Of environments that are told apart by their letters."""
    return EnvTasks(LeapPPO, policy, dict(zip("abcdef", envs, strict=False)), 64, 2, PPO_KWARGS, **kwargs)


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        ("CnnPolicy", IMAGES, IMAGES),
        ("CnnPolicy", IMAGES, spaces.Box(0, 255, (3, 40, 48), np.uint8)),  # the same to the network
        ("MlpPolicy", spaces.Box(-1, 1, (3,)), spaces.Box(-2, 5, (3,))),
        ("MlpPolicy", spaces.MultiBinary(4), spaces.MultiBinary(4)),
        ("MlpPolicy", spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 3])),
        (
            "MultiInputPolicy",
            spaces.Dict({"eye": IMAGES, "arm": spaces.Box(-1, 1, (3,))}),
            spaces.Dict({"eye": IMAGES, "arm": spaces.Box(-9, 9, (3,))}),
        ),
    ],
)
def test_tasks_whose_observations_fit_one_network_share_it(policy: str, first: Any, second: Any) -> None:
    tasks = families(policy, lambda: Seen(first), lambda: Seen(second))
    theta = tasks.draw_initialization(None, 0)
    for task in tasks:
        result = task.run(Job(task, theta, Leap(), 0, "cpu"), lambda *_: None)
        assert result.status == "ok" and result.meta_gradient is not None
        assert result.meta_gradient.keys() == theta.parameters.keys()


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        ("MlpPolicy", spaces.Discrete(16), spaces.Discrete(64)),  # both of shape ()
        ("MlpPolicy", spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 4])),
        ("MlpPolicy", spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (4,))),
        ("CnnPolicy", IMAGES, spaces.Box(0, 255, (40, 50, 3), np.uint8)),
        ("MultiInputPolicy", spaces.Dict({"a": spaces.Discrete(3)}), spaces.Dict({"a": spaces.Discrete(4)})),
        ("MultiInputPolicy", spaces.Dict({"a": spaces.Discrete(3)}), spaces.Dict({"b": spaces.Discrete(3)})),
    ],
)
def test_tasks_whose_observations_need_another_network_are_refused(policy: str, first: Any, second: Any) -> None:
    tasks = families(policy, lambda: Seen(first), lambda: Seen(second))
    with pytest.raises(ValueError, match=r"needs the same observations in every task, but a has .* and b ") as refused:
        MetaTrainer(tasks, Leap(), 2, engine=InProcess())
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (spaces.Text(4), None),
        (spaces.Sequence(spaces.Discrete(2)), None),
        (spaces.Graph(spaces.Box(0, 1, (2,)), None), None),
        (spaces.Tuple([spaces.Discrete(2)]), None),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), None),
        (spaces.Discrete(3, start=1), None),
        (spaces.Box(0, 1, (0,)), None),
        (spaces.MultiDiscrete([[2, 3], [2, 3]]), None),
        (spaces.Discrete(3), spaces.Dict({"a": spaces.Discrete(2)})),
        (spaces.Discrete(3), spaces.Tuple([spaces.Discrete(2)])),
        (spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,))),
        (spaces.Discrete(3), spaces.MultiBinary([2, 2])),
        (spaces.Discrete(3), spaces.MultiDiscrete([[2, 2], [2, 2]])),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_what_sb3_can_not_learn_is_refused_on_one_line(observations: Any, actions: Any, is_first: bool) -> None:
    envs = [lambda: Seen(observations, actions), lambda: Seen(spaces.Discrete(3))]
    tasks = families("MlpPolicy", *(envs if is_first else reversed(envs)))
    with pytest.raises(ValueError, match=r"SB3 has no (network|policy) for") as refused:
        tasks.draw_initialization("mlp_extractor", 0)
    assert len(str(refused.value).splitlines()) == 1


def test_a_policy_that_is_not_for_such_observations_is_refused_on_one_line() -> None:
    with pytest.raises(ValueError, match="a can't be learned with CnnPolicy: You should use NatureCNN only with") as no:
        families("CnnPolicy", lambda: Seen(spaces.Box(-1, 1, (3,)))).draw_initialization(None, 0)
    assert len(str(no.value).splitlines()) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_images_of_two_layouts_in_one_observation_are_refused_on_one_line(is_first: bool) -> None:
    """SB3 transposes all of them, or none."""
    first = spaces.Box(0, 255, (3, 40, 48), np.uint8)
    envs = [lambda: Seen(spaces.Dict({"a": IMAGES, "b": first})), lambda: Seen(spaces.Dict({"a": first, "b": first}))]
    tasks = families("MultiInputPolicy", *(envs if is_first else reversed(envs)))
    with pytest.raises(ValueError, match=r"^[ab] can't be learned") as refused:
        tasks.draw_initialization(None, 0)
    assert len(str(refused.value).splitlines()) == 1


def test_evaluation_tasks_that_do_not_fit_are_refused_before_any_run() -> None:
    others = families("MlpPolicy", lambda: Seen(spaces.Discrete(4)))
    with pytest.raises(ValueError, match="for another network"):
        MetaTrainer(families("MlpPolicy", lambda: Seen(spaces.Discrete(3))), Leap(), 1, eval_tasks=others, eval_freq=1)


# -- what is given -----------------------------------------------------------------------------------


class OwnPolicy(ActorCriticPolicy):
    """A policy class of one's own."""


@pytest.mark.parametrize("policy", [MlpPolicy, OwnPolicy])
def test_all_that_numpy_and_torch_give_is_saved_and_gone_on_with(policy: Any, tmp_path: Path) -> None:
    def tasks() -> EnvTasks:
        kwargs = {
            "n_steps": np.int64(32),
            "batch_size": np.int32(32),
            "n_epochs": 1,
            "learning_rate": np.float32(1e-3),
            "clip_range": lambda remaining: 0.2 * remaining,
            "target_kl": np.float64(1.0),
            "policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": [np.int64(8)], "log_std_init": np.float32(0)},
        }
        return EnvTasks(LeapPPO, policy, {np.str_("a"): "CartPole-v1"}, np.int64(64), np.int32(2), kwargs)  # type: ignore[arg-type]

    learner = Leap(loss_scale=np.float32(0.5), skip_updates=np.int64(1))  # type: ignore[arg-type]
    numpy: Any = {
        "meta_batch_size": np.int64(1),
        "meta_optimizer_kwargs": {"lr": np.float32(0.1), "betas": np.array([0.9, 0.99])},
        "average_from": np.int64(1),
        "eval_freq": np.uint8(1),
        "keep_checkpoints": np.int64(2),
        "keep_every": np.int8(1),
        "seed": np.uint32(7),
        "device": torch.device("cpu"),
    }
    trainer = MetaTrainer(
        tasks(),
        learner,
        meta_optimizer_class=torch.optim.Adam,
        eval_tasks=tasks(),
        engine=InProcess(),
        run_dir=tmp_path / "run",
        tensorboard_log=tmp_path / "tensorboard",
        **numpy,
    )
    trainer.learn(np.int64(1))  # type: ignore[arg-type]
    resumed = MetaTrainer.load(tmp_path / "run", tasks(), eval_tasks=tasks(), engine=InProcess()).learn(1)
    resumed.initialization.save(tmp_path / "initialization")
    config = json.loads((tmp_path / "initialization" / "config.json").read_text())
    assert config["policy"] == f"{policy.__module__}.{policy.__qualname__}"
    assert (config["steps_per_visit"], config["n_envs"], config["meta_steps"], config["seed"]) == (64, 2, 2, 7)
    assert config["algorithm_kwargs"]["n_steps"] == 32
    assert config["algorithm_kwargs"]["policy_kwargs"]["activation_fn"] == "torch.nn.modules.activation.ReLU"


@pytest.mark.parametrize("wrong", [True, 64.0, "64", None, 0, -1])
@pytest.mark.parametrize("name", ["timesteps", "n_envs"])
def test_budgets_are_integers(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}=.* must be (an integer|at least 1)") as refused:
        EnvTasks(LeapPPO, "MlpPolicy", ["CartPole-v1"], **{"timesteps": 64, "n_envs": 2, name: wrong})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("meta_batch_size", 1.0),
        ("meta_batch_size", True),
        ("seed", 0.5),
        ("seed", -1),
        ("seed", 2**31),
        ("eval_freq", 1.5),
        ("average_from", 2.0),
        ("keep_every", 0.5),
        ("keep_checkpoints", 1.0),
    ],
)
def test_a_trainers_integers_are_integers(name: str, wrong: Any, tmp_path: Path) -> None:
    given: Any = {"meta_batch_size": 1, "run_dir": tmp_path, name: wrong}
    with pytest.raises(ValueError, match=f"{name}=") as refused:
        MetaTrainer(EnvTasks(LeapPPO, "MlpPolicy", ["CartPole-v1"], 64, 2, PPO_KWARGS), Leap(), **given)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("envs", [{1: "CartPole-v1"}, {"a": None}, {"a": 3}])
def test_environments_that_are_none(envs: Any) -> None:
    with pytest.raises(ValueError, match=r"envs has .* but needs a name and"):
        EnvTasks(LeapPPO, "MlpPolicy", envs, 64)


# -- ids of one's own --------------------------------------------------------------------------------


def test_what_is_registered_here_is_known_wherever_a_task_goes(tmp_path: Path, monkeypatch: Any) -> None:
    """Unpickled where none of it is registered: ids, functions that make by an id, specs, versions, modules."""
    (tmp_path / "registers_an_id.py").write_text(
        "import gymnasium as gym\n"
        "class FromModule(gym.Env):\n"
        "    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)\n"
        "    size = 8\n"
        "gym.register('FromModule-v0', FromModule)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    class Mine(gym.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)

        def __init__(self, render_mode: str | None = None, size: int = 0) -> None:
            self.size = size

    ids = ["Mine-v0", "Mine-v3", "ours/Mine-v1", "Bare"]
    for env_id in ids:
        gym.register(env_id, Mine, kwargs={"size": 5}, max_episode_steps=7)
    lock = threading.Lock()
    gym.register("NeverPickled-v0", lambda: lock)
    envs = {
        **{env_id: env_id for env_id in ids},
        "newest": "Mine",
        "spec": gym.spec("Mine-v0"),
        "inside": lambda: gym.wrappers.TimeLimit(gym.make("Mine-v3"), 2),
        "module": "registers_an_id:FromModule-v0",
    }
    tasks = EnvTasks(LeapPPO, "MlpPolicy", envs, 64)
    sent = cloudpickle.dumps([*tasks, *RandomPolicies(tasks)])
    for env_id in [*ids, "NeverPickled-v0"]:
        del gym.registry[env_id]
    gym.register("Mine-v0", "nowhere:Nothing")  # of a script as it was before
    made = [task.make_vec_env("all", 1) for task in pickle.loads(sent)[: len(envs)]]
    sizes = dict(zip(envs, [env.get_attr("size")[0] for env in made], strict=True))
    assert sizes == {**dict.fromkeys([*ids, "newest", "spec", "inside"], 5), "module": 8}
    assert [env.get_attr("spec")[0].id for env in made[4:5]] == ["Mine-v3"]
    for env_id in ids:
        gym.registry.pop(env_id, None)


@pytest.mark.slow
def test_a_script_with_ids_of_its_own_meta_trains_in_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "from leap_rl import EnvTasks, Leap, LeapPPO, MetaTrainer\n"
        "class H(CartPoleEnv):\n    pass\n"
        "gym.register('H-v0', entry_point=H, max_episode_steps=50)\n"
        "gym.register('S-v0', entry_point='__main__:H', max_episode_steps=50)\n"
        "envs = {'a': 'H-v0', 'b': 'S-v0', 'c': lambda: gym.make('H-v0')}\n"
        "tasks = EnvTasks(LeapPPO, 'MlpPolicy', envs, 64, 2, {'n_steps': 32, 'batch_size': 32})\n"
        "trainer = MetaTrainer(tasks, Leap(), 3, seed=0, n_workers=2, device='cpu').learn(1)\n"
        "print([row['status'] for row in trainer.history[0]['tasks']])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['ok', 'ok', 'ok']"
