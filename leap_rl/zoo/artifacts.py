"""Where initializations lie, by name, and whether what lies there can be trusted."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from platformdirs import user_cache_path
from safetensors import SafetensorError

from leap_rl.core.initialization_config import InitializationError, check_header, is_count, lineage, read_config
from leap_rl.running.files import replacing_folder
from leap_rl.running.outside import first_line, printable, read_file

if TYPE_CHECKING:  # what there is, is listed without torch
    from leap_rl.core import Initialization

PUBLISHED = Path(__file__).parents[2] / "zoo" / "initializations"
"""Those that come with this package, found by where they lie: ``import zoo`` may find somebody else's folder."""

MOST_EVIDENCE = 5
"""Comparisons of a card."""


def figure_name(number: int) -> str:
    """Of a comparison, counted from 1."""
    return f"figure-{number}.png"


LARGEST = {
    "config.json": 1_000_000,
    "model.safetensors": 100_000_000,
    "README.md": 1_000_000,
    "curves.json": 10_000_000,
    **{figure_name(number): 10_000_000 for number in range(1, MOST_EVIDENCE + 1)},
}
"""The files of an initialization, and the most bytes of each. Nothing else belongs in its folder."""
MOST_SHOWN = 50_000
"""Characters of a card or a config that go to a terminal."""
REQUIRED = ("config.json", "model.safetensors")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*")

_ON_HUB = re.compile(r"hf://?([^/@]+)/([^/@]+)(?:@(.+))?")
"""``hf://OWNER/NAME@REVISION``; a command that takes it for a path loses one of its slashes."""


class ZooError(InitializationError):
    """An initialization of the zoo that is unknown, or can't be trusted; says what and what to do."""


def pulled() -> Path:
    """The folder of initializations that a user pulled or imported: ``$LEAP_RL_ZOO``, or one in the user's cache."""
    given = os.environ.get("LEAP_RL_ZOO")
    return Path(given) if given else user_cache_path("leap_rl") / "zoo"


def names() -> list[str]:
    """The initializations there are: those that come with this package, then the user's own."""
    found = []
    for root in (PUBLISHED, pulled()):
        if root.is_dir():
            found += sorted(p.name for p in root.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())
    return list(dict.fromkeys(found))


def checked_name(name: str) -> str:
    """
    :raises ZooError: for what is no name, such as a path
    """
    if not _NAME.fullmatch(name) or len(name) > 96:
        raise ZooError(
            f"{name!r} is no name of an initialization: letters, digits, '-', '_' and '.', no path. "
            "A folder is loaded by leap_rl.Initialization.load"
        )
    if name == "random":
        raise ZooError("'random' is what comparisons call a random start: choose another name")
    return name


def new_folder(name: str) -> Path:
    """
    Where the user's own initialization of a name will lie.

    :raises ZooError: for what is no name, or is taken
    """
    folder = pulled() / checked_name(name)
    if os.path.lexists(folder) or (PUBLISHED / name).exists():
        raise ZooError(f"there is an initialization {name!r} already: choose another name")
    return folder


@contextmanager
def filling(folder: Path, source: object) -> Iterator[Path]:
    """
    Gives a temporary folder. When the block ends well, and ``load`` would take what it wrote there, it is renamed;
    else nothing is kept.

    :param folder: as ``new_folder`` gave it
    :param source: where the initialization comes from, for the error
    :raises ZooError: for what ``load`` would refuse
    """
    with replacing_folder(folder) as new:
        yield new
        try:
            check(new)
        except InitializationError as error:
            raise ZooError(f"{source} can't be trusted: {str(error).replace(str(new), folder.name)}") from None


def folder_of(name: str) -> Path:
    """
    :param name: of an initialization
    :raises ZooError: if there is none of that name
    """
    checked_name(name)
    for root in (PUBLISHED, pulled()):
        if (root / name).is_dir():
            return root / name
    there = names()
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        hint = f"there are {', '.join(there)}" if there else "none is published yet; leap-rl zoo import makes one"
    raise ZooError(f"no initialization {name!r} in the zoo: {hint}")


def load(name: str) -> Initialization:
    """
    An initialization, checked. ``Initialization.load`` takes the same names, and folders.

    :param name: see ``zoo.list()``; or ``hf://OWNER/NAME``, with ``@REVISION`` if it is not to be the newest: it is
        fetched from the Hugging Face Hub once, and lies among the user's own from then on, as ``OWNER--NAME``
    :return: to be applied: ``zoo.load(name).apply_to(model)``
    :raises ZooError: if it is unknown, or holds what it should not
    :raises InitializationError: if it is damaged, foreign, or from a later version
    :raises ModuleNotFoundError: for one on the Hub, without the extra ``hub``
    """
    on_hub = _ON_HUB.fullmatch(name)
    if on_hub is None:
        return check(folder_of(name))
    owner, repository, revision = on_hub.groups()
    here = "--".join(filter(None, (owner, repository, revision and revision.replace("/", "-"))))
    folder = pulled() / checked_name(here)
    if not folder.is_dir():
        from leap_rl.zoo.hub import pull

        folder = pull(f"{owner}/{repository}", here, revision or "main")
    return check(folder)


