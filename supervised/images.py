"""The images of a task, and what a learning process sees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from supervised.tasks import ClassificationTask

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""Images, shape (n, channels, height, width), to float ones; whatever it draws, it draws from the generator."""


def as_float(images: Tensor, generator: torch.Generator) -> Tensor:
    """
    Bytes to [0, 1].

    :param images: uint8
    :param generator: not drawn from
    """
    return images.float() / 255


@dataclass(frozen=True)
class Images:
    """
    What a classifier learns, and what it is tested on.

    :param train: shape (n, channels, height, width), as the task's transform takes them
    :param train_labels: int64, shape (n,)
    :param test: as ``train``
    :param test_labels: as ``train_labels``
    :param validation: as ``train``, to stop early by, and to judge visits of meta-training by in place of the test
    :param validation_labels: as ``train_labels``
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    validation: Tensor | None = None
    validation_labels: Tensor | None = None


class Minibatches:
    """
    What a learning process sees of its images, transformed: a function of its seed.

    :param task: what is learned
    :param seed: of order and transform
    :param sets_aside: whether one batch is never learned from, for the look ahead of FOMAML and MAML
    :param device: where the images go
    :raises ValueError: if there are too few images
    """

    def __init__(self, task: ClassificationTask, seed: int, sets_aside: bool, device: torch.device) -> None:
        self.images = task.images()
        self._transform = task.transform
        self._batch_size = task.batch_size
        self.seed = seed
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(self.images.train), generator=self._generator)
        aside = self._batch_size if sets_aside else 0
        self._unseen, self._rows = rows[:aside], rows[aside:]
        self.per_pass = len(self._rows) // self._batch_size
        if not self.per_pass:
            raise ValueError(
                f"{task.name} has {len(rows)} images to learn from, too few for minibatches of {self._batch_size}"
                + " and one to set aside" * sets_aside
            )
        self._pass: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        """Images and labels, in one shuffled pass after the other; what fills no minibatch is left out of its pass."""
        if not self._pass:
            shuffled = self._rows[torch.randperm(len(self._rows), generator=self._generator)]
            self._pass = list(shuffled[: self.per_pass * self._batch_size].split(self._batch_size))
        return self._train(self._pass.pop())

    @property
    def n_unseen(self) -> int:
        """Images of ``unseen``."""
        return len(self._unseen)

    def unseen(self) -> tuple[Tensor, Tensor]:
        """The batch that was set aside."""
        return self._train(self._unseen)

    def test(self) -> tuple[Tensor, Tensor]:
        """All test images, transformed the same way each time."""
        return self._same_each_time(self.images.test, self.images.test_labels)

    def validation(self) -> tuple[Tensor, Tensor]:
        """All validation images, transformed the same way each time."""
        assert self.images.validation is not None and self.images.validation_labels is not None
        return self._same_each_time(self.images.validation, self.images.validation_labels)

    def train_images(self) -> Iterator[Tensor]:
        """All that may be learned from, transformed the same way each time, in minibatches as good as equally large."""
        generator = torch.Generator().manual_seed(self.seed)
        for rows in self._rows.tensor_split(-(-len(self._rows) // self._batch_size)):
            if len(rows) > 1:
                yield self._transformed(self.images.train[rows], generator)

    def _same_each_time(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._transformed(x, torch.Generator().manual_seed(self.seed)), y.to(self._device)

    def _train(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x = self._transformed(self.images.train[rows], self._generator)
        return x, self.images.train_labels[rows].to(self._device)

    def _transformed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return (x if self._transform is None else self._transform(x, generator)).to(self._device)
