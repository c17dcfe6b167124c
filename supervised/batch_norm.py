"""What batch norm does while a network that was trained before learns something new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNorm = Literal["update", "freeze", "recompute"]
"""
``"update"``: each minibatch is normalized by its own statistics, and running ones are kept (plain training);
``"freeze"``: the running statistics that the network came with stay, and normalize; ``"recompute"``: as freeze, with
statistics that are first computed anew on the images to learn from.
"""


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Its layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def check_batch_norm(how: BatchNorm, model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """
    :param how: batch norm is to be handled
    :param model: that learns
    :param buffers: of the initialization that it starts from
    :raises ValueError: if there is none to handle, or nothing that could be frozen: statistics are never meta-learned,
        so those of a Leap or Reptile start are a fresh network's, mean 0 and variance 1
    """
    if how == "update":
        return
    if not batch_norms(model):
        raise ValueError(f"batch norm: {how}, but {type(model).__name__} has none that keeps statistics")
    means = [b for name, b in buffers.items() if name.endswith("running_mean")]
    variances = [b for name, b in buffers.items() if name.endswith("running_var")]
    if how == "freeze" and all(not m.any() for m in means) and all(bool((v == 1).all()) for v in variances):
        raise ValueError(
            "batch norm: freeze, but the start's statistics are a fresh network's 0 and 1, since they are not "
            "meta-learned: use update, or recompute"
        )


@torch.no_grad()
def recompute(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None) -> None:
    """
    Compute all running statistics anew, in one pass: of each layer given the batch statistics of those before it.

    :param model: is left in training mode
    :param batches: of inputs, of equal weight
    :param forward: a forward pass of the model on one of them; ``None``: they are its inputs
    """
    layers = batch_norms(model)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average
    model.train()
    for x in batches:
        (forward or model)(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def train_mode(model: nn.Module, how: BatchNorm) -> None:
    """Let a model learn."""
    model.train()
    if how != "update":
        for layer in batch_norms(model):
            layer.eval()
