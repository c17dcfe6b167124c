"""The names that initializations use, mapped to those of SB3's policies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor

from leap_rl.core import NamedTensors, named_tensors

# An extractor may be there more than once: actor and critic that share none have one each, DQN, QRDQN and SAC have
# target networks. Each of them is "the encoder".
_ENCODER = re.compile(r"^(?:(?:q_net|quantile_net|actor|critic)(?:_target)?\.)?(?:pi_|vf_)?features_extractor\.")


def encoder_name(name: str) -> str | None:
    """The name by which initializations call a tensor of a policy, or ``None`` if it is not one of its encoder."""
    renamed, is_encoder = _ENCODER.subn("encoder.", name)
    return renamed if is_encoder else None


@named_tensors.register
def _(policy: BasePolicy) -> NamedTensors:
    def renamed(named: Iterable[tuple[str, Tensor]]) -> dict[str, list[Tensor]]:
        tensors: dict[str, list[Tensor]] = {}
        for name, tensor in named:
            copies = tensors.setdefault(encoder_name(name) or name, [])
            if not any(tensor is copy for copy in copies):
                copies.append(tensor)
        return tensors

    return NamedTensors(
        renamed(policy.named_parameters(remove_duplicate=False)), renamed(policy.named_buffers(remove_duplicate=False))
    )


@named_tensors.register
def _(model: BaseAlgorithm) -> NamedTensors:
    return named_tensors(model.policy)


def default_scope(policy: BasePolicy) -> str:
    """``"encoder"`` where the observations are images and an encoder is trained on them, else ``"all"``."""
    images = is_image_space(policy.observation_space, normalized_image=not policy.normalize_images)
    has_encoder = any(name.startswith("encoder.") for name in _trained(policy, named_tensors(policy)))
    return "encoder" if images and has_encoder else "all"


def observed_parameters(model: Any, scope: str) -> dict[str, Tensor]:
    """
    The parameters in scope that are trained, by the names of initializations: those that need a gradient, and that the
    policy's optimizer has.

    :param model: an SB3 model or policy
    :param scope: ``"encoder"`` or ``"all"``
    :raises ValueError: if none is in scope, or the model has two encoders, of which only one could be meta-learned
    """
    tensors = named_tensors(model).in_scope(scope)
    if any(len(copies) > 1 for copies in tensors.parameters.values()):
        raise ValueError(
            "the policy has an encoder for its actor and another for its critic, but one is meta-learned: "
            "leave share_features_extractor=True"
        )
    return _trained(getattr(model, "policy", model), tensors)


def _trained(policy: BasePolicy, tensors: NamedTensors) -> dict[str, Tensor]:
    optimizer = getattr(policy, "optimizer", None)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]} if optimizer else set()
    first = {name: copies[0] for name, copies in tensors.parameters.items()}
    return {name: p for name, p in first.items() if p.requires_grad and id(p) in owned}
