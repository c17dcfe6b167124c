"""The names that initializations use, mapped to those of SB3's policies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core import NamedTensors, named_tensors
from leap_rl.running.as_json import as_json

# A target network is a copy that follows another network, and goes by the name of that one.
_TARGET = re.compile(r"^(q_net|quantile_net|actor|critic)_target\.")
# An extractor may be there more than once: actor and critic that share none have one each. Each is "the encoder".
_ENCODER = re.compile(r"^(?:(?:q_net|quantile_net|actor|critic)\.)?(?:pi_|vf_)?features_extractor\.")


def initialization_name(name: str) -> str:
    """The name by which initializations call a tensor of a policy."""
    return _ENCODER.sub("encoder.", _TARGET.sub(r"\1.", name))


def encoder_name(name: str) -> str | None:
    """The same, or ``None`` if the tensor is not one of its encoder."""
    renamed = initialization_name(name)
    return renamed if renamed.startswith("encoder.") else None


@named_tensors.register
def _(policy: BasePolicy) -> NamedTensors:
    def renamed(named: Iterable[tuple[str, Tensor]]) -> dict[str, list[Tensor]]:
        tensors: dict[str, list[Tensor]] = {}
        for name, tensor in named:
            copies = tensors.setdefault(initialization_name(name), [])
            if not any(tensor is copy for copy in copies):
                copies.append(tensor)
        return tensors

    return NamedTensors(
        renamed(policy.named_parameters(remove_duplicate=False)),
        renamed(policy.named_buffers(remove_duplicate=False)),
        as_json(getattr(policy, "activation_fn", None)),
    )


@named_tensors.register
def _(model: BaseAlgorithm) -> NamedTensors:
    return named_tensors(model.policy)


def optimizers(policy: BasePolicy) -> dict[str, Optimizer]:
    """
    Those that train a policy, by the part of it that they are for: ``"policy"`` where there is one, as of A2C, PPO and
    DQN; ``"actor"`` and ``"critic"`` where these have one each, as of SAC and TD3.
    """
    found = {name or "policy": getattr(module, "optimizer", None) for name, module in policy.named_modules()}
    return {name: optimizer for name, optimizer in found.items() if isinstance(optimizer, Optimizer)}


def targets(policy: BasePolicy) -> list[tuple[Tensor, Tensor]]:
    """Tensors of target networks, each with that which it follows."""
    tensors = policy.state_dict(keep_vars=True)
    return [(t, tensors[_TARGET.sub(r"\1.", name)]) for name, t in tensors.items() if _TARGET.match(name)]


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All that it moves."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def default_scope(policy: BasePolicy) -> str:
    """``"encoder"`` where the observations are images and an encoder is trained on them, else ``"all"``."""
    images = is_image_space(policy.observation_space, normalized_image=not policy.normalize_images)
    trained = _trained(policy, named_tensors(policy))
    learns = any(p.requires_grad for name, copies in trained.items() if name.startswith("encoder.") for p in copies)
    return "encoder" if images and learns else "all"


def observed_parameters(model: Any, scope: str) -> dict[str, Tensor]:
    """
    The parameters in scope that are trained, by the names of initializations: those that need a gradient, and that an
    optimizer of the policy has. Target networks are none of them.

    :param model: an SB3 model or policy
    :param scope: ``"encoder"``, ``"all"``, or another first part of the names: ``"actor"`` and ``"critic"`` of SAC
    :raises ValueError: if none is in scope, or the model has two encoders, of which only one could be meta-learned
    """
    policy = getattr(model, "policy", model)
    trained = _trained(policy, named_tensors(policy).in_scope(scope))
    if any(len(copies) > 1 for copies in trained.values()):
        raise ValueError(
            "the policy has an encoder for its actor and another for its critic, but one is meta-learned: "
            "give policy_kwargs={'share_features_extractor': True}; to learn without being observed, "
            "learner=NoPretraining()"
        )
    if scope in ("actor", "critic") and any(n.startswith("encoder.") for n in _trained(policy, named_tensors(policy))):
        raise ValueError(
            f"scope={scope!r} leaves out the encoder that the {scope} sees through, which is drawn anew for each task: "
            "choose 'encoder' or 'all'"
        )
    return {name: p for name, (p,) in trained.items() if p.requires_grad}


def _trained(policy: BasePolicy, tensors: NamedTensors) -> dict[str, list[Tensor]]:
    """Those that an optimizer has."""
    owned = {id(p) for optimizer in optimizers(policy).values() for p in parameters_of(optimizer)}
    trained = {name: [p for p in copies if id(p) in owned] for name, copies in tensors.parameters.items()}
    return {name: copies for name, copies in trained.items() if copies}
