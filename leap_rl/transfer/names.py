"""The names that initializations use, mapped to those of SB3's policies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor

from leap_rl.core import NamedTensors, named_tensors

# Policies that do not share their extractor between actor and critic have two; either is "the encoder".
_ENCODERS = ("features_extractor.", "pi_features_extractor.", "vf_features_extractor.")


@named_tensors.register
def _(policy: ActorCriticPolicy) -> NamedTensors:
    def renamed(named: Iterable[tuple[str, Tensor]]) -> dict[str, list[Tensor]]:
        tensors: dict[str, list[Tensor]] = {}
        for name, tensor in named:
            for prefix in _ENCODERS:
                if name.startswith(prefix):
                    name = "encoder." + name.removeprefix(prefix)
                    break
            copies = tensors.setdefault(name, [])
            if not any(tensor is copy for copy in copies):
                copies.append(tensor)
        return tensors

    return NamedTensors(
        renamed(policy.named_parameters(remove_duplicate=False)), renamed(policy.named_buffers(remove_duplicate=False))
    )


@named_tensors.register
def _(model: BaseAlgorithm) -> NamedTensors:
    if not isinstance(model, A2C | PPO):
        raise TypeError(
            f"an initialization can't be applied to {type(model).__name__} yet: it takes A2C, PPO, LeapA2C and LeapPPO"
        )
    return named_tensors(model.policy)


def default_scope(policy: ActorCriticPolicy) -> str:
    """``"encoder"`` where the observations are images, else ``"all"``."""
    space = policy.observation_space
    return "encoder" if is_image_space(space, check_channels=False) else "all"


def observed_parameters(model: Any, scope: str) -> dict[str, Tensor]:
    """
    The parameters in scope, by the names of initializations.

    :param model: an SB3 model or policy
    :param scope: ``"encoder"`` or ``"all"``
    :raises ValueError: if none is in scope, or the model has two encoders, of which only one could be meta-learned
    """
    tensors = named_tensors(model).in_scope(scope).parameters
    if any(len(copies) > 1 for copies in tensors.values()):
        raise ValueError(
            "the policy has an encoder for its actor and another for its critic, but one is meta-learned: "
            "leave share_features_extractor=True"
        )
    return {name: copies[0] for name, copies in tensors.items()}
