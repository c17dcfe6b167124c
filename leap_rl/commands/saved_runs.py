"""Agents of runs of ``leap-rl train``: how one was made lies beside it, so its pickle is left alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents import ObservedTraining, observed_algorithm
from leap_rl.agents.observed import default_arguments
from leap_rl.agents.tasks import OBSERVED
from leap_rl.commands.run_folder import stored_settings
from leap_rl.commands.tasks import algorithm, algorithm_kwargs, policy
from leap_rl.core import NoPretraining
from leap_rl.running.outside import first_line
from leap_rl.settings import AgentSettings, AtariSettings
from leap_rl.transfer.saved_agent import SavedAgent


def settings_of(run: Path) -> tuple[str, str, AgentSettings, AtariSettings]:
    """
    :param run: folder of ``leap-rl train``
    :return: game and env, one of which is empty, the agent, and the preprocessing
    """
    stored = stored_settings(run, "train")

    def fields(section: str) -> dict[str, Any]:
        return {key.replace("-", "_"): value for key, value in stored.get(section, {}).items()}

    try:
        agent, atari = AgentSettings(**fields("agent")), AtariSettings(**fields("atari"))
        if not any(agent.algorithm in names for names in OBSERVED.values()):
            raise ValueError(f"algorithm is {agent.algorithm!r}")
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{run / 'settings.yaml'} is not as leap-rl train writes it: {error}") from None
    return stored.get("game", ""), stored.get("env", ""), agent, atari


def agent_of(
    saved: Path,
    agent: AgentSettings,
    env: VecEnv,
    game: str,
    env_name: str,
    seed: int | None = None,
    device: str = "auto",
) -> BaseAlgorithm:
    """
    :param saved: zip of a run
    :param agent: that it was trained with
    :param env: to play in
    :param game: if it is one
    :param env_name: of the environment, if it is no game
    :raises ValueError: if it is damaged, or does not fit the environment
    """
    plays = dataclasses.replace(agent, arithmetic="exact")
    kind = observed_algorithm(algorithm(agent))
    if not kind.replays() and "batch_size" in default_arguments(kind):
        plays = dataclasses.replace(plays, n_steps=2, batch_size=2)  # with one environment those of its run may not do
    model = new_model(plays, env, game, env_name, 1, seed, device)
    SavedAgent(saved).fill(model)
    if "exploration_final_eps" in vars(model):  # of DQN and QRDQN: they explore as much as when they were saved
        vars(model)["exploration_rate"] = vars(model)["exploration_final_eps"]
    return model


def new_model(
    agent: AgentSettings, env: VecEnv, game: str, env_name: str, steps: int, seed: int | None, device: str
) -> ObservedTraining:
    """
    :param env: to learn in
    :param game: if it is one
    :param env_name: of the environment, if it is no game
    :param steps: that it will learn for
    :raises ValueError: for an environment that the agent can't learn
    """
    policy_name = policy(agent, env_name)
    kind = observed_algorithm(algorithm(agent))
    kind.check_env(game or env_name, env)
    kwargs = kind.arguments(algorithm_kwargs(agent, policy_name), steps, env.num_envs)
    try:
        return kind(policy_name, env, learner=NoPretraining(), seed=seed, device=device, **kwargs)
    except AssertionError as error:  # how SB3 says what it does not take
        raise ValueError(f"{agent.algorithm} can't learn {game or env_name} so: {first_line(error)}") from None
