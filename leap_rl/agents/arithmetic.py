"""Fast arithmetic: what changes bits for speed, where the hardware has it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from leap_rl.core.arithmetic import multiplies_bfloat16
from leap_rl.transfer.names import optimizers

ARITHMETIC_VERSION = "fast-2"
"""Of what fast arithmetic computes; another where its bits change, so that scores are measured again."""


def speed_up(model: BaseAlgorithm) -> list[str]:
    """
    Compute an SB3 model's updates faster, to other bits: convolutions channels last, the feature extractor in bfloat16
    where the hardware multiplies it faster than float32, and a fused optimizer where torch has one. What is outside the
    extractor, heads and losses, stays float32, and so do the parameters, under their names. A saved agent is a plain
    one in SB3.

    ``torch.compile`` is left out: on a CPU it needs a compiler, which not every machine has.

    :param model: with its policy and optimizer
    :return: what was found to be possible, in words
    """
    done = []
    policy = model.policy
    extractors = [m for m in policy.modules() if isinstance(m, BaseFeaturesExtractor)]
    if any(isinstance(m, nn.Conv2d) for extractor in extractors for m in extractor.modules()):
        for extractor in extractors:
            extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        done.append("channels-last convolutions")
        if multiplies_bfloat16(model.device):
            for extractor in extractors:
                _autocast(extractor, model.device.type)
            done.append("bfloat16 feature extractor")
            if any([take_bytes(m) for m in policy.modules() if isinstance(m, BaseModel)]):
                done.append("images as bytes")
    if any([fuse(optimizer) for optimizer in optimizers(policy).values()]):
        done.append("fused Adam")
    return done


def take_bytes(model: BaseModel) -> bool:
    """
    Let a Nature network have images as they are: bfloat16 holds 0 to 255 exactly, so the first convolution's weights
    are divided by 255 in their place, which spares float32 copies of all images.

    :param model: a policy or a network of it, with one feature extractor
    :return: whether it has such a network; then it does
    """
    extractor = getattr(model, "features_extractor", None)
    is_nature = isinstance(extractor, NatureCNN) and type(extractor).forward is NatureCNN.forward
    if not (is_nature and model.normalize_images and is_image_space(model.observation_space)):
        return False
    if not getattr(model, "share_features_extractor", True):
        return False
    assert isinstance(extractor, NatureCNN)
    first: Any = extractor.cnn[0]
    # Partial, so that a copy has its own.
    first.forward = partial(_convolve_bytes, first)
    model.extract_features = partial(_extract_from_bytes, model)  # type: ignore[method-assign]
    return True


def _extract_from_bytes(model: BaseModel, obs: Any, features_extractor: Any = None) -> Any:
    own: Any = model.features_extractor
    extractor = own if features_extractor is None else features_extractor
    if extractor is own and isinstance(obs, Tensor) and obs.dtype == torch.uint8:
        return extractor(obs)
    return type(model).extract_features(model, obs, extractor)


def _convolve_bytes(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    if x.dtype != torch.uint8:
        return nn.Conv2d.forward(convolution, x)
    return convolution._conv_forward(x.to(torch.bfloat16), convolution.weight / 255, convolution.bias)


def fuse(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has a fused kernel, which it then uses; RMSprop has none."""
    if not isinstance(optimizer, torch.optim.Adam):
        return False
    for group in optimizer.param_groups:
        group.update(fused=True, foreach=False)
    return True


def unfuse(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """
    Undo ``fuse``, which a state that was saved may hold.

    :param groups: its own, or those of its state
    """
    if isinstance(optimizer, torch.optim.Adam) and not optimizer.defaults.get("fused"):
        for group in (group for group in groups if group.get("fused")):
            group.update({name: optimizer.defaults.get(name) for name in ("fused", "foreach")})


def weights_cast_once(device: torch.device) -> torch.autocast:
    """
    Within this context weights that do not change are cast to bfloat16 once, not in every forward pass. A change by
    ``.data`` is not seen: torch counts none of it.
    """
    return torch.autocast(device.type, enabled=False)  # torch keeps casts until the outermost context is left


def _autocast(module: Any, device_type: str) -> None:
    """Run a module's forward pass in bfloat16, and give its output back in float32. So does a copy of it."""
    module.bfloat16_on, module.bfloat16_running, module.bfloat16_of = device_type, [], []
    module.register_forward_pre_hook(_enter_bfloat16)
    module.register_forward_hook(_leave_bfloat16, always_call=True)


def _enter_bfloat16(module: Any, _args: Any) -> None:
    versions = [(id(p), p._version) for p in module.parameters()]
    # A kept cast is of the weights as they were, and if made under no_grad, no gradient goes through it.
    if versions != module.bfloat16_of or torch.is_grad_enabled():
        torch.clear_autocast_cache()
        module.bfloat16_of = versions
    module.bfloat16_running.append(torch.autocast(module.bfloat16_on, dtype=torch.bfloat16))
    module.bfloat16_running[-1].__enter__()


def _leave_bfloat16(module: Any, _args: Any, output: Any) -> Any:
    module.bfloat16_running.pop().__exit__(None, None, None)
    return output.float() if isinstance(output, Tensor) else output
