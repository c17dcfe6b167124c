"""From settings to tasks, environments and agents."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from leap_rl.agents import EnvTasks
from leap_rl.agents.observed import default_arguments
from leap_rl.agents.spaces import check_spaces
from leap_rl.agents.tasks import OBSERVED, check_names
from leap_rl.atari import POOLS, AtariTasks, game_name, make_atari_env, rom_id
from leap_rl.families import FAMILIES, Split, family_named
from leap_rl.running.outside import first_line
from leap_rl.settings import AgentSettings, AtariSettings
from leap_rl.transfer import Mnih2013CNN, NatureLNCNN

_log = logging.getLogger(__name__)

EXTRACTORS: dict[Literal["nature-ln", "mnih2013"], type[BaseFeaturesExtractor]] = {
    "nature-ln": NatureLNCNN,
    "mnih2013": Mnih2013CNN,
}
"""Those of images that are not SB3's, by the names of settings."""
JUDGE_ACTIONS = ("SAC", "TD3", "DDPG", "TQC")
"""Their critics take actions beside the features. SB3 gives them hidden layers behind any extractor: they need some."""
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
    network: dict[str, Any] = {}
    if agent.network in EXTRACTORS:
        network["features_extractor_class"] = EXTRACTORS[agent.network]
    if agent.algorithm in JUDGE_ACTIONS:
        if not policy_name.startswith("Mlp"):
            network["share_features_extractor"] = True
    elif network:
        # SB3 puts two hidden layers between any extractor but NatureCNN and the heads, unless told not to.
        network["net_arch"] = []
    if network:
        kwargs["policy_kwargs"] = network
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
    games: Sequence[str],
    envs: Sequence[str],
    timesteps: int,
    agent: AgentSettings,
    atari: AtariSettings,
    family: str | None = None,
    split: Split = "training",
) -> EnvTasks:
    """
    :param games: and pools of them
    :param envs: Gymnasium ids, and variants of families
    :param family: whose variants are learned, in place of games and envs
    :param split: of the family
    :raises ValueError: for none or several of them, or what is unknown
    :raises ModuleNotFoundError: if what the family needs is not installed
    """
    if bool(games) + bool(envs) + bool(family) != 1:
        raise ValueError(f"give one of games, envs and family, not {'several' if games or envs else 'none'}")
    kind = algorithm(agent)
    if family:
        variants = family_named(family)
        name = policy(agent, f"{family}/{split}-0")
        variants = dataclasses.replace(variants, policy=name)
        return variants.tasks(split, kind, timesteps, agent.n_envs, algorithm_kwargs(agent, name))
    name = policy(agent, envs[0] if envs else "")
    kwargs = algorithm_kwargs(agent, name)
    if games:
        names = [one for game in games for one in POOLS.get(game, (game,))]
        return AtariTasks(kind, name, names, timesteps, agent.n_envs, kwargs, env_kwargs=atari_kwargs(atari))
    for env in envs:
        check_env(env)
        warn_of_raw_frames(env)
    check_names("envs", envs)
    return EnvTasks(kind, name, {env: id_or_maker(env) for env in envs}, timesteps, agent.n_envs, kwargs)


def id_or_maker(env: str) -> str | Callable[[], gym.Env[Any, Any]]:
    """
    :param env: a Gymnasium id, or a variant of a family, such as ``cartpole/test-3``
    :return: the id, or what makes the variant
    :raises ValueError: for a variant that there is not
    """
    name, is_variant, variant = env.partition("/")
    if not is_variant or name not in FAMILIES:
        return env
    envs = family_named(name).envs(variant.rpartition("-")[0])  # type: ignore[arg-type]
    if env not in envs:
        raise ValueError(f"no variant {env!r}: there are {next(iter(envs))} to {next(reversed(envs))}")
    return envs[env]


def check_env(env: str) -> gym.Space[Any]:
    """
    :return: what is observed there
    :raises ValueError: if Gymnasium knows no such id, or lacks what the environment needs
    """
    made: gym.Env[Any, Any]
    maker = id_or_maker(env)
    try:
        made = gym.make(maker) if isinstance(maker, str) else maker()
        made.close()
        return made.observation_space
    except gym.error.DependencyNotInstalled as error:
        raise ValueError(f"{env} can't be made: {' '.join(str(error).split())}") from None
    except gym.error.Error as error:
        raise ValueError(f"no Gymnasium id {env!r}: {' '.join(str(error).split())}") from None
    except ModuleNotFoundError as error:
        raise ValueError(f"{env} can't be made: {first_line(error)}") from None
    except Exception as error:  # whatever somebody's environment does
        raised = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{env} can't be made: its constructor raised {raised}") from error


def warn_of_raw_frames(env: str) -> None:
    """:param env: Gymnasium id"""
    if env.startswith("ALE/"):
        _log.warning("%s shows raw frames: as a game (%s) it has Atari's preprocessing", env, game_name(env))


def make_env(
    game: str, env: str, n_envs: int, atari: AtariSettings, seed: int, full_action_space: bool = False
) -> VecEnv:
    """
    :param game: or a pool of flavours of one, which are then learned together, by the environments in turn
    :param full_action_space: of a game: ALE's 18 actions
    :raises ValueError: for none or both of game and env, or what is unknown
    """
    if bool(game) == bool(env):
        raise ValueError(f"give either a game (--game) or an env (--env), not {'both' if game else 'neither'}")
    if game:
        games = POOLS.get(game, (game,))
        if len({rom_id(name) for name in games}) > 1:
            raise ValueError(f"{game} is a pool of different games: one game is learned, or the flavours of one")
        return make_atari_env(games, n_envs, seed=seed, full_action_space=full_action_space, **atari_kwargs(atari))
    check_env(env)
    warn_of_raw_frames(env)
    return make_vec_env(id_or_maker(env), n_envs, seed=seed, wrapper_class=check_spaces)
