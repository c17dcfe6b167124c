"""What can be told of settings before torch is imported, so that a wrong one is answered at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from leap_rl.atari.games import POOLS, flavours, game_name
from leap_rl.settings import AtariSettings, EvaluateSettings, MetaTrainSettings, Settings, TrainSettings, TuneSettings


def check(settings: Settings) -> None:
    """
    :raises ValueError: for settings that no run can have, saying what to give instead
    """
    check_device(settings.device)
    envs = [settings.env] if hasattr(settings, "env") else [*settings.envs, settings.family or ""]
    if any(envs) and settings.atari != AtariSettings():
        what = ", ".join(filter(None, envs))
        raise ValueError(f"--atari.*, or atari in the preset, say how a game looks, and {what} is none: leave them out")
    if isinstance(settings, TrainSettings | TuneSettings | EvaluateSettings):
        check_lists(game=(settings.game,), env=(settings.env,))
        check_games("game", [settings.game] if settings.game else [], "--env")
        if isinstance(settings, TrainSettings) and settings.teachers:
            if settings.game or settings.env:
                raise ValueError(f"leave out {settings.game or settings.env}: --teachers know their games")
            if settings.agent.algorithm != "A2C":
                raise ValueError(f"agent.algorithm is {settings.agent.algorithm}: with --teachers it must be A2C")
            return
        if not isinstance(settings, EvaluateSettings) and bool(settings.game) == bool(settings.env):
            both = "one of the two, not both" if settings.game else "a game, or --env with a Gymnasium id"
            raise ValueError(f"name what to learn: {both} (leap-rl games lists the games)")
        return
    check_engine(settings.engine, settings.address, settings.gpus_per_task, settings.n_workers)
    check_lists(games=settings.games, envs=settings.envs)
    given = [f"--{name}" for name in ("games", "envs", "family") if getattr(settings, name)]
    if len(given) > 1:
        raise ValueError(f"name what to learn: {' or '.join(given)}, not both")
    if not given:
        raise ValueError(
            "name what to learn: --games with Atari games, --envs with Gymnasium ids, --family with a family, or "
            "--preset (leap-rl games lists the games)"
        )
    check_games("games", settings.games, "--envs")
    if isinstance(settings, MetaTrainSettings):
        check_lists(eval_games=settings.eval_games, eval_envs=settings.eval_envs)
        if settings.eval_family and not settings.family:
            raise ValueError("--eval-family takes the validation variants of a --family: give that, or --eval-envs")
        check_games("eval-games", settings.eval_games, "--eval-envs")
    else:
        check_lists(starts=settings.starts)


def check_lists(**given: Sequence[str]) -> None:
    """:raises ValueError: for names that are one, with commas between them, or that are empty"""
    for option, names in given.items():
        for name in names:
            if "," in name and "=" not in name:
                spaced = " ".join(part for part in name.replace(",", " ").split())
                raise ValueError(f"--{option.replace('_', '-')} {name}: give them with spaces between them: {spaced}")


def check_games(option: str, names: Sequence[str], instead: str) -> None:
    """
    :param option: that gives them
    :param names: of games, flavours and pools
    :param instead: the option for Gymnasium ids
    :raises ValueError: for a name that is none of them
    """
    for name in names:
        if name in POOLS:
            continue
        try:
            game_name(name)
        except ValueError as error:
            import gymnasium as gym

            if name in gym.registry:
                raise ValueError(f"{name} is no Atari game, but a Gymnasium id: {instead} {name}") from None
            pool = re.fullmatch(r"flavours-(.+)-(train|validation|test)", name)
            if pool is not None:
                try:
                    flavours(pool[1], "train")
                except ValueError as of_game:
                    raise ValueError(f"--{option} {name}: {of_game}") from None
            near = difflib.get_close_matches(name, POOLS, n=1)
            hint = f" Or the pool {near[0]}?" if near else ""
            raise ValueError(f"--{option}: {error}{hint}" if option != "game" else f"{error}{hint}") from None


def check_engine(engine: str, address: str | None, gpus_per_task: float, n_workers: int | None) -> None:
    """:raises ValueError: for what is of another engine"""
    for option, given, of in (
        ("address", address is not None, "ray"),
        ("gpus-per-task", gpus_per_task > 0, "ray"),
        ("n-workers", n_workers is not None, "local"),
    ):
        if given and engine != of:
            raise ValueError(f"--{option} is of --engine {of}, not of {engine}: leave it out, or add --engine {of}")


def check_device(device: str) -> None:
    """:raises ValueError: for a device that is none, or is not there"""
    if device in ("auto", "cpu"):
        return
    if device.partition(":")[0] == "gpu":
        raise ValueError(f"--device {device}: torch calls it cuda{device.removeprefix('gpu')}")
    import torch

    try:
        kind: Any = torch.device(device)
        torch.empty(1, device=kind)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or ["it is not there"])[0]
        raise ValueError(f"--device {device} can't be used: {reason[:200]}; auto takes what there is") from None
