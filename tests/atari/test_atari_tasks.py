"""Games as tasks: learned in any engine to the same bits, refused at once where they can't be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO

from leap_rl import AtariTasks, Initialization, Leap, LeapA2C, LeapPPO, MetaTrainer, Mnih2013CNN, Reptile
from leap_rl.core import InProcess, Workers

GAMES = ["Pong", "Breakout"]
MNIH = {"policy_kwargs": {"features_extractor_class": Mnih2013CNN, "features_extractor_kwargs": {"features_dim": 256}}}


def tasks(algorithm: Any = LeapA2C, **kwargs: Any) -> AtariTasks:
    settings = {"games": GAMES, "timesteps": 80, "n_envs": 2, **kwargs}
    return AtariTasks(algorithm, "CnnPolicy", **settings)


@pytest.mark.slow
def test_meta_training_on_games_in_both_engines_to_the_same_bits() -> None:
    thetas = [
        MetaTrainer(tasks(), Leap(skip_updates=0), 2, engine=engine, seed=0, device="cpu").learn(2).initialization
        for engine in (InProcess(), Workers(2))
    ]
    assert thetas[0].scope == "encoder"
    for name, tensor in thetas[0].parameters.items():
        assert name.startswith("encoder.")
        assert torch.equal(tensor, thetas[1].parameters[name])
    assert thetas[0].config["preprocessing"] == "ale-vector-2"
    assert thetas[0].config["tasks"] == GAMES
    assert (thetas[0].config["network"], thetas[0].config["timesteps"]) == ("NatureCNN", 2 * 2 * 80)


def test_scope_all_has_the_full_action_set_and_meta_learns_the_head() -> None:
    meta = MetaTrainer(tasks(), Reptile(), 2, scope="all", engine=InProcess(), seed=0, device="cpu").learn(1)
    assert meta.initialization.parameters["action_net.weight"].shape == (18, 512)


def test_the_network_of_the_paper_in_colour_with_ppo() -> None:
    family = tasks(
        PPO,
        algorithm_kwargs={**MNIH, "n_steps": 16, "batch_size": 16, "n_epochs": 1},
        env_kwargs={"grayscale": False, "frame_stack": 1, "clip_reward": 5.0},
    )
    assert family[0].algorithm is LeapPPO
    theta = MetaTrainer(family, Leap(), 1, engine=InProcess(), seed=0, device="cpu").learn(1).initialization
    assert theta.parameters["encoder.cnn.0.weight"].shape == (16, 3, 8, 8)
    assert theta.config["observation_shape"] == [3, 84, 84]


def test_the_encoder_starts_a_game_with_other_actions() -> None:
    theta = tasks().draw_initialization(None, 3)
    for algorithm in (A2C, PPO):
        for game in ("Seaquest", "Pong"):
            env = tasks(games=[game])[0].make_vec_env("encoder")
            model = algorithm("CnnPolicy", env, seed=1, device="cpu")
            head = model.policy.action_net.weight.detach().clone()
            theta.apply_to(model)
            for extractor in ("features_extractor", "pi_features_extractor", "vf_features_extractor"):
                weight = getattr(model.policy, extractor).cnn[0].weight
                assert torch.equal(weight, theta.parameters["encoder.cnn.0.weight"])
            assert torch.equal(head, model.policy.action_net.weight)
            env.close()


def test_both_copies_are_filled_where_a_policy_keeps_two() -> None:
    theta = tasks().draw_initialization(None, 3)
    env = tasks()[0].make_vec_env("encoder")
    model = PPO("CnnPolicy", env, policy_kwargs={"share_features_extractor": False}, device="cpu")
    Initialization(theta.parameters, "encoder").apply_to(model)
    for extractor in (model.policy.pi_features_extractor, model.policy.vf_features_extractor):
        assert torch.equal(extractor.linear[0].weight, theta.parameters["encoder.linear.0.weight"])
    env.close()


def test_an_initialization_for_another_network_is_refused() -> None:
    theta = tasks(algorithm_kwargs=MNIH).draw_initialization(None, 0)
    with pytest.raises(ValueError, match=r"encoder\.cnn\.0\.weight \(16, 4, 8, 8\): the model has \(32, 4, 8, 8\)"):
        MetaTrainer(tasks(), Leap(), 1, initialization=theta)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"games": ["Pong", "SpaceInvader"]}, "SpaceInvaders"),
        ({"games": ["Pong", "ALE/Pong-v5"]}, "twice: Pong"),
        ({"games": []}, "number of tasks"),
        ({"timesteps": 0}, "timesteps=0 must be at least 1"),
        ({"timesteps": -5}, "timesteps=-5"),
        ({"n_envs": 0}, "n_envs=0 must be at least 1"),
        ({"algorithm_kwargs": {"learning_rat": 1e-3}}, "did you mean 'learning_rate'"),
        ({"algorithm_kwargs": {"seed": 1}}, "'seed'"),
    ],
)
def test_bad_input(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks(**kwargs)


@pytest.mark.parametrize(
    ("games", "scope", "kwargs", "message"),
    [
        (["SpaceInvaders"], "encoder", {"mode": 3}, "env_kwargs has 'mode', but a flavour of a game is a task"),
        (["SpaceInvaders"], "encoder", {"difficulty": 1}, "such as SpaceInvaders-m3-d1"),
        (["Pong", "Breakout"], "all", {"full_action_space": False}, "Pong has 6 and Breakout 4 of its own: give"),
        (["Pong", "Breakout"], "action_net", {}, "needs the same actions in every task"),
    ],
)
def test_tasks_that_would_fail_when_they_are_visited(games: list[str], scope: str, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks(games=games, env_kwargs=kwargs).draw_initialization(scope, 0)
    tasks(games=["Breakout", "Breakout-m4"], env_kwargs={"full_action_space": False}).draw_initialization("all", 0)


def test_an_algorithm_that_cannot_be_observed() -> None:
    with pytest.raises(ValueError, match="TRPO can't be observed: TRPO moves its actor by line search"):
        tasks(TRPO)


def test_a_scope_that_matches_nothing() -> None:
    with pytest.raises(ValueError, match="'torso' matches no parameter"):
        MetaTrainer(tasks(), Leap(), 1, scope="torso")
