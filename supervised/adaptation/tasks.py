"""A pair of domains as a task: the source is learned, the target is the test."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from supervised.adaptation.domains import DIGITS, SIZE, load_pair
from supervised.adaptation.methods import METHODS, Adapting
from supervised.images import Images, Minibatches
from supervised.networks import Classifier, ConvNet
from supervised.tasks import ClassificationTask

BATCH_SIZE = 64
"""Images of each domain in an update."""
LEARNING_RATE = 0.05
"""Of SGD, at the start of its cosine annealing."""
ALONE = ("source-only", "target-labels")
"""Without adaptation: what is to be surpassed; and what learns the target's own labels, the ceiling."""


class PairedMinibatches(Minibatches):
    """To each minibatch of the source one of the target, behind it; labels are of the source alone."""

    def __init__(self, task: AdaptationTask, seed: int, device: torch.device) -> None:
        super().__init__(task, seed, False, device)
        _, self._target = task.halves()
        self._of_target = torch.Generator().manual_seed(seed ^ 0x5EED)
        self._left: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        x, y = super().next()
        if not self._left:
            rows = torch.randperm(len(self._target), generator=self._of_target)
            self._left = [part for part in rows.split(len(y)) if len(part) == len(y)]
        target = self._transformed(self._target[self._left.pop()], self._of_target)
        return torch.cat([x, target]), y


@dataclass(frozen=True)
class AdaptationTask(ClassificationTask):
    """
    Learn the source such that the target is classified, see ``ClassificationTask``.

    :param data_dir: as of ``load_domain``
    :param source: name of its domain
    :param target: name of its domain
    :param method: one of ``METHODS``, or of ``ALONE``
    :param weight: of the method's penalty
    :param limit: as of ``load_pair``
    :param run_seed: as of ``load_pair``
    :param n_filters: as of ``ConvNet``
    :param pseudo_labels: of the target. Given, the roles are exchanged: the target is learned with these, the source
        has no labels, and what was held out of it is the test. That is reverse validation (Ganin et al., 2016, 5.1.4)
    """

    data_dir: str
    source: str
    target: str
    method: str
    weight: float
    limit: int
    run_seed: int
    n_filters: int = 32
    pseudo_labels: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def images_per_update(self) -> int:
        return self.batch_size * (1 if self.method in ALONE else 2)

    def halves(self) -> tuple[Images, Tensor]:
        """What has labels, with the test; and what has none."""
        pair = load_pair(self.data_dir, self.source, self.target, self.limit, self.run_seed)
        if self.pseudo_labels is not None:
            labels = torch.tensor(self.pseudo_labels)
            return Images(pair.target, labels, pair.held_out, pair.held_out_labels), pair.source
        if self.method == "target-labels":
            return Images(pair.target, pair.target_labels, pair.test, pair.test_labels), pair.target
        return Images(pair.source, pair.source_labels, pair.test, pair.test_labels), pair.target

    def images(self) -> Images:
        return self.halves()[0]

    def network(self) -> Classifier:
        network = ConvNet(len(DIGITS), channels=3, image_size=SIZE, n_filters=self.n_filters)
        if self.method in ALONE:
            return network
        method = METHODS[self.method](network.head.in_features)  # type: ignore[arg-type]
        return Adapting(network.encoder, network.head, method, self.weight)

    def minibatches(self, seed: int, sets_aside: bool, device: torch.device) -> Minibatches:
        if self.method in ALONE:
            return Minibatches(self, seed, sets_aside, device)
        return PairedMinibatches(self, seed, device)


def check_weight(weight: float) -> None:
    """:raises ValueError: if it is not positive and finite"""
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight={weight} of a penalty must be above 0, and finite")
