"""A small data set in Omniglot's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def alphabets() -> dict[str, int]:
    """Their names and numbers of characters."""
    return {f"Alphabet{i}": 20 + i % 2 for i in range(13)} | {"Small": 5}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory, alphabets: dict[str, int]) -> Path:
    """Strokes in Omniglot's layout: 14 alphabets, one of them too small."""
    root = tmp_path_factory.mktemp("omniglot")
    rng = np.random.default_rng(0)
    for alphabet, n_characters in alphabets.items():
        for character in range(n_characters):
            folder = root / "images_background" / alphabet / f"character{character + 1:02}"
            folder.mkdir(parents=True)
            strokes = rng.integers(15, 90, (4, 2))
            for drawing in range(20):
                image = Image.new("1", (105, 105), 1)
                points = [tuple(p) for p in (strokes + rng.integers(-5, 6, (4, 2))).tolist()]
                ImageDraw.Draw(image).line(points, fill=0, width=3)
                image.save(folder / f"{character:04}_{drawing + 1:02}.png")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
