"""The site: `make docs` builds it into build/site. Its pages are Markdown, which the repository host shows as well."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Where it is built the repository is known; on a machine of one's own links to its folders are plain text.
REPOSITORY = os.environ.get("READTHEDOCS_GIT_CLONE_URL", "").removesuffix(".git")
if "GITHUB_REPOSITORY" in os.environ:
    REPOSITORY = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"

project = "leap_rl"
author = "The leap_rl authors"
copyright = author
release = version = version_of("leap-rl")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["evidence/*/results"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
copybutton_prompt_text = r"\$ |first\$ |other\$ "
copybutton_prompt_is_regexp = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autoclass_content = "both"  # so that the types of ``:param x:`` in a class are those of its ``__init__``
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# Imported where the docs are built, and only for type hints.
autodoc_mock_imports = ["ray"]

html_theme = "furo"
html_title = "leap_rl"
html_show_sphinx = False
html_show_copyright = False
if REPOSITORY:
    html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}


class LinksToFolders(SphinxPostTransform):
    """A page links a folder of the repository relatively: on the site such a link leads to the repository."""

    default_priority = 4  # before Markdown's own links are resolved

    def run(self, **_: Any) -> None:
        here = Path(self.env.doc2path(self.env.docname)).parent
        for node in list(self.document.findall(addnodes.pending_xref)):
            target = node.get("reftarget", "")
            if node.get("reftype") == "myst" and target and (here / target).is_dir():
                link = nodes.reference() if REPOSITORY else nodes.inline()
                if REPOSITORY:
                    link["refuri"] = f"{REPOSITORY}/tree/main/{(here / target).resolve().relative_to(ROOT)}"
                link.extend(node.children)
                node.replace_self(link)


def prepare(_: Sphinx, page: str, source: list[str]) -> None:
    """What `leap-rl compare` writes is a table alone. A navigation names pages that may not be there by a pattern."""
    if page.startswith("evidence/") and page.endswith("/table"):
        source[0] = f"# Tables: {page.split('/')[1]}\n\n{source[0]}"
    here = (ROOT / "docs" / page).parent
    lines = source[0].splitlines(keepends=True)
    source[0] = "".join(
        line for line in lines if not re.fullmatch(r"[\w/*-]*\*\n", line) or any(here.glob(line.strip() + ".md"))
    )


def with_literal_blocks(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Docstrings show an example by an indented block after a colon; reStructuredText asks for two colons."""
    for number, line in enumerate(lines[:-2]):
        follows = lines[number + 1] == "" and re.match(r" {4}\S", lines[number + 2])
        if follows and line and line[0] not in " :." and not line.endswith("::"):
            lines[number] = f"{line}:" if line.endswith(":") else f"{line} ::"


def setup(app: Sphinx) -> None:
    app.add_post_transform(LinksToFolders)
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", with_literal_blocks)