def check(folder: Path) -> Initialization:
    """
    Load an initialization of unknown origin: its files are looked at before any is read.

    :param folder: of the initialization
    :raises ZooError: for a link, a file that does not belong there, or one that is too large
    :raises InitializationError: as of ``Initialization.load``
    """
    described(folder)
    from leap_rl.transfer import Initialization
    from leap_rl.transfer import policy_kwargs as policy_kwargs_of
    from leap_rl.transfer.networks import NETWORKS

    initialization = Initialization.load(folder)
    if initialization.config["network"] in NETWORKS:
        try:
            policy_kwargs_of(initialization)
        except InitializationError as error:
            raise ZooError(f"{folder}: {error}") from None
    return initialization


def described(folder: Path) -> dict[str, Any]:
    """
    What an initialization of unknown origin says of itself: its config, whose tensors are compared with their hash
    alone. As ``check`` otherwise.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ZooError(f"{folder} is no folder of an initialization")
    try:
        found = [(file.name, file.lstat()) for file in sorted(folder.iterdir())]
    except OSError as error:
        raise ZooError(f"{folder} can't be read: {error}") from None
    for file, status in found:
        if not stat.S_ISREG(status.st_mode):
            raise ZooError(f"{folder} holds {file}, which is no plain file: links and folders are refused")
        if file not in LARGEST:
            raise ZooError(
                f"{folder} holds {file}, which belongs to no initialization: there may be "
                f"{', '.join(LARGEST)}. Nothing of it was opened; remove it if you know what it is"
            )
        if status.st_size > LARGEST[file]:
            raise ZooError(f"{folder}/{file} has {status.st_size:,} bytes: more than {LARGEST[file]:,} are refused")
    config = read_config(folder)
    if "network" not in config:
        raise ZooError(
            f"{folder}/config.json does not say for which network it is: Initialization.of(model, scope, "
            "config={'network': 'NatureCNN'}) does"
        )
    # What is written to terminals and cards must be text and nothing else.
    texts = [("scope", config["scope"]), ("learner", (config.get("learner") or {}).get("name", "-"))]
    texts += [(key, config[key]) for key in ("network", "preprocessing", "source") if key in config]
    texts += [("tasks", task) for task in config.get("tasks", [])]
    for key, text in texts:
        if not text.isprintable() or len(text) > 200:
            raise ZooError(f"{folder}/config.json has {key} {printable(text, 80)!r}: not as leap_rl writes it")
    return config


def policy_kwargs(name: str) -> dict[str, Any]:
    """
    What a model must be given so that it has the network of an initialization::

        PPO("CnnPolicy", env, policy_kwargs=zoo.policy_kwargs(name))

    :param name: of the initialization
    :raises InitializationError: for a network that is not of SB3 or leap_rl
    """
    from leap_rl.transfer import policy_kwargs as policy_kwargs_of

    return policy_kwargs_of(load(name))


def summary(name: str) -> dict[str, Any]:
    """
    What ``leap-rl zoo show`` prints: the config, the sizes of the files, and the model card.

    :param name: of the zoo, or a folder
    :raises ValueError: as of ``load``, where it can be told without a look at the values of the tensors
    """
    folder = Path(name) if (Path(name) / "config.json").is_file() else folder_of(name)
    config = described(folder)
    try:
        data = read_file(folder / "model.safetensors", LARGEST["model.safetensors"])
    except (OSError, ValueError) as error:
        raise ZooError(f"{folder} is no initialization: {error}") from None
    if config["sha256"] != hashlib.sha256(data).hexdigest():
        raise ZooError(f"{folder}/model.safetensors is damaged: its sha256 is not the one in config.json")
    try:
        check_header(data)
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ZooError(f"{folder}/model.safetensors can't be used: {first_line(error)}") from None
    described_well = config.get("shapes") == {name: list(array.shape) for name, array in arrays.items()}
    if not described_well or not all(np.isfinite(array).all() for array in arrays.values()):
        raise ZooError(f"{folder} does not describe its tensors, or they are not finite: leap-rl zoo verify says more")
    card = folder / "README.md"
    text = read_file(card, LARGEST["README.md"]).decode(errors="replace") if card.is_file() else ""
    return {
        **config,
        "bytes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        "card": printable(text, MOST_SHOWN, keep="\n\t"),
    }


def total_steps(config: dict[str, Any]) -> int:
    """
    Steps that an initialization cost: its own, those of what it started from, and so on, as far as they are recorded.

    :param config: of the initialization
    """
    return sum(steps for learned in lineage(config) if is_count(steps := learned.get("timesteps")))
