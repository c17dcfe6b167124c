"""Images by class, in two parts that share no class: to learn from, and to test with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from supervised.decoded import decoded_once
from supervised.omniglot.data import OmniglotError, load_omniglot

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
FORMATS = ("PNG", "JPEG", "BMP")
"""Pillow's names of these: others of its readers run programs."""
FOLDER_SIZE = 84
"""Height and width that images of a folder are scaled to: MiniImageNet's (Vinyals et al., 2016)."""

TRAIN_CHARACTERS = 1200
"""Of Omniglot's 1,623 (Vinyals et al., 2016, section 4.1.1)."""
SPLIT_ALPHABET, SPLIT_CHARACTER = "Gurmukhi", 41
"""Vinyals' split goes through this alphabet, behind its 41st character."""
TEST_ALPHABETS = (
    "Kannada",
    "Keble",
    "Malayalam",
    "Manipuri",
    "Mongolian",
    "Old_Church_Slavonic_(Cyrillic)",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "Tengwar",
    "Tibetan",
    "ULOG",
)
"""Of Vinyals' split, as the code of Prototypical Networks distributes it: 423 characters with those of Gurmukhi."""
ROTATIONS = 4
"""A character rotated by a multiple of 90° is a class of its own."""


class RotatedCharacters(Sequence[Tensor]):
    """
    Characters of Omniglot, each in four rotations, each of which is a class.

    :param images: uint8, shape (characters, 20, 28, 28)
    """

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return ROTATIONS * len(self._images)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        character, turns = divmod(range(len(self))[index], ROTATIONS)
        return torch.rot90(self._images[character], turns, (1, 2)).unsqueeze(1)


def is_of_folders(data_dir: str) -> bool:
    """Whether it has ``train/CLASS`` and ``test/CLASS``; else it is of Omniglot."""
    return all((Path(data_dir) / name).is_dir() for name in PARTS)


@lru_cache(maxsize=4)
def load_classes(data_dir: str, part: Part) -> Sequence[Tensor]:
    """
    Of each class its images, uint8, shape (n, channels, height, width).

    :param data_dir: of Omniglot (as ``load_omniglot`` takes it); or a folder with ``train/CLASS`` and ``test/CLASS``,
        folders of images in colour, which are scaled to 84×84
    :param part: ``"train"`` or ``"test"``
    :raises ValueError: if it is missing or damaged, or a class is in both parts
    """
    if is_of_folders(data_dir):
        return _from_folders(Path(data_dir), part)
    try:
        omniglot = load_omniglot(data_dir)
    except OmniglotError as error:
        raise OmniglotError(f"{error}. A folder of images of your own has train/CLASS and test/CLASS in it") from None
    in_test = _in_test(omniglot.alphabets)
    return RotatedCharacters(omniglot.images[torch.tensor(in_test) == (part == "test")])


def described(data_dir: str) -> str:
    """Which images these are, and how they are split, in one line."""
    counts = " / ".join(f"{len(load_classes(data_dir, part)):,}" for part in PARTS)
    if is_of_folders(data_dir):
        return f"{data_dir}: {counts} classes to learn from / to test with"
    vinyals = _is_whole(load_omniglot(data_dir).alphabets)
    split = "Vinyals' split" if vinyals else "not the whole, so no Vinyals' split, but the first characters"
    return f"Omniglot: {split}; {counts} classes with rotations to learn from / to test with"


def _is_whole(alphabets: dict[str, range]) -> bool:
    there = {SPLIT_ALPHABET, *TEST_ALPHABETS} <= alphabets.keys()
    return there and sum(map(len, alphabets.values())) == 1623


def _in_test(alphabets: dict[str, range]) -> list[bool]:
    """Of each character. In a partial copy the last ones of all alphabets in order, as many of all as Vinyals has."""
    if not _is_whole(alphabets):
        n = sum(map(len, alphabets.values()))
        return [i >= n * TRAIN_CHARACTERS // 1623 for i in range(n)]
    chosen = []
    for name, rows in alphabets.items():
        first = 0 if name in TEST_ALPHABETS else SPLIT_CHARACTER if name == SPLIT_ALPHABET else len(rows)
        chosen += [i >= first for i in range(len(rows))]
    return chosen


def _from_folders(data_dir: Path, part: Part) -> list[Tensor]:
    names = {p: sorted(f.name for f in (data_dir / p).iterdir() if f.is_dir()) for p in PARTS}
    both = sorted(set(names["train"]) & set(names["test"]))
    if both:
        raise ValueError(f"{data_dir}: {both[0]} is in train and in test: classes to test with must be new")
    data = decoded_once(f"classes-{part}-{FOLDER_SIZE}", [data_dir / part], lambda: _decode(data_dir / part))
    return list(torch.from_numpy(data["images"]).split(data["counts"].tolist()))


def _decode(folder: Path) -> dict[str, np.ndarray]:
    images: list[np.ndarray] = []
    counts = []
    for of_class in sorted(f for f in folder.iterdir() if f.is_dir()):
        files = sorted(f for f in of_class.iterdir() if f.suffix.lower() in ENDINGS)
        for file in files:
            try:
                with Image.open(file, formats=FORMATS) as image:
                    scaled = image.convert("RGB").resize((FOLDER_SIZE, FOLDER_SIZE), Image.Resampling.BILINEAR)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ValueError(f"{file} is damaged, or no image: {error}") from None
            images.append(np.asarray(scaled).transpose(2, 0, 1))
        counts.append(len(files))
    if not images:
        raise ValueError(f"{folder} has no images: expected {folder}/CLASS/*{{{','.join(ENDINGS)}}}")
    return {"images": np.stack(images), "counts": np.array(counts)}
