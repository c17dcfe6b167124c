"""Domains: the same digits, seen differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leap_rl.ending import how_to_install
from leap_rl.running.outside import first_line
from supervised.augmentation import RandomAffine
from supervised.multi_cv.data import DataSet, load
from supervised.multi_cv.data import download as fetch

SIZE = 28
DIGITS = tuple("0123456789")
ROTATION = RandomAffine(scale=(1.0, 1.0), degrees=(30.0, 60.0), shift=0.0)
NOISE = 80.0
DIGITS_TEST = 500
"""Of the 1,797 of UCI digits, which have no test set of their own here."""


@dataclass(frozen=True, eq=False)
class Domain:
    """
    Images of a domain.

    :param name: of it
    :param classes: their names, in the order of the labels
    :param train: uint8, shape (n, channels, height, width)
    :param train_labels: int64, shape (n,)
    :param test: as ``train``
    :param test_labels: as ``train_labels``
    """

    name: str
    classes: tuple[str, ...]
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def check_pair(source: Domain, target: Domain) -> None:
    """
    :raises ValueError: if one network can't classify both
    """
    shapes = [tuple(domain.train.shape[1:]) for domain in (source, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{source.name} has images of shape {shapes[0]}, {target.name} of {shapes[1]}: bring them to the same"
        )
    if source.classes != target.classes:
        only = sorted(set(source.classes) ^ set(target.classes))
        raise ValueError(
            f"{source.name} and {target.name} have different classes ({', '.join(only[:5])}{' …' * (len(only) > 5)}): "
            "adaptation is between domains of the same classes in the same order"
        )


def _small(images: Tensor) -> Tensor:
    """Those of ``supervised.multi_cv.data`` without their border of zeros, or scaled; shape (n, 3, 28, 28)."""
    border = torch.cat([images[:, :, :2].flatten(), images[:, :, -2:].flatten()])
    if not border.any():
        return images[:, :, 2:-2, 2:-2].contiguous()
    return _resized(images)


def _resized(images: Tensor) -> Tensor:
    scaled = torch.nn.functional.interpolate(images.float(), (SIZE, SIZE), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).byte()


def _of_multi_cv(name: str, classes: tuple[str, ...]) -> Callable[[str, np.random.Generator], Domain]:
    def domain(data_dir: str, rng: np.random.Generator) -> Domain:
        data = load(data_dir, name)
        return Domain(name, classes, _small(data.train), data.train_labels, _small(data.test), data.test_labels)

    return domain


def _uci_digits(data_dir: str, rng: np.random.Generator) -> Domain:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(images).view(-1, 1, 8, 8) * (255 / 16)
    x, y = _resized(grey).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels).long()
    rows = torch.from_numpy(np.random.default_rng(0).permutation(len(x)))
    test, train = rows[:DIGITS_TEST], rows[DIGITS_TEST:]
    return Domain("digits", DIGITS, x[train], y[train], x[test], y[test])


def _changed(name: str, digits: DataSet, change: Callable[[Tensor], Tensor]) -> Domain:
    """Digits of MNIST, their images changed."""
    train, test = change(digits.train), change(digits.test)
    return Domain(name, DIGITS, train, digits.train_labels, test, digits.test_labels)


def _mnist_m(data_dir: str, rng: np.random.Generator) -> Domain:
    """
    MNIST's digits on photographs, |photograph - digit| (Ganin et al., 2016, section 5.2.4). The photographs are crops
    of CIFAR-10's (ours: the paper's are of BSDS500).
    """
    digits, photographs = load(data_dir, "mnist"), load(data_dir, "cifar10")

    def blended(images: Tensor, backgrounds: Tensor) -> Tensor:
        n = len(images)
        rows = torch.from_numpy(rng.integers(len(backgrounds), size=n))
        top, left = rng.integers(0, backgrounds.shape[2] - SIZE + 1, size=(2, n))
        crops = torch.stack(
            [backgrounds[r, :, t : t + SIZE, c : c + SIZE] for r, t, c in zip(rows, top, left, strict=True)]
        )
        return (crops.int() - images.int()).abs().byte()

    train, test = blended(_small(digits.train), photographs.train), blended(_small(digits.test), photographs.test)
    return Domain("mnist-m", DIGITS, train, digits.train_labels, test, digits.test_labels)


def _rotated(data_dir: str, rng: np.random.Generator) -> Domain:
    """MNIST's digits, each rotated by 30° to 60°."""
    digits = load(data_dir, "mnist")
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def rotated(images: Tensor) -> Tensor:
        parts = [ROTATION(part.float(), generator).round().byte() for part in _small(images).split(1000)]
        return torch.cat(parts)

    return _changed("rotated", digits, rotated)


def _corrupted(data_dir: str, rng: np.random.Generator) -> Domain:
    """MNIST's digits under normal noise with a standard deviation of 80 grey levels of 255."""
    digits = load(data_dir, "mnist")

    def corrupted(images: Tensor) -> Tensor:
        noise = torch.from_numpy(rng.normal(scale=NOISE, size=(len(images), 1, SIZE, SIZE)).astype(np.float32))
        return (_small(images).float() + noise).round().clamp(0, 255).byte()

    return _changed("corrupted", digits, corrupted)


