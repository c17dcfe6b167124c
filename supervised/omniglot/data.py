"""Omniglot on disk: found, decoded once, and kept as one tensor."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from platformdirs import user_cache_path
from torch import Tensor

from supervised.decoded import decoded_once

SETS = ("images_background", "images_evaluation")
SIZE = 28
"""Drawings are 105×105 and are scaled to this (Flennerhag et al., appendix D)."""
DRAWINGS = 20
"""Of each character."""


class OmniglotError(ValueError):
    """Omniglot is missing, partial or damaged; says what was looked for and how to get it."""


class Omniglot:
    """
    Alphabets of handwritten characters.

    :param images: uint8, 255 is ink, shape (characters, 20, 28, 28)
    :param alphabets: rows of each alphabet in ``images``
    """

    def __init__(self, images: Tensor, alphabets: dict[str, range]) -> None:
        self.images = images
        self.alphabets = alphabets

    def characters(self, alphabet: str) -> Tensor:
        """uint8, shape (characters, 20, 28, 28)"""
        rows = self.alphabets[alphabet]
        return self.images[rows.start : rows.stop]


def default_data_dir() -> Path:
    """``LEAP_RL_DATA/omniglot``, or where torchvision downloads to for us."""
    root = os.environ.get("LEAP_RL_DATA")
    return Path(root) / "omniglot" if root else user_cache_path("leap_rl")


@lru_cache(maxsize=2)
def load_omniglot(data_dir: str) -> Omniglot:
    """
    :param data_dir: holds one or both of ``images_background`` and ``images_evaluation``, as folders of alphabets or as
        zips; or torchvision's download (``omniglot-py`` in it)
    :raises OmniglotError: if it is missing, partial or damaged
    """
    sources = list(_sources(Path(data_dir)).values())
    if not sources:
        raise OmniglotError(
            f"no Omniglot in {data_dir}: looked for {' or '.join(SETS)}, as a folder of alphabets or a zip. Give its "
            "folder as --data-dir, or have torchvision fetch it: python -m supervised.omniglot train --download"
        )
    data = decoded_once(f"omniglot-{SIZE}", sources, lambda: _decode(sources))
    images, names, counts = data["images"], data["names"].tolist(), data["counts"].tolist()
    ends = np.cumsum(counts).tolist()
    rows = {name: range(end - count, end) for name, count, end in zip(names, counts, ends, strict=True)}
    return Omniglot(torch.from_numpy(images), rows)


def absent_sets(data_dir: str) -> list[str]:
    """Of ``images_background`` and ``images_evaluation``. With one of them alone other alphabets are held out."""
    return [name for name in SETS if name not in _sources(Path(data_dir))]


def download(data_dir: str) -> None:
    """
    Have torchvision download what is not there.

    :param data_dir: as of ``load_omniglot``
    """
    import torchvision.datasets  # type: ignore[import-untyped]

    for name in absent_sets(data_dir):
        torchvision.datasets.Omniglot(data_dir, background=name == "images_background", download=True)


def _sources(data_dir: Path) -> dict[str, Path]:
    """The zip or folder of each set that is there."""
    found = {}
    for name in SETS:
        places = [data_dir / name, data_dir / "omniglot-py" / name, data_dir / f"{name}.zip"]
        places.append(data_dir / "omniglot-py" / f"{name}.zip")
        there = [place for place in places if place.exists()]
        if there:
            found[name] = there[0]
    return found


def _files(source: Path) -> Iterator[tuple[str, str, bytes]]:
    """Alphabet, character and file, in order."""
    if source.is_dir():
        for file in sorted(source.glob("*/*/*.png")):
            yield file.parts[-3], file.parts[-2], file.read_bytes()
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                if name.endswith(".png") and len(parts) >= 3:
                    yield parts[-3], parts[-2], archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise OmniglotError(f"{source} is damaged: {error}; fetch it again") from None


def _decode(sources: list[Path]) -> dict[str, np.ndarray]:
    drawings: dict[tuple[str, str], list[np.ndarray]] = {}
    for source in sources:
        for alphabet, character, data in _files(source):
            try:
                image = Image.open(io.BytesIO(data), formats=("PNG",)).convert("L")  # other readers run programs
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise OmniglotError(f"{source}: {alphabet}/{character} has a damaged drawing: {error}") from None
            if image.size != (105, 105):
                raise OmniglotError(
                    f"{source}: {alphabet}/{character} has a drawing of {image.width}×{image.height}, "
                    "Omniglot's are 105×105"
                )
            # Ink is black in the files.
            small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            drawings.setdefault((alphabet, character), []).append(255 - np.asarray(small))
    if not drawings:
        raise OmniglotError(f"{', '.join(map(str, sources))}: no drawings as ALPHABET/CHARACTER/*.png in it")
    for (alphabet, character), images in drawings.items():
        if len(images) != DRAWINGS:
            raise OmniglotError(f"{alphabet}/{character} has {len(images)} drawings, not {DRAWINGS}: a partial copy")
    names = sorted({alphabet for alphabet, _ in drawings})
    counts = [sum(a == name for a, _ in drawings) for name in names]
    stacked = np.stack([np.stack(drawings[key]) for key in sorted(drawings)])
    return {"images": stacked, "names": np.array(names), "counts": np.array(counts)}
