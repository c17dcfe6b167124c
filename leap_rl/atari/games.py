"""Names of the Atari games, and the pools of games that are trained, chosen and evaluated on."""

import difflib
import re

from ale_py.registration import rom_id_to_name
from ale_py.roms import get_all_rom_ids

# Two players only: ALE cannot start them for one, and its native code ends the whole process when asked to.
_TWO_PLAYER_ROMS = frozenset({"combat", "joust", "maze_craze", "warlords"})

_ROMS = {rom.replace("_", ""): rom for rom in sorted(set(get_all_rom_ids()) - _TWO_PLAYER_ROMS)}

# "ALE/Pong-v5", "Pong-v4", "PongNoFrameskip-v4", "PongDeterministic-v4": what surrounds the name selects frame skip
# and sticky actions in gymnasium, which are arguments of their own here.
_SPELLING = re.compile(r"(?:ale/)?(?P<name>.+?)(?:(?:noframeskip|deterministic)?-v\d+)?", re.IGNORECASE)

#: "All environments with an action space of at most 10", as the paper names them (appendix F).
PAPER_GAMES = (
    "AirRaid",
    "Amidar",
    "Assault",
    "Asterix",
    "Atlantis",
    "BeamRider",
    "Bowling",
    "Breakout",
    "Carnival",
    "CrazyClimber",
    "DemonAttack",
    "Enduro",
    "Freeway",
    "Gopher",
    "MsPacman",
    "NameThisGame",
    "Phoenix",
    "Pong",
    "Pooyan",
    "Qbert",
    "Skiing",
    "SpaceInvaders",
    "TimePilot",
    "Tutankham",
    "UpNDown",
    "VideoPinball",
    "WizardOfWor",
)

#: Never pretrained on and never used to choose a recipe: the games that claims are made on (paper, appendix F).
HELD_OUT_GAMES = ("Breakout", "SpaceInvaders")

#: Ours: recipes are chosen on these, so they are not pretrained on either.
VALIDATION_GAMES = ("Assault", "Phoenix", "Qbert")

#: The paper's pretraining pool: its 27 games without the two it holds out.
PAPER_PRETRAINING_GAMES = tuple(game for game in PAPER_GAMES if game not in HELD_OUT_GAMES)

#: What the initializations of this project's zoo are trained on: the paper's pool without our validation games.
PRETRAINING_GAMES = tuple(game for game in PAPER_PRETRAINING_GAMES if game not in VALIDATION_GAMES)

#: Games of the pretraining pool that the paper also evaluates on (appendix F).
SEEN_GAMES = ("AirRaid", "UpNDown", "WizardOfWor")

#: Games with more actions than any game pretrained on, which the paper evaluates transfer to (appendix F).
LARGER_ACTION_SPACE_GAMES = ("Alien", "Gravitar", "RoadRunner", "KungFuMaster", "Krull")

#: The pools by the names that the command line takes them by.
POOLS = {
    "paper": PAPER_GAMES,
    "paper-pretraining": PAPER_PRETRAINING_GAMES,
    "pretraining": PRETRAINING_GAMES,
    "validation": VALIDATION_GAMES,
    "held-out": HELD_OUT_GAMES,
    "seen": SEEN_GAMES,
    "larger-action-space": LARGER_ACTION_SPACE_GAMES,
}


def rom_id(name: str) -> str:
    """
    The id of a game's ROM in ALE, such as ``space_invaders``.

    :param name: The game in any usual spelling and case: ``SpaceInvaders``, ``space_invaders``,
        ``ALE/SpaceInvaders-v5``, ``SpaceInvadersNoFrameskip-v4``, ...
    :return: The id in snake case
    :raises ValueError: If ALE ships no such game, or only one for two players
    """
    match = _SPELLING.fullmatch(name.strip())
    key = re.sub(r"[\s_-]", "", match["name"] if match else name).lower()
    if key in _ROMS:
        return _ROMS[key]
    if key in {rom.replace("_", "") for rom in _TWO_PLAYER_ROMS}:
        raise ValueError(f"The game {name!r} is for two players only, ALE cannot run it for one.")
    nearest = [rom_id_to_name(_ROMS[close]) for close in difflib.get_close_matches(key, _ROMS, n=3)]
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else " See ale_py.roms.get_all_rom_ids()."
    raise ValueError(f"Unknown game {name!r}.{hint}")


def all_games() -> list[str]:
    """The names of all games that ALE runs for one player."""
    return sorted(rom_id_to_name(rom) for rom in _ROMS.values())


def game_name(name: str) -> str:
    """
    The canonical name of a game, such as ``SpaceInvaders``, ``MsPacman`` or ``UpNDown``.

    :param name: The game in any spelling that :func:`rom_id` takes
    :return: The name in camel case, as gymnasium writes it in ``ALE/SpaceInvaders-v5``
    :raises ValueError: As :func:`rom_id`
    """
    return rom_id_to_name(rom_id(name))