def _usps_by_torchvision(data_dir: str, fetching: bool = False) -> list[Any]:
    """:return: both halves; torchvision's class asks for no more than the files"""
    from torchvision.datasets import USPS  # type: ignore[import-untyped]

    return [USPS(str(Path(data_dir) / "usps"), train=train, download=fetching) for train in (True, False)]


def _usps(data_dir: str, rng: np.random.Generator) -> Domain:
    where = Path(data_dir) / "usps"
    try:
        halves = _usps_by_torchvision(data_dir)
    except ImportError:
        raise ValueError(f"USPS is read by torchvision: {how_to_install('supervised')}") from None
    except Exception as error:  # bz2's, or of what is in it
        what = f"{where} is damaged: {first_line(error)}" if any(where.glob("usps*")) else f"{where} is missing"
        raise ValueError(f"{what}; the option --download fetches USPS by torchvision") from None
    images = [_resized(torch.from_numpy(half.data)[:, None]).expand(-1, 3, -1, -1).contiguous() for half in halves]
    labels = [torch.tensor(half.targets) for half in halves]
    return Domain("usps", DIGITS, images[0], labels[0], images[1], labels[1])


def download(data_dir: str, names: Sequence[str]) -> None:
    """
    Fetch what domains are made of, by torchvision, where it is not there yet.

    :param data_dir: as of ``load_domain``
    :param names: of domains
    :raises ValueError: if one can't be fetched
    """
    fetch(data_dir, dict.fromkeys(of for name in names for of in MADE_OF.get(name, (name,))))
    if "usps" in names:
        try:
            _usps_by_torchvision(data_dir, fetching=True)
        except Exception as error:
            raise ValueError(f"USPS can't be fetched: {first_line(error)}") from None


MADE_OF: dict[str, tuple[str, ...]] = {
    "digits": (),
    "usps": (),
    "mnist-m": ("mnist", "cifar10"),
    "rotated": ("mnist",),
    "corrupted": ("mnist",),
}
"""Data sets of ``supervised.multi_cv``; the other domains are one each."""

DOMAINS: dict[str, Callable[[str, np.random.Generator], Domain]] = {
    "mnist": _of_multi_cv("mnist", DIGITS),
    "digits": _uci_digits,
    "mnist-m": _mnist_m,
    "rotated": _rotated,
    "corrupted": _corrupted,
    "usps": _usps,
    "svhn": _of_multi_cv("svhn", DIGITS),
    "fashion-mnist": _of_multi_cv(
        "fashion-mnist",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "notmnist": _of_multi_cv("notmnist", tuple("ABCDEFGHIJ")),
}


@lru_cache(maxsize=len(DOMAINS))
def load_domain(data_dir: str, name: str) -> Domain:
    """
    :param data_dir: of the data sets, as ``supervised.multi_cv.data.load`` takes it
    :param name: one of ``DOMAINS``. Images are 28×28 in colour
    :raises ValueError: if it is unknown, or its data are missing
    """
    if name not in DOMAINS:
        raise ValueError(f"no domain {name!r}: there are {', '.join(DOMAINS)}")
    return DOMAINS[name](data_dir, np.random.default_rng(np.random.SeedSequence([0, *name.encode()])))


@dataclass(frozen=True, eq=False)
class Pair:
    """
    What a run learns from, and what it is tested on. A digit that is in the source's part is not in the target's, where
    both are made of the same data set.

    :param source: uint8, shape (n, 3, 28, 28)
    :param source_labels: of them
    :param held_out: of the source, not learned from
    :param held_out_labels: of them
    :param target: without labels
    :param target_labels: of them, for a ceiling alone
    :param test: of the target
    :param test_labels: of them
    """

    source: Tensor
    source_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    target: Tensor
    target_labels: Tensor
    test: Tensor
    test_labels: Tensor


TEST_IMAGES = 2000


@lru_cache(maxsize=4)
def load_pair(data_dir: str, source: str, target: str, limit: int, seed: int) -> Pair:
    """
    :param data_dir: as of ``load_domain``
    :param source: name of its domain
    :param target: name of its domain
    :param limit: images of the source, and of the target, at most
    :param seed: of the draws
    :raises ValueError: if a domain is unknown or missing, or they are no pair
    """
    if source == target:
        raise ValueError(f"source and target are both {source}: nothing is to be adapted")
    of_source, of_target = load_domain(data_dir, source), load_domain(data_dir, target)
    check_pair(of_source, of_target)
    rng = np.random.default_rng([seed, 0])
    n, m = len(of_source.train), len(of_target.train)
    shared = n == m and torch.equal(of_source.train_labels, of_target.train_labels)
    drawn, theirs = (torch.from_numpy(rng.permutation(k)) for k in (n, m))
    if shared:
        n, theirs = n // 2, drawn[n // 2 :]
    n_held_out = min(TEST_IMAGES, n // 5)
    held_out, learned = drawn[:n_held_out], drawn[n_held_out:n][:limit]
    unlabelled = theirs[:limit]
    test = torch.from_numpy(rng.permutation(len(of_target.test)))[:TEST_IMAGES]
    return Pair(
        of_source.train[learned],
        of_source.train_labels[learned],
        of_source.train[held_out],
        of_source.train_labels[held_out],
        of_target.train[unlabelled],
        of_target.train_labels[unlabelled],
        of_target.test[test],
        of_target.test_labels[test],
    )
