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

_WHERE = {
    "AtariTask": "leap_rl.atari.tasks",
    "AtariTasks": "leap_rl.atari.tasks",
    "AtariVecEnv": "leap_rl.atari.vec_env",
    "FLAVOUR_POOLS": "leap_rl.atari.games",
    "Flavour": "leap_rl.atari.games",
    "HELD_OUT_GAMES": "leap_rl.atari.games",
    "LARGER_ACTION_SPACE_GAMES": "leap_rl.atari.games",
    "PAPER_GAMES": "leap_rl.atari.games",
    "PAPER_PRETRAINING_GAMES": "leap_rl.atari.games",
    "POOLS": "leap_rl.atari.games",
    "PREPROCESSING_VERSION": "leap_rl.atari.vec_env",
    "PRETRAINING_GAMES": "leap_rl.atari.games",
    "SEEN_GAMES": "leap_rl.atari.games",
    "VALIDATION_GAMES": "leap_rl.atari.games",
    "all_games": "leap_rl.atari.games",
    "flavour_of": "leap_rl.atari.games",
    "flavours": "leap_rl.atari.games",
    "game_name": "leap_rl.atari.games",
    "make_atari_env": "leap_rl.atari.vec_env",
    "rom_id": "leap_rl.atari.games",
}

__getattr__, __dir__ = lazily(__name__, _WHERE)

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
