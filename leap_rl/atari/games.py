"""Names of the Atari games and their flavours, and the pools that are trained, chosen and evaluated on."""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from pathlib import Path

from ale_py import ALEInterface, LoggerMode
from ale_py.registration import rom_id_to_name
from ale_py.roms import get_all_rom_ids, get_rom_path

from leap_rl.atari.flavour_splits import SPLITS, Split

ALEInterface.setLoggerMode(LoggerMode.Error)

# Two players only: ALE cannot start them for one, and its native code ends the whole process when asked to.
_TWO_PLAYER_ROMS = frozenset({"combat", "joust", "maze_craze", "warlords"})

_ROMS = {rom.replace("_", ""): rom for rom in sorted(set(get_all_rom_ids()) - _TWO_PLAYER_ROMS)}

# "ALE/Pong-v5", "Pong-v4", "PongNoFrameskip-v4", "PongDeterministic-v4": what surrounds the name selects frame skip
# and sticky actions in gymnasium, which are arguments of their own here.
# What follows it is the flavour; behind that a version may stand, too, as in the header of a monitor file.
_SPELLING = re.compile(
    r"(?:ale/)?(?P<name>.+?)(?:(?:noframeskip|deterministic)?-v\d+)?"
    r"(?:-m(?P<mode>[0-9]{1,9}))?(?:-d(?P<difficulty>[0-9]{1,9}))?(?:(?<!-v\d)-v\d+)?",
    re.IGNORECASE | re.DOTALL,
)

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


def flavour_pool(game: str, split: Split) -> str:
    """The name of the pool of a game's flavours of one split, such as ``flavours-SpaceInvaders-train``."""
    return f"flavours-{game}-{split}"


#: Flavours of one game each, and of all these games together.
FLAVOUR_POOLS: dict[str, tuple[str, ...]] = {
    **{flavour_pool(game, split): names for game, splits in SPLITS.items() for split, names in splits.items()},
    "flavours-train": tuple(name for splits in SPLITS.values() for name in splits["train"]),
    "flavours-validation": tuple(name for splits in SPLITS.values() for name in splits["validation"]),
    "flavours-test": tuple(name for splits in SPLITS.values() for name in splits["test"]),
}

#: The pools by the names that the command line takes them by.
POOLS: dict[str, tuple[str, ...]] = {
    "paper": PAPER_GAMES,
    "paper-pretraining": PAPER_PRETRAINING_GAMES,
    "pretraining": PRETRAINING_GAMES,
    "validation": VALIDATION_GAMES,
    "held-out": HELD_OUT_GAMES,
    "seen": SEEN_GAMES,
    "larger-action-space": LARGER_ACTION_SPACE_GAMES,
    **FLAVOUR_POOLS,
}


def unseen_games(learned: Collection[str], judged: Collection[str] = ()) -> tuple[str, ...]:
    """
    Where to try what was learned, the best place first: the test flavours of the game whose training flavours these
    are, if they are some, then validation games, held-out ones, and all others of the pools.

    :param learned: names of games and flavours
    :param judged: of those that an initialization was chosen by, which say nothing of others either
    """
    places: list[str] = []
    if any("-" in game for game in learned):
        for pool, games in FLAVOUR_POOLS.items():
            if pool.endswith("-train") and set(learned) <= set(games):
                places += POOLS[f"{pool.removesuffix('train')}test"]
                break
    places += [*VALIDATION_GAMES, *HELD_OUT_GAMES, *PAPER_GAMES, *LARGER_ACTION_SPACE_GAMES]
    return tuple(game for game in dict.fromkeys(places) if game not in {*learned, *judged}) or VALIDATION_GAMES


@dataclass(frozen=True)
class Flavour:
    """
    A game in one of its modes, at one of its difficulties.

    :param rom: id of the game's ROM
    :param mode: as ALE counts them
    :param difficulty: as ALE counts them
    """

    rom: str
    mode: int
    difficulty: int

    @property
    def game(self) -> str:
        return rom_id_to_name(self.rom)

    @property
    def is_default(self) -> bool:
        """Whether the game begins so, if it is not asked for another."""
        return self == flavours_of_rom(self.rom)[0]

    @property
    def name(self) -> str:
        """``SpaceInvaders-m3-d1``; without a mode or a difficulty that is the default's."""
        default = flavours_of_rom(self.rom)[0]
        mode = f"-m{self.mode}" if self.mode != default.mode else ""
        difficulty = f"-d{self.difficulty}" if self.difficulty != default.difficulty else ""
        return f"{self.game}{mode}{difficulty}"


# ALE says that these are over with their first frame: they are for several players, or its rules of the game's end are
# not theirs. By ROM, the modes.
OVER_AT_ONCE: dict[str, frozenset[int]] = {"demon_attack": frozenset({3, 5, 7})}


