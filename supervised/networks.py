"""The network of the paper's supervised experiments."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """
    An encoder and a head on it: what can be shared between tasks, and what is each task's own.

    :param encoder: of images, to shape (batch, features)
    :param head: to logits, shape (batch, classes)
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        # CPUs and GPUs convolve faster so: an update of ConvNet on a CPU takes 0.6 of the time that it takes without.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """
        :param images: shape (batch, channels, height, width)
        :return: logits, shape (batch, classes)
        """
        logits: Tensor = self.head(self.encoder(images))
        return logits

    one_at_a_time = False
    """Whether it can be learned only while no other task of its network is."""

    # What a learning process calls around an update, for networks that ask for more than a gradient step.

    def before_update(self, progress: float, overall: float) -> None:
        """
        :param progress: how far the present pass over the images is, from 0 to 1
        :param overall: the same of the whole learning process
        """

    def penalty(self, labels: Tensor) -> Tensor | float:
        """
        Added to the loss of what the network just computed.

        :param labels: of the minibatch
        """
        return 0.0

    def before_step(self) -> None:
        """Between the backward pass and the step of the optimizer."""

    def after_step(self) -> None:
        """When the optimizer has stepped."""


def check_has_no_hooks(model: Classifier, what: str, called: Collection[str] = ()) -> None:
    """
    :param what: trains it
    :param called: the hooks that it calls
    :raises ValueError: for a classifier that asks for others
    """
    for hook in ("before_update", "penalty", "before_step", "after_step"):
        if hook not in called and getattr(type(model), hook) is not getattr(Classifier, hook):
            raise ValueError(f"{type(model).__name__} has {hook}, which {what} does not call")


def conv_blocks(channels: int, n_filters: int, n_blocks: int, n_pools: int | None = None) -> nn.Sequential:
    """
    Blocks of convolution 3×3, batch norm, 2×2 max pooling and ReLU.

    Pooling comes before the ReLU, which gives the same bits, since both are monotone, at a quarter of the work.

    :param channels: of what goes in
    :param n_filters: of each convolution
    :param n_blocks: how many
    :param n_pools: so many of the first ones pool; ``None``: all
    """
    layers: list[nn.Module] = []
    for i in range(n_blocks):
        layers += [
            nn.Conv2d(channels if i == 0 else n_filters, n_filters, kernel_size=3, padding=1),
            nn.BatchNorm2d(n_filters),
            *([nn.MaxPool2d(2)] if n_pools is None or i < n_pools else []),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class ConvNet(Classifier):
    """
    Blocks of convolution 3×3 with 64 filters, batch norm, ReLU and 2×2 max pooling, then a linear head (appendix D of
    the paper: four blocks for 28×28 images).

    :param n_classes: of the head
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_blocks: each halves the image
    :param n_filters: of each convolution
    """

    def __init__(
        self, n_classes: int, channels: int = 1, image_size: int = 28, n_blocks: int = 4, n_filters: int = 64
    ) -> None:
        size = image_size // 2**n_blocks
        if size < 1:
            raise ValueError(f"images of {image_size}×{image_size} are too small for {n_blocks} blocks that halve them")
        encoder = nn.Sequential(*conv_blocks(channels, n_filters, n_blocks), nn.Flatten())
        super().__init__(encoder, nn.Linear(n_filters * size * size, n_classes))
