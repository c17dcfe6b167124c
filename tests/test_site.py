"""The site: that it builds without a warning, and that it leaves no public name and no page out."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PUBLIC = ("core", "agents", "atari", "families", "transfer", "evaluation", "zoo")
ALIASES = {"Head", "NamedTensors", "OnProgress", "FamilyName", "Split"}
"""Types of arguments, which are explained where they are taken."""


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_a_place_in_the_reference(package: str) -> None:
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)$", pages, re.MULTILINE)}
    assert set(importlib.import_module(f"leap_rl.{package}").__all__) <= documented | ALIASES


class Text(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (href := dict(attrs).get("href")):
            self.links.append(href)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr

    navigation = Text((tmp_path / "index.html").read_text()).links
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"{page.stem}.html" in navigation, f"{page.name} is in no navigation"
    results = Text((tmp_path / "results.html").read_text()).links
    for page in (*DOCS.glob("evidence/*.md"), *DOCS.glob("evidence/*/*.md")):
        assert str(page.relative_to(DOCS).with_suffix(".html")) in results, f"{page} is in no navigation"

    # The fields of Leap, each with what it is and of which type.
    leap = " ".join(Text((tmp_path / "api/learners.html").read_text()).words)
    for field in ("metric", "loss_delta", "loss_scale", "stabilizer", "gradients", "skip_updates"):
        assert re.search(rf"\b{field} \( [^)]*\) [–-] \w", leap), field
