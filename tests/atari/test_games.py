"""Names and pools of games."""

import pytest
from ale_py.registration import rom_id_to_name
from ale_py.roms import get_all_rom_ids
from ale_py.vector_env import AtariVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from leap_rl import atari
from leap_rl.atari import POOLS, VALIDATION_GAMES, flavours, game_name, rom_id
from leap_rl.atari.games import unseen_games

TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}
ROMS = sorted(set(get_all_rom_ids()) - TWO_PLAYERS)


@pytest.mark.parametrize("rom", ROMS)
def test_every_spelling_names_the_same_game(rom: str) -> None:
    camel = rom_id_to_name(rom)
    for name in (
        rom,
        camel,
        f"ALE/{camel}-v5",
        f"{camel}NoFrameskip-v4",
        f"{camel}NoFrameskip-v0",
        f"{camel}Deterministic-v4",
        f"{camel}-v4",
        rom.replace("_", "-"),
        rom.replace("_", " "),
    ):
        assert rom_id(name) == rom_id(name.upper()) == rom_id(name.lower()) == rom
        assert game_name(name) == camel


@pytest.mark.parametrize("name", ["SpaceInvaders", "MsPacman", "UpNDown", "KungFuMaster", "Qbert"])
def test_canonical_names_are_gymnasiums(name: str) -> None:
    assert game_name(name) == name


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"^Unknown game 'SpaceInvader'\. Did you mean SpaceInvaders\b[^\n]*$"):
        rom_id("SpaceInvader")


@pytest.mark.parametrize("rom", sorted(TWO_PLAYERS))
def test_games_for_two_are_refused(rom: str) -> None:
    with pytest.raises(ValueError, match="two players"):
        rom_id(rom)


@given(st.text(max_size=30))
def test_any_text_is_a_game_or_a_value_error_in_one_line(name: str) -> None:
    try:
        assert rom_id(name) in ROMS
    except ValueError as error:
        assert "\n" not in str(error)


def test_pools() -> None:
    assert len(atari.PAPER_GAMES) == len(set(atari.PAPER_GAMES)) == 27
    assert len(atari.PAPER_PRETRAINING_GAMES) == 25
    assert len(atari.PRETRAINING_GAMES) == 22
    held_out, validation = set(atari.HELD_OUT_GAMES), set(atari.VALIDATION_GAMES)
    assert held_out | validation <= set(atari.PAPER_GAMES) and not held_out & validation
    assert set(atari.PAPER_PRETRAINING_GAMES) == set(atari.PAPER_GAMES) - held_out
    assert set(atari.PRETRAINING_GAMES) == set(atari.PAPER_PRETRAINING_GAMES) - validation
    assert set(atari.SEEN_GAMES) <= set(atari.PRETRAINING_GAMES)
    assert not set(atari.LARGER_ACTION_SPACE_GAMES) & set(atari.PAPER_GAMES)


@pytest.mark.parametrize("game", atari.PAPER_GAMES + atari.LARGER_ACTION_SPACE_GAMES)
def test_the_games_have_the_numbers_of_actions_that_the_paper_states(game: str) -> None:
    assert game_name(game) == game
    n_actions = AtariVectorEnv(rom_id(game), 1).single_action_space.n
    assert (n_actions <= 10) == (game in atari.PAPER_GAMES)


def test_where_to_try_what_was_learned() -> None:
    assert unseen_games(flavours("Berzerk", "train")[:2])[:4] == (*flavours("Berzerk", "test"), "Assault")
    assert unseen_games(POOLS["flavours-train"])[0] == POOLS["flavours-test"][0]
    for other in ((), ("Breakout",), ("Breakout", "Pong"), ("Breakout-m4", "Pong-m1"), flavours("Berzerk", "test")):
        assert unseen_games(other)[:3] == VALIDATION_GAMES
    # Nothing that was learned, nor what an initialization was chosen by.
    assert unseen_games(POOLS["paper-pretraining"])[:2] == POOLS["held-out"]
    assert unseen_games(("Pong",), judged=("Assault", "Phoenix"))[0] == "Qbert"
    assert unseen_games(flavours("Berzerk", "train"), judged=("Berzerk-m6",))[0] == "Berzerk-m8"
    assert unseen_games(POOLS["paper"])[0] == "Alien"
