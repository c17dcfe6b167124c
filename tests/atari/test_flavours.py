"""Modes and difficulties: their names, their emulators against ALE's native environment, and what can't be."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ale_py import Action, ALEInterface
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from leap_rl import AtariTasks, Leap, LeapA2C, MetaTrainer, make_atari_env
from leap_rl.atari import FLAVOUR_POOLS, POOLS, flavour_of, flavours, game_name
from leap_rl.atari.emulator import Emulators, _closed
from leap_rl.atari.flavour_splits import SPLITS
from leap_rl.atari.games import OVER_AT_ONCE, all_games, cartridge, rom_file, rom_id
from leap_rl.core import InProcess, Workers

# Names


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("SpaceInvaders-m3-d1", "SpaceInvaders-m3-d1"),
        ("ALE/SpaceInvaders-m3-d1-v5", "SpaceInvaders-m3-d1"),
        ("space_invaders-m3", "SpaceInvaders-m3"),
        ("ALE/SpaceInvaders-v5-d1", "SpaceInvaders-d1"),
        ("SpaceInvaders-m0-d0", "SpaceInvaders"),
        ("Breakout-M44", "Breakout-m44"),
        ("Breakout", "Breakout"),
        ("Space\nInvaders", "SpaceInvaders"),
    ],
)
def test_every_spelling_has_one_name(spelling: str, name: str) -> None:
    assert game_name(spelling) == name == flavour_of(spelling).name
    assert flavour_of(name) == flavour_of(spelling)


def test_a_game_whose_default_is_not_0_keeps_its_name() -> None:
    """Of all games: the first flavour is the one that ALE begins with, and has the game's name alone."""
    for game in ("AirRaid", "BankHeist", "Berzerk", "Othello", "Frogger"):
        names = flavours(game)
        assert names[0] == game and len(set(names)) == len(names)
    assert flavours("AirRaid")[1] == "AirRaid-m2"  # its modes begin with 1


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Breakout-m5", {}, r"Breakout has no mode 5\. Its modes: 0, 4, 8, .*44\."),
        ("Breakout-d2", {}, r"Breakout has no difficulty 2\. Its difficulties: 0, 1\."),
        ("Breakout", {"mode": -1}, "Breakout has no mode -1"),
        ("Breakout", {"mode": True}, "Breakout has no mode True"),
        ("Breakout-m4", {"mode": 8}, "'Breakout-m4' has the mode 4, but mode=8 was given, too"),
        ("Brakeout-m4", {}, r"Unknown game 'Brakeout-m4'\. Did you mean Breakout"),
        ("Breakout-m", {}, "Unknown game"),
        ("Breakout-m" + "1" * 5_000, {}, r"^Unknown game .{80}\. See"),
        ("Breakout", {"mode": 4.0}, r"Breakout has no mode 4\.0"),
        ("Breakout", {"mode": np.array([4, 8])}, r"Breakout has no mode array"),
        (None, {}, "game must be a name or a sequence of names, not None"),
        (["Breakout", 3], {}, r"game must be a name or a sequence of names, not \['Breakout', 3\]"),
        ({"Breakout"}, {}, "game must be a name or a sequence of names"),  # in an order that changes
    ],
)
def test_what_is_no_flavour(name: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_atari_env(name, **kwargs)


def test_the_pools_are_flavours_of_ale_and_share_none() -> None:
    for game, splits in SPLITS.items():
        assert {*splits["train"], *splits["validation"], *splits["test"]} == set(flavours(game))
        for one, other in combinations(splits.values(), 2):
            assert not set(one) & set(other)
        assert splits["train"][0] == game and len(splits["test"]) >= 2 and splits["validation"]
        for split, names in splits.items():
            assert POOLS[f"flavours-{game}-{split}"] == names == flavours(game, split)
            assert all(game_name(name) == name for name in names)
    for split in ("train", "validation", "test"):
        assert sum(len(s[split]) for s in SPLITS.values()) == len(FLAVOUR_POOLS[f"flavours-{split}"])  # type: ignore[index]
    with pytest.raises(ValueError, match="Pong has no splits of its flavours; there are some of SpaceInv"):
        flavours("Pong", "train")


# Emulators against the native environment


def assert_same(game: str, steps: int, **kwargs: Any) -> int:
    """
    Random play of two copies.

    :return: how many episodes ended
    """
    settings: dict[str, Any] = {
        "frameskip": 4, "stack_num": 4, "grayscale": True, "noop_max": 30, "repeat_action_probability": 0.0,
        "full_action_space": False, "max_num_frames_per_episode": 108_000, "img_width": 84,
    }  # fmt: skip
    settings |= kwargs
    flavour = flavour_of(game)
    native = AtariVectorEnv(
        flavour.rom, 2, num_threads=1, autoreset_mode=AutoresetMode.SAME_STEP, img_height=settings["img_width"],
        reward_clipping=False, use_fire_reset=False, **settings,
    )  # fmt: skip
    ours = Emulators(
        [flavour] * 2, settings["img_width"], settings["stack_num"], frame_skip=settings["frameskip"],
        grayscale=settings["grayscale"], noop_max=settings["noop_max"],
        action_repeat_probability=settings["repeat_action_probability"],
        full_action_space=settings["full_action_space"], max_frames=settings["max_num_frames_per_episode"],
    )  # fmt: skip
    seeds = np.array([123, 456])
    (theirs, info), (mine, own_info) = native.reset(seed=seeds), ours.reset(seeds)
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(own_info["lives"], info["lives"])
    rng, ended = np.random.default_rng(0), 0
    for _ in range(steps):
        actions = rng.integers(len(ours.copies[0].actions), size=2)
        native.send(actions), ours.send(actions)
        *expected, info = native.recv()
        *found, own_info = ours.recv()
        for have, want in zip(found, expected, strict=True):
            np.testing.assert_array_equal(have, want)
        np.testing.assert_array_equal(own_info["lives"], info["lives"])
        for i in np.flatnonzero(expected[2] | expected[3]):
            np.testing.assert_array_equal(own_info["final_obs"][i], info["final_obs"][i])
            ended += 1
    return ended


@pytest.mark.parametrize("game", ["Breakout", "Qbert"])
def test_emulators_give_the_bits_of_the_native_environment(game: str) -> None:
    assert assert_same(game, 350)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"repeat_action_probability": 0.25},
        {"grayscale": False, "stack_num": 1},
        {"img_width": 42, "stack_num": 2},
        {"frameskip": 1},
        {"frameskip": 3, "noop_max": 0},
        {"full_action_space": True, "noop_max": 200},
        {"max_num_frames_per_episode": 83},  # cut off amid a step
    ],
)
def test_emulators_give_them_with_every_setting(kwargs: dict[str, Any]) -> None:
    assert_same("Breakout", 90, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("game", POOLS["paper"])
def test_emulators_give_them_in_every_game_of_the_paper(game: str) -> None:
    assert_same(game, 1_500)


# Environments


def played(env: Any, steps: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    seen = [env.reset()]
    for _ in range(steps):
        observations, rewards, _, _ = env.step(rng.integers(env.action_space.n, size=env.num_envs))
        seen += [observations, rewards]
    env.close()
    return seen


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_mode_and_a_difficulty_change_the_game_and_nothing_else_does() -> None:
    plain = played(make_atari_env("SpaceInvaders", 1, seed=3))
    assert same(plain, played(make_atari_env("SpaceInvaders", 1, seed=3, mode=0, difficulty=0)))
    mode = played(make_atari_env("SpaceInvaders", 1, seed=3, mode=3))
    assert same(mode, played(make_atari_env("SpaceInvaders-m3", 1, seed=3)))
    difficulty = played(make_atari_env("SpaceInvaders-d1", 1, seed=3))
    both = played(make_atari_env("SpaceInvaders-m3-d1", 1, seed=3))
    for one, other in combinations([plain, mode, difficulty, both], 2):
        assert not same(one, other)


def test_the_native_environment_and_the_emulators_are_one() -> None:
    """On two threads it is the native one that plays, on one thread the emulators."""
    native = make_atari_env("Breakout", 3, seed=5, n_threads=2)
    emulators = make_atari_env("Breakout", 3, seed=5, n_threads=1)
    assert isinstance(native._native, AtariVectorEnv) and isinstance(emulators._native, Emulators)
    assert same(played(native, 150), played(emulators, 150))


@pytest.mark.parametrize("game", ["SpaceInvaders", "Breakout", "Qbert", "Adventure"])
def test_a_game_that_was_closed_is_played_again_as_if_it_were_new(game: str) -> None:
    """Whatever was played meanwhile: the first flavour or the last, by whatever seed."""
    _closed.clear()
    first, last = flavours(game)[0], flavours(game)[-1]
    new = []
    for name in (first, last):
        new.append(played(make_atari_env(name, 2, seed=3, n_threads=1)))
        _closed.clear()
    played(make_atari_env(first, 2, seed=9, n_threads=1))
    kept = [ale for _, ale, _ in _closed]
    assert len(kept) == (0 if game == "Adventure" else 2)
    played(make_atari_env(last, 2, seed=4, n_threads=1), 40)
    for name, want in zip((first, last), new, strict=True):
        env = make_atari_env(name, 2, seed=3, n_threads=1)
        assert isinstance(env._native, Emulators)
        assert not kept or {copy.ale for copy in env._native.copies} == set(kept)
        assert same(want, played(env))


def test_sticky_actions_draw_from_the_seed_of_each_environment() -> None:
    _closed.clear()
    new = played(make_atari_env("Breakout", 2, seed=3, n_threads=1, action_repeat_probability=0.25))
    assert not _closed
    played(make_atari_env("Breakout", 2, seed=4, n_threads=1))  # which is kept, and must not be taken
    assert same(new, played(make_atari_env("Breakout", 2, seed=3, n_threads=1, action_repeat_probability=0.25)))


@pytest.mark.slow
def test_no_game_but_adventure_draws_from_the_seed_that_ale_takes_with_a_load() -> None:
    """So a game that was loaded by another seed can be played again."""
    draws = set()
    for game in all_games():
        loaded = []
        for seed in (1, 987_654):
            ale = ALEInterface()
            ale.setFloat("repeat_action_probability", 0.0)
            ale.setInt("random_seed", seed)
            ale.loadROM(rom_file(rom_id(game)))
            loaded.append((ale, ale.cloneSystemState()))
        for name in flavours(game):
            flavour, seen = flavour_of(name), []
            for ale, state in loaded:
                ale.restoreSystemState(state)
                ale.setMode(flavour.mode)
                ale.setDifficulty(flavour.difficulty)
                ale.reset_game()
                actions = ale.getMinimalActionSet()
                chosen = np.random.default_rng(0).integers(len(actions), size=60)
                seen.append([(ale.act(actions[i]), ale.getRAM().tobytes()) for i in chosen])
            if seen[0] != seen[1]:
                draws.add(game)
    assert draws == {"Adventure"}


def test_one_vector_of_several_flavours_plays_each_as_if_it_were_alone() -> None:
    names = ["SpaceInvaders", "SpaceInvaders-m3-d1"]
    env = make_atari_env(names, n_envs=4, seed=7)
    assert env.get_attr("game") == names * 2
    mixed = played(env)
    for i, name in enumerate(names):
        alone = played(make_atari_env(name, n_envs=4, seed=7))
        for have, want in zip(mixed, alone, strict=True):
            np.testing.assert_array_equal(have[i::2], want[i::2])


def test_one_vector_of_several_games(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"different actions \(Breakout 4, Pong 6\) need full_action_space=True"):
        make_atari_env(["Breakout", "Pong"], n_envs=2)
    with pytest.raises(ValueError, match="n_envs=1 environments can't hold 2 games"):
        make_atari_env(["Breakout", "Breakout-d1"], n_envs=1)
    env = make_atari_env(["Breakout", "Pong"], n_envs=4, seed=0, full_action_space=True, monitor_dir=tmp_path)
    assert env.action_space.n == 18 and env.get_attr("game") == ["Breakout", "Pong"] * 2
    assert '"env_id": "ALE/Pong-v5"' in (tmp_path / "1.monitor.csv").read_text()
    played(env, 5)


# Tasks


def test_flavours_are_tasks_and_every_engine_gives_the_same_bits() -> None:
    tasks = AtariTasks(LeapA2C, "CnnPolicy", ["SpaceInvaders-m3", "space_invaders-m0-d1"], 80, n_envs=2)
    assert [task.name for task in tasks] == ["SpaceInvaders-m3", "SpaceInvaders-d1"]
    found = []
    for engine in (InProcess(), Workers(1)):
        trainer = MetaTrainer(tasks, Leap(skip_updates=0), 2, seed=0, engine=engine, device="cpu").learn(1)
        found.append(trainer.initialization)
    assert found[0].sha256 == found[1].sha256 and found[0].config["tasks"] == [task.name for task in tasks]
    with pytest.raises(ValueError, match="SpaceInvaders has no mode 99"):
        AtariTasks(LeapA2C, "CnnPolicy", ["SpaceInvaders-m99"], 80)


def test_a_mode_that_cant_be_played_is_named() -> None:
    assert flavours("DemonAttack") == ("DemonAttack", "DemonAttack-d1")
    with pytest.raises(ValueError, match=r"DemonAttack is over with its first frame in mode 3: .* Its modes: 1"):
        flavour_of("DemonAttack-m3-d1")


@pytest.mark.slow
def test_every_flavour_of_every_game_can_be_played() -> None:
    for game in all_games():
        rom = rom_id(game)
        for mode in cartridge(rom).getAvailableModes():
            ale = ALEInterface()
            ale.loadROM(rom_file(rom))
            ale.setMode(mode)
            ale.reset_game()
            for _ in range(20):
                ale.act(Action.NOOP)
            assert ale.game_over() == (mode in OVER_AT_ONCE.get(rom, ())), f"{game} in mode {mode}"
