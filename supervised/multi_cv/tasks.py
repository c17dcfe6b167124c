"""Data sets as tasks: each of its own kind, each with a head of its own (Flennerhag et al., ICLR 2019, appendix E)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from supervised.images import Images
from supervised.multi_cv.data import DATA_SETS, SIZE, MultiCVError, load
from supervised.networks import ConvNet
from supervised.tasks import ClassificationTask, ClassificationTasks

# Not published, so ours.
LEARNING_RATE = 0.1
"""Of SGD, at the start of its cosine annealing: that of the paper's Omniglot experiment."""
VALIDATION = 0.15
"""Share of the training images: that of Serrà et al."""

PATIENCE = 10
"""Validations without improvement (appendix E: "10 steps"); a validation after each pass over the images (ours)."""


@dataclass(frozen=True)
class Normalize:
    """
    Bytes to float, less the mean and by the standard deviation of each channel.

    :param mean: of the channels, in [0, 1]
    :param std: as ``mean``
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """
        :param images: uint8, shape (batch, channels, height, width)
        :param generator: not drawn from
        """
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images.float() / 255 - mean) / std


@lru_cache(maxsize=len(DATA_SETS))
def _images(
    data_dir: str, name: str, seed: int, limit: int | None, fold: tuple[int, int] | None = None
) -> tuple[Images, Normalize]:
    """Of a data set, and how they are normalized."""
    data = load(data_dir, name)
    rng = np.random.default_rng(np.random.SeedSequence([seed, *name.encode()]))
    rows = _at_most(limit, data.train_labels.numpy(), rng)
    in_validation = _split(data.train_labels.numpy()[rows], data.groups.numpy()[rows], rng)
    train, validation = torch.from_numpy(rows[~in_validation]), torch.from_numpy(rows[in_validation])
    test_images, test_labels = data.test, data.test_labels
    test = torch.from_numpy(_at_most(limit, data.test_labels.numpy(), rng))
    if fold is not None:
        number, n_folds = fold
        drawn = np.random.default_rng(np.random.SeedSequence([seed, n_folds, *name.encode()]))
        of = torch.from_numpy(_folds(data.train_labels[train].numpy(), data.groups[train].numpy(), n_folds, drawn))
        test_images, test_labels, test = data.train, data.train_labels, train[of == number]
        train = train[of != number]
    for part, chosen in (("learn from", train), ("validate on", validation)):
        missing = sorted({*range(DATA_SETS[name].n_classes)} - {*data.train_labels[chosen].unique().tolist()})
        if missing:
            raise MultiCVError(
                f"{name}: {len(missing)} classes have no image to {part} (numbers {', '.join(map(str, missing[:5]))}"
                f"{' …' * (len(missing) > 5)}), of {len(rows)} in use: each wants two, of two tracks in GTSRB and no "
                f"copies of each other in notMNIST{'; take more of them with --limit' * (limit is not None)}"
            )
    images = Images(
        data.train[train],
        data.train_labels[train],
        test_images[test],
        test_labels[test],
        data.train[validation],
        data.train_labels[validation],
    )
    # Of bytes, so the counts of their values hold all there is to know.
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.train.unbind(1)])
    share, values = counts.double() / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = share @ values
    std = (share @ values.square() - mean.square()).sqrt()
    return images, Normalize(tuple(mean.tolist()), tuple(std.tolist()))


def _at_most(limit: int | None, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of so many images, of all classes in the shares that they have, sorted."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    shuffled = rng.permutation(len(labels))
    # Each image at its place within its class, from 0 to 1: the first ones of all classes.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return np.sort(shuffled[np.argsort(place[shuffled], kind="stable")[:limit]])


def _split(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether each image is for validation: of each class a share, at least one group, and groups whole."""
    chosen: set[int] = set()
    for label in np.unique(labels):
        of_class = groups[labels == label]
        taken = sum(group in chosen for group in of_class.tolist())
        for group in rng.permutation(np.unique(of_class)).tolist():
            if taken >= max(1.0, VALIDATION * len(of_class)):
                break
            if group not in chosen:
                chosen.add(group)
                taken += int((of_class == group).sum())
    return np.isin(groups, list(chosen))


def _folds(labels: np.ndarray, groups: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each image: classes in equal shares as far as groups, which stay whole, allow it."""
    fold_of: dict[int, int] = {}
    for label in np.unique(labels):
        of_class = groups[labels == label]
        sizes = np.zeros(n_folds)
        for group in rng.permutation(np.unique(of_class)).tolist():
            # The smallest; of several, any: else the first folds had more of every class.
            fold = fold_of.setdefault(group, int(rng.choice(np.flatnonzero(sizes == sizes.min()))))
            sizes[fold] += (of_class == group).sum()
    return np.array([fold_of[group] for group in groups.tolist()])


@dataclass(frozen=True)
class DataSetTask(ClassificationTask):
    """
    One data set to learn, see ``ClassificationTask``.

    :param data_dir: of the data sets
    :param run_seed: decides which images are for validation and, with a limit, which are taken
    :param limit: training images (with those for validation), and test images, at most; ``None``: all
    :param fold: number and count of folds: this one of the images to learn from is not learned from, and takes the
        place of the test images; ``None``: no folds
    """

    data_dir: str
    run_seed: int
    limit: int | None
    fold: tuple[int, int] | None = None

    @property
    def n_classes(self) -> int:
        return DATA_SETS[self.name].n_classes

    def images(self) -> Images:
        return _images(self.data_dir, self.name, self.run_seed, self.limit, self.fold)[0]

    def network(self) -> ConvNet:
        return ConvNet(self.n_classes, channels=3, image_size=SIZE)


class DataSets(ClassificationTasks):
    """
    Data sets to learn. Images are normalized by mean and standard deviation of the channels over the training images in
    use (ours: Serrà et al. have those of whole data sets as constants), and not augmented.

    :param data_dir: of the data sets
    :param names: which
    :param run_seed: as of ``DataSetTask``
    :param limit: as of ``DataSetTask``
    :param passes: over the training images, in a learning process
    :param batch_size: images per update
    :param fold: as of ``DataSetTask``
    :raises MultiCVError: for a data set that is unknown, missing, partial or damaged
    """

    def __init__(
        self,
        data_dir: str,
        names: Sequence[str],
        run_seed: int,
        limit: int | None = None,
        passes: int = 1,
        batch_size: int = 64,
        fold: tuple[int, int] | None = None,
    ) -> None:
        tasks: list[ClassificationTask] = []
        for name in names:
            images, transform = _images(data_dir, name, run_seed, limit, fold)
            per_pass = len(images.train) // batch_size
            if not per_pass:
                raise MultiCVError(
                    f"{name} has {len(images.train)} images to learn from: too few for batches of {batch_size}"
                )
            tasks.append(
                DataSetTask(
                    name,
                    passes * per_pass,
                    batch_size,
                    LEARNING_RATE,
                    transform,
                    data_dir,
                    run_seed,
                    limit,
                    fold,
                    annealing=True,
                    patience=PATIENCE if passes > 1 else None,
                    validation_freq=per_pass,
                )
            )
        super().__init__(tasks, "encoder", {"data": "Multi-CV"})
