"""Any Gymnasium environment as a task."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from leap_rl import FOMAML, EnvTasks, Leap, LeapA2C, LeapPPO, MetaTrainer
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
    result = j.task.run(j, reported.append)
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
    first, again, other = (t.task.run(t, lambda n: None) for t in (job(tasks), job(tasks), job(tasks, seed=1)))
    assert first.meta_gradient is not None and again.meta_gradient is not None and other.meta_gradient is not None
    for name, gradient in first.meta_gradient.items():
        assert torch.equal(gradient, again.meta_gradient[name])
    assert any(not torch.equal(g, other.meta_gradient[n]) for n, g in first.meta_gradient.items())


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
        task.run(j, lambda n: None)
        finals.append(model_head[0])
    assert not torch.equal(finals[0], finals[1])


@pytest.mark.parametrize("learner", [Leap(), FOMAML()])
def test_a_process_that_diverges_says_so_instead_of_failing(learner: Any) -> None:
    """After its first update, when FOMAML has nothing to look at yet, too."""
    tasks = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1"], 400, 2, {"learning_rate": 1e30})
    j = Job(tasks[0], tasks.draw_initialization(None, 0), learner, 0, "cpu")
    assert j.task.run(j, lambda n: None).status == "non_finite"


def test_an_error_of_the_environment_is_an_error() -> None:
    class Broken(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            raise ValueError("the simulator is gone")

    tasks = EnvTasks(LeapA2C, "MlpPolicy", {"broken": lambda: Broken(gym.make("CartPole-v1"))}, 100, 2)
    j = job(tasks)
    with pytest.raises(ValueError, match="the simulator is gone"):
        j.task.run(j, lambda n: None)


def test_scope_all_needs_the_same_spaces_in_every_task() -> None:
    actions = EnvTasks(LeapA2C, "MlpPolicy", ["CartPole-v1", "Acrobot-v1"], 100)
    with pytest.raises(ValueError, match="the same observations in every task, but CartPole-v1 has"):
        MetaTrainer(actions, Leap(), 2)


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
    tasks = EnvTasks(algorithm, "MlpPolicy", ["CartPole-v1"], timesteps=64, n_envs=2, algorithm_kwargs=kwargs)
    theta = tasks.draw_initialization(None, 0)
    plain, ahead = (
        tasks[0].run(Job(tasks[0], theta, learner, 3, "cpu", return_final=True), lambda steps: None)
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
    result = tasks[0].run(Job(tasks[0], theta, learner, 0, "cpu"), lambda steps: None)
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
    first, same, other = (result for _, result in InProcess().run(jobs, lambda index, steps: None))
    assert (first.name, first.steps, first.curve.budget) == ("CartPole-v1", 6_004, 6_001)
    assert 18 < first.curve.area() < 26  # some 22 steps an episode, as is well known
    np.testing.assert_array_equal(first.curve.values, same.curve.values)
    assert first.curve.area() != other.curve.area()
