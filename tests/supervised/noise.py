"""Classes of noise: images without the flat background whose ties a max pooling breaks by rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from supervised.images import Images
from supervised.networks import ConvNet
from supervised.tasks import ClassificationTask, ClassificationTasks


@dataclass(frozen=True)
class Noise(ClassificationTask):
    """Four classes, each noise around an image of its own."""

    seed: int
    n: int = 40
    n_classes: int = 4
    n_blocks: int = 4

    def images(self) -> Images:
        generator = torch.Generator().manual_seed(self.seed)
        centers = torch.rand(self.n_classes, 1, 16, 16, generator=generator)
        labels = torch.arange(self.n) % self.n_classes
        x = centers[labels] + 0.3 * torch.rand(self.n, 1, 16, 16, generator=generator)
        return Images(x, labels, x.flip(0), labels.flip(0))

    def network(self) -> ConvNet:
        return ConvNet(self.n_classes, image_size=16, n_blocks=self.n_blocks)


def noise(n_tasks: int, updates: int = 2, **kwargs: int) -> list[Noise]:
    return [Noise(f"noise{i}", updates, 8, 0.05, None, seed=i, **kwargs) for i in range(n_tasks)]


class NoiseFamily(ClassificationTasks):
    def __init__(self, n_tasks: int) -> None:
        super().__init__(noise(n_tasks), "all", {})
