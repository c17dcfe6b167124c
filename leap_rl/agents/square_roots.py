"""Square roots in an optimizer's step, which zeros do not make slow."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer, RMSprop

LEAST = torch.finfo(torch.float32).tiny
"""1.2e-38: roots of what is smaller are slow, too."""
WORTH_IT = 1 << 14
"""Values of a parameter from which on it pays."""


class MeanSquare(Tensor):
    """v of RMSprop or Adam, of which ``sqrt`` takes what is less than ``LEAST`` for that."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # all else is a tensor's

    def sqrt(self) -> Tensor:
        return self.clamp_min(LEAST).sqrt_()


def spare_slow_roots(optimizer: Optimizer) -> None:
    """
    Take no roots of zeros in the steps of RMSprop and Adam on a CPU, to the same bits.

    Where torch is built with MKL, the root of a zero takes 12 to 25 times as long as any other. Zeros are not rare in a
    mean squared gradient: what a unit that is never positive is multiplied by, or a pixel that is never lit, has none.
    Of the Nature network from random weights that is a thirtieth of all values, from an encoder that has learned other
    games up to nine tenths. Both optimizers add ε to the root: then that of a zero and that of ``LEAST``, 1e-19, are
    the same.

    :param optimizer: of an agent; others, and those with an ε that is too small for it, are left as they are
    """
    if type(optimizer) in (RMSprop, Adam, AdamW):
        of_torch = optimizer._init_group  # type: ignore[attr-defined]
        optimizer._init_group = partial(_init_group, optimizer, of_torch)  # type: ignore[attr-defined]


def _init_group(
    optimizer: Optimizer, of_torch: Callable[..., bool], group: dict[str, Any], *lists: list[Tensor]
) -> bool:
    """torch's step gathers by this what it works on: it gets other views of the same v, and goes on as ever."""
    is_complex = of_torch(group, *lists)
    # What Adam divides the root by is least in the first step.
    least_divisor = math.sqrt(1 - float(group["betas"][1])) if "betas" in group else 1.0
    if group.get("fused") or group.get("foreach") or math.sqrt(LEAST) / least_divisor > float(group["eps"]) * 2**-26:
        return is_complex
    states = (optimizer.state[p] for p in group["params"] if _is_slow(p))
    means = {id(v) for s in states for name, v in s.items() if name in ("square_avg", "exp_avg_sq", "max_exp_avg_sq")}
    for gathered in lists:
        for i, tensor in enumerate(gathered):
            if id(tensor) in means:
                gathered[i] = tensor.as_subclass(MeanSquare)
    return is_complex


def _is_slow(p: Tensor) -> bool:
    return p.grad is not None and p.numel() >= WORTH_IT and p.dtype is torch.float32 and p.device.type == "cpu"
