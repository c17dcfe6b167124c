"""Where initializations lie, by name, and whether what lies there can be trusted."""

from __future__ import annotations

import difflib
import os
import re
import stat
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from leap_rl.transfer import Initialization
from leap_rl.transfer import policy_kwargs as policy_kwargs_of

PUBLISHED = Path(__file__).with_name("initializations")

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
REQUIRED = ("config.json", "model.safetensors")

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*")


class ZooError(ValueError):
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
    if folder.exists() or (PUBLISHED / name).exists():
        raise ZooError(f"there is an initialization {name!r} already: choose another name")
    return folder


def first_line(error: Exception) -> str:
    """Of what an error says; its kind, if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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
    An initialization, checked.

    :param name: see ``zoo.list()``
    :return: to be applied: ``zoo.load(name).apply_to(model)``
    :raises ZooError: if it is unknown, or holds what it should not
    :raises InitializationError: if it is damaged, foreign, or from a later version
    """
    return check(folder_of(name))


def check(folder: Path) -> Initialization:
    """
    Load an initialization of unknown origin: its files are looked at before any is read.

    :param folder: of the initialization
    :raises ZooError: for a link, a file that does not belong there, or one that is too large
    :raises InitializationError: as of ``Initialization.load``
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ZooError(f"{folder} is no folder of an initialization")
    for file in sorted(folder.iterdir()):
        mode = file.lstat()
        if not stat.S_ISREG(mode.st_mode):
            raise ZooError(f"{folder} holds {file.name}, which is no plain file: links and folders are refused")
        if file.name not in LARGEST:
            raise ZooError(
                f"{folder} holds {file.name}, which belongs to no initialization: there may be "
                f"{', '.join(LARGEST)}. Nothing of it was opened; remove it if you know what it is"
            )
        if mode.st_size > LARGEST[file.name]:
            raise ZooError(
                f"{folder}/{file.name} has {mode.st_size:,} bytes: more than {LARGEST[file.name]:,} are refused"
            )
    initialization = Initialization.load(folder)
    config = {**initialization.config, "scope": initialization.scope}
    if "network" not in config:
        raise ZooError(f"{folder}/config.json does not say for which network it is")
    # What is written to terminals and cards must be text and nothing else.
    learner, steps, tasks = config.get("learner"), config.get("timesteps"), config.get("tasks")
    for key, is_good in (
        ("network", _is_text(config["network"])),
        ("scope", _is_text(config["scope"])),
        ("learner", learner is None or (isinstance(learner, dict) and _is_text(learner.get("name", "-")))),
        ("timesteps", steps is None or (type(steps) is int and 0 <= steps < 10**15)),
        *((key, _is_text(config[key])) for key in ("preprocessing", "source") if key in config),
        ("tasks", tasks is None or (isinstance(tasks, list) and all(map(_is_text, tasks)))),
    ):
        if not is_good:
            raise ZooError(f"{folder}/config.json has {key} {str(config[key])[:80]!r}: not as leap_rl writes it")
    return initialization


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 200


def policy_kwargs(name: str) -> dict[str, Any]:
    """
    What a model must be given so that it has the network of an initialization::

        PPO("CnnPolicy", env, policy_kwargs=zoo.policy_kwargs(name))

    :param name: of the initialization
    :raises ValueError: for a network that is not of SB3 or leap_rl
    """
    return policy_kwargs_of(load(name))


def summary(name: str) -> dict[str, Any]:
    """
    What ``leap-rl zoo show`` prints: the config, the sizes of the files, and the model card.

    :raises ValueError: as of ``load``
    """
    initialization, folder = load(name), folder_of(name)
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    return {
        **initialization.config,
        "scope": initialization.scope,
        "sha256": initialization.sha256,
        "bytes": {file.name: file.stat().st_size for file in sorted(folder.iterdir())},
        # A stranger's card must not write to the terminal what is no text.
        "card": "".join(c for c in text if c.isprintable() or c in "\n\t"),
    }


def total_steps(config: dict[str, Any]) -> int:
    """
    Steps that an initialization cost: its own, those of what it started from, and so on, as far as they are recorded.

    :param config: of the initialization
    """
    total = 0
    learned: Any = config
    while isinstance(learned, dict):
        steps = learned.get("timesteps")
        total += steps if isinstance(steps, int) else 0
        learned = learned.get("started_from")
    return total
