"""Omniglot as tasks: an alphabet is a task of 20 classes (Flennerhag et al., ICLR 2019, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from leap_rl.core.arithmetic import Arithmetic
from supervised.augmentation import RandomAffine
from supervised.images import Images
from supervised.networks import ConvNet
from supervised.omniglot.data import DRAWINGS, absent_sets, load_omniglot
from supervised.tasks import ClassificationTask, ClassificationTasks

# Appendix D of the paper, unless said otherwise.
CLASSES = 20
"""Characters of a task; alphabets with fewer are dropped."""
HELD_OUT_DRAWINGS = 5
"""Of each character, for validation."""
HELD_OUT_ALPHABETS = 10
UPDATES = 100
BATCH_SIZE = 20
LEARNING_RATE = 0.1
AUGMENTATION = RandomAffine(scale=(0.8, 1.2), degrees=(0.0, 360.0), shift=0.2)
"""The text says that the last is a crop, the authors' code has a translation."""


@lru_cache(maxsize=64)
def _images(data_dir: str, alphabet: str, seed: int) -> Images:
    drawings = load_omniglot(data_dir).characters(alphabet)
    # The authors' code draws the characters of an alphabet once per run.
    rng = np.random.default_rng(np.random.SeedSequence([seed, *alphabet.encode()]))
    characters = torch.from_numpy(np.sort(rng.choice(len(drawings), CLASSES, replace=False)))
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(DRAWINGS), (CLASSES, 1)), axis=1))
    chosen = drawings[characters[:, None], order].unsqueeze(2).float() / 255
    train, test = chosen[:, HELD_OUT_DRAWINGS:], chosen[:, :HELD_OUT_DRAWINGS]
    labels = torch.arange(CLASSES)
    return Images(
        train.flatten(0, 1),
        labels.repeat_interleave(DRAWINGS - HELD_OUT_DRAWINGS),
        test.flatten(0, 1),
        labels.repeat_interleave(HELD_OUT_DRAWINGS),
    )


@dataclass(frozen=True)
class AlphabetTask(ClassificationTask):
    """
    20 characters of one alphabet, see ``ClassificationTask``.

    :param data_dir: of Omniglot
    :param run_seed: decides which characters, and which of their drawings are held out
    """

    data_dir: str
    run_seed: int

    def images(self) -> Images:
        return _images(self.data_dir, self.name, self.run_seed)

    def network(self) -> ConvNet:
        return ConvNet(CLASSES)


class Alphabets(ClassificationTasks):
    """
    Alphabets to learn.

    :param data_dir: of Omniglot
    :param alphabets: by name
    :param run_seed: of the characters and the held-out drawings
    :param updates: of a learning process
    :param arithmetic: as of ``ClassificationTask``
    :raises ValueError: for an alphabet that is unknown, is named twice, or has fewer than 20 characters
    """

    def __init__(
        self,
        data_dir: str,
        alphabets: Sequence[str],
        run_seed: int,
        updates: int = UPDATES,
        arithmetic: Arithmetic = "exact",
    ) -> None:
        large = large_alphabets(data_dir)
        for alphabet in alphabets:
            if alphabet not in large:
                raise ValueError(
                    f"{alphabet} is no alphabet with at least {CLASSES} characters in {data_dir}: "
                    f"there are {', '.join(large)}"
                )
            if alphabets.count(alphabet) > 1:
                raise ValueError(f"{alphabet} is named {alphabets.count(alphabet)} times: once is enough")
        tasks = [
            AlphabetTask(
                alphabet, updates, BATCH_SIZE, LEARNING_RATE, AUGMENTATION, data_dir, run_seed, arithmetic=arithmetic
            )
            for alphabet in alphabets
        ]
        super().__init__(tasks, "all", {"data": "Omniglot", "updates_per_visit": updates})


def large_alphabets(data_dir: str) -> list[str]:
    """Those with at least 20 characters, by name: 46 of the 50."""
    return sorted(name for name, rows in load_omniglot(data_dir).alphabets.items() if len(rows) >= CLASSES)


def held_out_alphabets(n_pretraining: int, validation: bool) -> int:
    """How many ``split`` holds out."""
    return max(1, n_pretraining // 4) if validation else HELD_OUT_ALPHABETS


def split(data_dir: str, n_pretraining: int, seed: int, validation: bool = False) -> tuple[list[str], list[str]]:
    """
    :param n_pretraining: alphabets to learn from
    :param seed: of the split; fewer pretraining alphabets are a part of more
    :param validation: split the pretraining alphabets instead, and hold a quarter of them out
    :return: pretraining alphabets, and the 10 held-out ones, which depend on the seed alone
    :raises ValueError: if there are not so many
    """
    names = large_alphabets(data_dir)
    most = len(names) - HELD_OUT_ALPHABETS
    if not 1 <= n_pretraining <= most:
        raise ValueError(
            f"{n_pretraining} pretraining alphabets: there are 1 to {most}, "
            f"since {HELD_OUT_ALPHABETS} of the {len(names)} with {CLASSES} characters are held out"
            + "".join(f"; {name} is not in {data_dir}, --download fetches it" for name in absent_sets(data_dir))
        )
    shuffled = np.random.default_rng(seed).permutation(names).tolist()
    pretraining = shuffled[HELD_OUT_ALPHABETS : HELD_OUT_ALPHABETS + n_pretraining]
    if not validation:
        return pretraining, shuffled[:HELD_OUT_ALPHABETS]
    if n_pretraining < 2:
        raise ValueError("a part of the pretraining alphabets can't be held out of 1: take more")
    n_held_out = held_out_alphabets(n_pretraining, validation)
    return pretraining[n_held_out:], pretraining[:n_held_out]
