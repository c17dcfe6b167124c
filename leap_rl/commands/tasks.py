"""From settings to tasks, environments and agents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal, get_args

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents import EnvTasks
from leap_rl.agents.cartpole import Variants, cartpole_family
from leap_rl.agents.observed import default_arguments
from leap_rl.agents.tasks import OBSERVED
from leap_rl.atari import POOLS, AtariTasks, make_atari_env, rom_id
from leap_rl.running.outside import first_line
from leap_rl.settings import AgentSettings, AtariSettings
from leap_rl.transfer import Mnih2013CNN, NatureLNCNN

EXTRACTORS: dict[Literal["nature-ln", "mnih2013"], type[BaseFeaturesExtractor]] = {
    "nature-ln": NatureLNCNN,
    "mnih2013": Mnih2013CNN,
}
"""Those of images that are not SB3's, by the names of settings."""
SMALLEST_IMAGE = 36
"""Of fewer pixels, in height or width, SB3's network of images has no output."""


def algorithm(agent: AgentSettings) -> type[BaseAlgorithm]:
    """:raises ModuleNotFoundError: for one of sb3-contrib, where that is not installed"""
    library = next(library for library, names in OBSERVED.items() if agent.algorithm in names)
    found: type[BaseAlgorithm] = getattr(import_module(library), agent.algorithm)
    return found


def policy(agent: AgentSettings, env: str = "") -> str:
    """
    SB3's policy for what is observed.

    :param env: Gymnasium id; none: a game
    :raises ValueError: for a network that does not fit what is observed, and for what ``check_env`` refuses
    """
    space = check_env(env) if env else None
    if isinstance(space, gym.spaces.Dict):
        if agent.network is not None:
            raise ValueError(
                f"agent.network is {agent.network}: observations of several parts have their own, leave it out"
            )
        return _named("MultiInput", agent)
    images = space is None or (is_image_space(space) and sorted(space.shape or ())[1] >= SMALLEST_IMAGE)
    may_be = ["nature", *EXTRACTORS] if images else []
    if env:
        may_be.append("mlp")
    if agent.network not in (None, *may_be):
        why = "" if env else ", since games are images"
        raise ValueError(f"agent.network is {agent.network}: here it must be {' or '.join(may_be)}{why}")
    return _named("Cnn" if images and agent.network != "mlp" else "Mlp", agent)


def _named(network: str, agent: AgentSettings) -> str:
    return f"{network}LstmPolicy" if agent.algorithm == "RecurrentPPO" else f"{network}Policy"


def algorithm_kwargs(agent: AgentSettings, policy_name: str) -> dict[str, Any]:
    """
    What is given, as the constructor of the observed algorithm takes it.

    :param policy_name: SB3's; where it has an encoder, actor and critic of SAC and its like share one, as those of A2C
        do: one is meta-learned
    :raises ValueError: for what the algorithm does not have
    """
    kwargs = {
        name: value
        for name, value in dataclasses.asdict(agent).items()
        if name not in ("algorithm", "network", "n_envs", "arithmetic") and value is not None
    }
    kind = algorithm(agent)
    known = default_arguments(kind)
    for name in kwargs:
        option = f"agent.{name.replace('_', '-')}"
        if name == "n_steps" and issubclass(kind, OffPolicyAlgorithm):  # where SB3 means returns of n steps by it
            raise ValueError(f"{option} is of agents without a replay buffer: of {agent.algorithm} it is train-freq")
        if name not in known:
            raise ValueError(f"{option} is of other algorithms: {agent.algorithm} has none")
    if not policy_name.startswith("Mlp") and agent.algorithm in ("SAC", "TD3", "DDPG", "TQC"):
        kwargs["policy_kwargs"] = {"share_features_extractor": True}
    if agent.network in EXTRACTORS:
        # SB3 puts two hidden layers between any extractor but NatureCNN and the heads, unless told not to.
        extractor = {"features_extractor_class": EXTRACTORS[agent.network], "net_arch": []}
        kwargs.setdefault("policy_kwargs", {}).update(extractor)
    if agent.arithmetic == "fast":
        kwargs["arithmetic"] = "fast"
    return kwargs


def atari_kwargs(atari: AtariSettings) -> dict[str, Any]:
    """As ``make_atari_env`` takes them."""
    return {
        "grayscale": atari.grayscale,
        "frame_stack": atari.frame_stack,
        "clip_reward": atari.clip_reward,
        "action_repeat_probability": atari.sticky_actions,
    }


def make_tasks(
    games: Sequence[str], envs: Sequence[str], timesteps: int, agent: AgentSettings, atari: AtariSettings
) -> EnvTasks:
    """
    :param games: and pools of them
    :param envs: Gymnasium ids, or one kind of CartPoles
    :raises ValueError: for none or both of them, or what is unknown
    """
    if bool(games) == bool(envs):
        raise ValueError(f"give either games or envs, not {'both' if games else 'neither'}")
    kind = algorithm(agent)
    if games:
        names = [name for game in games for name in POOLS.get(game, (game,))]
        name = policy(agent)
        kwargs = algorithm_kwargs(agent, name)
        return AtariTasks(kind, name, names, timesteps, agent.n_envs, kwargs, env_kwargs=atari_kwargs(atari))
    families: dict[str, Variants] = {f"cartpole-{variants}": variants for variants in get_args(Variants)}
    if envs[0] in families:
        if len(envs) > 1:
            raise ValueError(f"{envs[0]} is a family of its own: give it alone")
        kwargs = algorithm_kwargs(agent, policy(agent, "CartPole-v1"))
        return cartpole_family(families[envs[0]], timesteps, agent.n_envs, kind, kwargs)
    for env in envs:
        check_env(env, families)
    name = policy(agent, envs[0])
    return EnvTasks(kind, name, list(envs), timesteps, agent.n_envs, algorithm_kwargs(agent, name))


def check_env(env: str, families: Sequence[str] | dict[str, Any] = ()) -> gym.Space[Any]:
    """
    :return: what is observed there
    :raises ValueError: if Gymnasium knows no such id, or lacks what the environment needs
    """
    try:
        made = gym.make(env)
        made.close()
        return made.observation_space
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"{env} can't be made: {' '.join(str(error).split())}") from None
    except gym.error.Error as error:
        also = f"; or one of {', '.join(families)}" if families else ""
        raise ValueError(f"no Gymnasium id {env!r}: {' '.join(str(error).split())}{also}") from None
    except ModuleNotFoundError as error:
        raise ValueError(f"{env} can't be made: {first_line(error)}") from None
    except Exception as error:  # whatever somebody's environment does
        raised = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{env} can't be made: its constructor raised {raised}") from error


def make_env(game: str, env: str, n_envs: int, atari: AtariSettings, seed: int) -> VecEnv:
    """
    :param game: or a pool of flavours of one, which are then learned together, by the environments in turn
    :raises ValueError: for none or both of game and env, or what is unknown
    """
    if bool(game) == bool(env):
        raise ValueError(f"give either a game or an env, not {'both' if game else 'neither'}")
    if game:
        games = POOLS.get(game, (game,))
        if len({rom_id(name) for name in games}) > 1:
            raise ValueError(f"{game} is a pool of different games: one game is learned, or the flavours of one")
        return make_atari_env(games, n_envs, seed=seed, **atari_kwargs(atari))
    check_env(env)
    return make_vec_env(env, n_envs, seed=seed)
