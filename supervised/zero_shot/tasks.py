"""Signs by their attributes: some are learned, and others that were never seen are told by their description."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from supervised.images import Images, as_float
from supervised.multi_cv.data import SIZE, load
from supervised.networks import Classifier, ConvNet
from supervised.tasks import ClassificationTask

FILE = Path(__file__).with_name("gtsrb.csv")
N_CLASSES = 43
UNSEEN = 8


@dataclass(frozen=True)
class Attributes:
    """
    What classes are described as.

    :param classes: names, by label
    :param names: of the attributes
    :param has: whether a class has an attribute, shape (classes, attributes)
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    has: Tensor


@lru_cache(maxsize=8)
def read_attributes(file: Path = FILE, n_classes: int = N_CLASSES) -> Attributes:
    """
    :param file: CSV with the columns label, sign and attributes, which are words
    :param n_classes: that it must describe
    :raises ValueError: if it doesn't describe each class once, or two of them alike
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = sorted(csv.DictReader(lines), key=lambda row: int(row["label"]))
            described = {int(row["label"]): (row["sign"], frozenset(row["attributes"].split())) for row in rows}
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no CSV with the columns label, sign, attributes: {error}") from None
    if [int(row["label"]) for row in rows] != list(range(n_classes)):
        raise ValueError(f"{file} must describe each label from 0 to {n_classes - 1} once")
    names = sorted({name for _, attributes in described.values() for name in attributes})
    for label, (sign, attributes) in described.items():
        for other, (same, theirs) in described.items():
            if label < other and attributes == theirs:
                raise ValueError(f"{file} describes {sign} and {same} alike: nothing could tell them apart")
    has = torch.tensor([[name in attributes for name in names] for _, attributes in described.values()])
    return Attributes(tuple(sign for sign, _ in described.values()), tuple(names), has)


def unseen_classes(seed: int, n: int = UNSEEN) -> list[int]:
    """
    Labels to hold out, drawn such that each of their attributes is one of a seen class, too.

    :param seed: of the draw
    :param n: how many
    :raises ValueError: if there are not so many
    """
    has = read_attributes().has
    if not 2 <= n <= len(has) - 2:
        raise ValueError(f"{n} unseen classes: there are 2 to {len(has) - 2}, of {len(has)}")
    rng = np.random.default_rng([seed, 43])
    held_out: list[int] = []
    for label in rng.permutation(len(has)).tolist():
        seen = [i for i in range(len(has)) if i not in (*held_out, label)]
        if len(held_out) < n and (has[label] <= has[seen].any(dim=0)).all():
            held_out.append(label)
    if len(held_out) < n:
        raise ValueError(
            f"{n} unseen classes: of those that seed {seed} draws only {len(held_out)} leave all their attributes to "
            "a seen class"
        )
    return sorted(held_out)


class AttributeHead(nn.Module):
    """
    Attributes from features; and logits of classes from these, Σ log p(attribute) over those that a class has and log
    (1 - p) over the others, which are the direct attribute prediction of Lampert et al. (2009), but with classes of
    which each is as likely (ours: they also divide by the frequency of attributes).

    :param n_features: of the encoder
    :param seen: what the classes of training have, shape (classes, attributes)
    :param tested: what those of the test have
    """

    def __init__(self, n_features: int, seen: Tensor, tested: Tensor) -> None:
        super().__init__()
        self.attributes = nn.Linear(n_features, seen.shape[1])
        # No buffers: an initialization of one set of classes is tested on another.
        self.seen, self.tested = seen.float(), tested.float()

    def forward(self, features: Tensor) -> Tensor:
        z = self.attributes(features)
        has = (self.seen if self.training else self.tested).to(z)
        logits: Tensor = nn.functional.logsigmoid(z) @ has.T + nn.functional.logsigmoid(-z) @ (1 - has).T
        return logits


class AttributeNet(Classifier):
    """
    ``ConvNet`` whose head goes through attributes. Beside the cross entropy of seen classes each attribute is learned
    as such, which is what makes it mean the same in a class that was not seen.

    :param seen: as of ``AttributeHead``
    :param tested: as of ``AttributeHead``
    :param n_filters: as of ``ConvNet``
    """

    head: AttributeHead

    def __init__(self, seen: Tensor, tested: Tensor, n_filters: int = 64) -> None:
        network = ConvNet(1, channels=3, image_size=SIZE, n_filters=n_filters)
        n_features = network.head.in_features
        super().__init__(network.encoder, AttributeHead(n_features, seen, tested))  # type: ignore[arg-type]
        self._logits: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self._logits = super().forward(images)
        return self._logits

    def penalty(self, labels: Tensor) -> Tensor:
        """The binary cross entropy of all attributes, which is -log of the label's own logit, per attribute."""
        assert self._logits is not None
        own = self._logits.gather(1, labels[:, None])
        return -own.mean() / self.head.seen.shape[1]


@dataclass(frozen=True)
class SignsTask(ClassificationTask):
    """
    Learn the seen signs; the test is on others, see ``ClassificationTask``.

    :param data_dir: as of ``supervised.multi_cv.data.load``
    :param unseen: labels that are held out
    :param generalized: test on all signs, seen ones and unseen ones, not on unseen ones among themselves
    :param of_unseen: of the generalized test, images of unseen signs, or of seen ones
    :param n_filters: as of ``ConvNet``
    """

    data_dir: str
    unseen: tuple[int, ...]
    generalized: bool = False
    of_unseen: bool = True
    n_filters: int = 64

    @property
    def seen(self) -> list[int]:
        return [label for label in range(N_CLASSES) if label not in self.unseen]

    @property
    def tested(self) -> list[int]:
        """Labels between which the test decides."""
        return list(range(N_CLASSES)) if self.generalized else list(self.unseen)

    def images(self) -> Images:
        data = load(self.data_dir, "gtsrb")
        train, labels = _of(data.train, data.train_labels, self.seen, self.seen)
        tested = list(self.unseen) if self.of_unseen else self.seen
        return Images(train, labels, *_of(data.test, data.test_labels, tested, self.tested))

    def network(self) -> Classifier:
        has = read_attributes().has
        return AttributeNet(has[self.seen], has[self.tested], self.n_filters)


def _of(images: Tensor, labels: Tensor, chosen: Sequence[int], places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images of chosen labels, and the places of their labels among others."""
    rows = torch.isin(labels, torch.tensor(list(chosen)))
    place = torch.full((N_CLASSES,), -1)
    place[list(places)] = torch.arange(len(places))
    return images[rows], place[labels[rows]]


def signs_task(data_dir: str, seed: int, updates: int, n_filters: int = 64, n_unseen: int = UNSEEN) -> SignsTask:
    """
    :param data_dir: as of ``SignsTask``
    :param seed: of the draw of unseen signs
    :param updates: of the learning process, of 64 images
    :param n_filters: as of ``ConvNet``
    :param n_unseen: signs to hold out
    """
    unseen = tuple(unseen_classes(seed, n_unseen))
    return SignsTask("signs", updates, 64, 0.05, as_float, data_dir, unseen, n_filters=n_filters, annealing=True)
