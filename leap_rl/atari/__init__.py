"""The Atari games: names, flavours and pools, the vector environment."""

from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.atari.games import (
        FLAVOUR_POOLS,
        HELD_OUT_GAMES,
        LARGER_ACTION_SPACE_GAMES,
        PAPER_GAMES,
        PAPER_PRETRAINING_GAMES,
        POOLS,
        PRETRAINING_GAMES,
        SEEN_GAMES,
        VALIDATION_GAMES,
        Flavour,
        all_games,
        flavour_of,
        flavours,
        game_name,
        rom_id,
    )
    from leap_rl.atari.tasks import AtariTask, AtariTasks
    from leap_rl.atari.vec_env import PREPROCESSING_VERSION, AtariVecEnv, make_atari_env

__getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "FLAVOUR_POOLS",
    "HELD_OUT_GAMES",
    "LARGER_ACTION_SPACE_GAMES",
    "PAPER_GAMES",
    "PAPER_PRETRAINING_GAMES",
    "POOLS",
    "PREPROCESSING_VERSION",
    "PRETRAINING_GAMES",
    "SEEN_GAMES",
    "VALIDATION_GAMES",
    "AtariTask",
    "AtariTasks",
    "AtariVecEnv",
    "Flavour",
    "all_games",
    "flavour_of",
    "flavours",
    "game_name",
    "make_atari_env",
    "rom_id",
]
