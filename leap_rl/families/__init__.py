"""
Families of tasks: a base environment, and a distribution over its physics or its layout. Names are imported when
they are first used.

``CARTPOLE`` and the others are a ``Family`` each; one of your own is another ``Family(...)``.
"""

from typing import TYPE_CHECKING, Literal, get_args

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.families.acrobot import ACROBOT
    from leap_rl.families.cartpole import CARTPOLE
    from leap_rl.families.family import Family, Split
    from leap_rl.families.halfcheetah import HALFCHEETAH
    from leap_rl.families.lunarlander import LUNARLANDER
    from leap_rl.families.minigrid import MINIGRID
    from leap_rl.families.pendulum import PENDULUM

FamilyName = Literal["cartpole", "acrobot", "pendulum", "lunarlander", "halfcheetah", "minigrid"]
"""Those that come with leap_rl. Each is in the module of its name, under its name in capitals."""

FAMILIES: tuple[str, ...] = get_args(FamilyName)

__all__ = [
    "ACROBOT",
    "CARTPOLE",
    "FAMILIES",
    "HALFCHEETAH",
    "LUNARLANDER",
    "MINIGRID",
    "PENDULUM",
    "Family",
    "FamilyName",
    "Split",
    "family_named",
]


def family_named(name: str) -> "Family":
    """
    :param name: of a family that comes with leap_rl
    :raises ValueError: for another one
    """
    if name not in FAMILIES:
        raise ValueError(f"no family {name!r}: there are {', '.join(FAMILIES)}")
    family: Family = __getattr__(name.upper())
    return family


__getattr__, __dir__ = lazily(__name__, __file__)
