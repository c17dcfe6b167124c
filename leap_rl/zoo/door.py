"""
The one door: ``Initialization.load`` takes folders, names of the zoo, and ``hf://OWNER/NAME``.

Importing this opens it; ``leap_rl.Initialization`` does. Core itself, which knows folders alone, need not know the zoo.
"""

from __future__ import annotations

from leap_rl.core.initialization import open_door
from leap_rl.transfer import Initialization
from leap_rl.zoo.artifacts import ZooError, load

__all__ = ["Initialization"]


def by_name(name: str) -> Initialization:
    """
    :param name: as ``zoo.load`` takes it
    :raises ZooError: if it is unknown, or can't be trusted
    """
    try:
        return load(name)
    except ZooError as error:
        is_path = "/" in name and not name.startswith("hf:")  # of which the zoo has nothing to say
        also = "" if is_path else f", and {error}"
        raise ZooError(f"{name} is no initialization: there is no such folder{also}") from None


open_door(by_name)
