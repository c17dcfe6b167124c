"""What SB3 makes of an environment's spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.distributions import make_proba_distribution
from stable_baselines3.common.preprocessing import check_for_nested_spaces, get_flattened_obs_dim, get_obs_shape


def check_spaces(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """
    :param env: one environment; a wrapper for ``make_vec_env``, which wraps nothing
    :return: itself
    :raises ValueError: for observations or actions of a kind that SB3's policies don't take, on one line
    """
    observations, actions = env.observation_space, env.action_space
    try:
        check_for_nested_spaces(observations)
        network_input(observations)
    except NotImplementedError:
        raise ValueError(f"SB3 has no network for observations of {_on_one_line(observations)}") from None
    try:
        make_proba_distribution(actions)
        if isinstance(actions, spaces.Box):
            assert np.isfinite(actions.low).all() and np.isfinite(actions.high).all()
        if isinstance(actions, spaces.MultiDiscrete):
            assert actions.nvec.ndim == 1
    except (NotImplementedError, AssertionError):
        raise ValueError(f"SB3 has no policy for actions of {_on_one_line(actions)}") from None
    return env


def network_input(space: gym.Space[Any]) -> Any:
    """
    What of a space of observations decides the shape of a network: of two spaces with the same one network takes both,
    whatever their bounds.

    :raises NotImplementedError: for a kind that SB3 does not preprocess
    """
    if isinstance(space, spaces.Dict):
        return {key: network_input(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start != 0):
        raise NotImplementedError  # its one-hot vectors start at 0
    if (isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1) or 0 in get_obs_shape(space):
        raise NotImplementedError
    return get_obs_shape(space), int(get_flattened_obs_dim(space))


def _on_one_line(space: gym.Space[Any]) -> str:
    return " ".join(str(space).split())
