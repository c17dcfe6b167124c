"""An output layer of actions, fitted to a game that has others."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from leap_rl.core import Initialization, InitializationError, fit_head, named_tensors

Head = Literal["map", "redraw"]
HEAD = ("action_net.weight", "action_net.bias")
SPREAD = "log_std"
"""Of a head of continuous actions."""


@fit_head.register
def _(model: BaseAlgorithm, initialization: Initialization, head: str) -> Initialization:
    """
    The head's rows for the actions of a model's environment.

    :param model: an actor-critic of discrete actions, with its environment
    :param initialization: of scope ``"all"``, with the meaning of each row in ``config["action_meanings"]``
    :param head: ``"map"`` takes the row of the action that means the same; ``"redraw"`` leaves the model's own head
    :raises InitializationError: if there is no head, or nothing says what its actions mean
    """
    if head not in get_args(Head):
        raise ValueError(f"head={head!r} is unknown, choose {' or '.join(get_args(Head))}")
    if not all(name in initialization.parameters for name in HEAD):
        raise InitializationError(
            f"head={head!r}, but the initialization has none (its scope is {initialization.scope!r}): "
            "leave head out, and the model keeps its own"
        )
    if not hasattr(model.policy, "action_net"):
        raise InitializationError(
            f"{type(model).__name__} has no head of an actor: head={head!r} is for A2C, PPO and kin"
        )
    own = named_tensors(model).parameters
    if head == "redraw":
        fitted = {name: own[name][0].detach().cpu().clone() for name in (*HEAD, SPREAD) if name in own}
    else:
        rows = _rows(initialization.config.get("action_meanings"), _meanings(model))
        fitted = {name: initialization.parameters[name][rows].clone() for name in HEAD}
    kept = {name: tensor for name, tensor in initialization.parameters.items() if name not in (*HEAD, SPREAD)}
    parameters = kept | fitted
    return Initialization(parameters, initialization.scope, initialization.buffers, dict(initialization.config))


def _meanings(model: BaseAlgorithm) -> list[str]:
    env = model.get_env()
    if env is None:
        raise InitializationError("the model has no environment, which says what its actions mean: model.set_env first")
    meanings = action_meanings(env)
    if meanings is None:
        raise InitializationError(
            'the environment does not say what its actions mean (get_action_meanings): use head="redraw"'
        )
    return meanings


def action_meanings(env: VecEnv | None) -> list[str] | None:
    """What actions mean, such as ``["NOOP", "FIRE"]``; ``None`` of an environment that does not say."""
    # Asked first: a process of SubprocVecEnv does not outlive a call of what is not there.
    if env is None or not env.has_attr("get_action_meanings"):
        return None
    return list(env.env_method("get_action_meanings", indices=[0])[0])


def _rows(theirs: Any, ours: list[str]) -> Tensor:
    if not isinstance(theirs, list):
        raise InitializationError(
            'the initialization does not say what its actions mean (config["action_meanings"]): use head="redraw"'
        )
    missing = [meaning for meaning in ours if meaning not in theirs]
    if missing:
        raise InitializationError(
            f'the initialization has no action {", ".join(missing)} (only {", ".join(theirs)}): use head="redraw"'
        )
    return torch.tensor([theirs.index(meaning) for meaning in ours])