def rom_file(rom: str) -> Path:
    """:param rom: id of a ROM that ALE ships"""
    file = get_rom_path(rom)
    assert file is not None
    return file


@cache
def cartridge(rom: str) -> ALEInterface:
    """A game to ask what it has, by the id of its ROM. To load one takes a tenth of a second; it is never played."""
    ale = ALEInterface()
    ale.loadROM(rom_file(rom))
    return ale


@cache
def flavours_of_rom(rom: str) -> tuple[Flavour, ...]:
    """All flavours of a game that can be played, the default one first, by the id of its ROM."""
    ale = cartridge(rom)
    modes = [mode for mode in ale.getAvailableModes() if mode not in OVER_AT_ONCE.get(rom, ())]
    return tuple(Flavour(rom, m, d) for m in modes for d in ale.getAvailableDifficulties())


def flavours(game: str, split: Split | None = None) -> tuple[str, ...]:
    """
    The flavours of a game.

    :param game: in any spelling that :func:`rom_id` takes
    :param split: ``"train"``, ``"validation"`` or ``"test"``: those of one split, which is fixed; None: all there are
    :return: their names, the default one first where it is among them
    :raises ValueError: If there is no such game, or it has no splits
    """
    rom = rom_id(game)
    if split is None:
        return tuple(flavour.name for flavour in flavours_of_rom(rom))
    known = SPLITS.get(rom_id_to_name(rom))
    if known is None:
        raise ValueError(f"{rom_id_to_name(rom)} has no splits of its flavours; there are some of {', '.join(SPLITS)}.")
    if split not in known:
        raise ValueError(f"split={split!r} is unknown, choose one of {', '.join(known)}.")
    return known[split]


def flavour_of(name: str, mode: int | None = None, difficulty: int | None = None) -> Flavour:
    """
    :param name: A game or a flavour of it, in any spelling that :func:`rom_id` takes, such as ``SpaceInvaders-m3-d1``
    :param mode: None: that of the name, or the game's default
    :param difficulty: None: that of the name, or the game's default
    :return: The flavour
    :raises ValueError: If the game is unknown or has no such mode or difficulty, which lists those there are
    """
    rom = rom_id(name)
    match = _SPELLING.fullmatch(name.strip())
    assert match is not None
    known = flavours_of_rom(rom)
    chosen: dict[str, int] = {}
    for what, given, default in (("mode", mode, known[0].mode), ("difficulty", difficulty, known[0].difficulty)):
        spelled = None if match[what] is None else int(match[what])
        if given is not None and spelled is not None and given != spelled:
            raise ValueError(f"{name!r} has the {what} {spelled}, but {what}={given} was given, too.")
        there = sorted({getattr(flavour, what) for flavour in known})
        value = next((v for v in (given, spelled) if v is not None), default)
        if isinstance(value, bool) or not isinstance(value, Integral) or value not in there:
            if what == "mode" and value in OVER_AT_ONCE.get(rom, ()):
                raise ValueError(
                    f"{rom_id_to_name(rom)} is over with its first frame in mode {value}: ALE can't play it. "
                    f"Its modes: {', '.join(map(str, there))}."
                )
            several = "modes" if what == "mode" else "difficulties"
            raise ValueError(
                f"{rom_id_to_name(rom)} has no {what} {value!r:.40}. Its {several}: {', '.join(map(str, there))}."
            )
        chosen[what] = int(value)
    return Flavour(rom, **chosen)


def rom_id(name: str) -> str:
    """
    The id of a game's ROM in ALE, such as ``space_invaders``.

    :param name: The game in any usual spelling and case: ``SpaceInvaders``, ``space_invaders``,
        ``ALE/SpaceInvaders-v5``, ``SpaceInvadersNoFrameskip-v4``, ...; or a flavour of it, ``SpaceInvaders-m3-d1``
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
    raise ValueError(f"Unknown game {name!r:.80}.{hint}")


def all_games() -> list[str]:
    """The names of all games that ALE runs for one player."""
    return sorted(rom_id_to_name(rom) for rom in _ROMS.values())


def game_name(name: str) -> str:
    """
    The canonical name of a game, such as ``SpaceInvaders``, ``MsPacman`` or ``UpNDown``, or of a flavour of it, such as
    ``SpaceInvaders-m3-d1``.

    :param name: The game or flavour in any spelling that :func:`rom_id` takes
    :return: The game's name in camel case, as gymnasium writes it in ``ALE/SpaceInvaders-v5``, then mode and
        difficulty, where they are not the game's default
    :raises ValueError: As :func:`flavour_of`
    """
    match = _SPELLING.fullmatch(name.strip())
    if match is None or match["mode"] is match["difficulty"] is None:
        return rom_id_to_name(rom_id(name))  # without a look at the game
    return flavour_of(name).name
