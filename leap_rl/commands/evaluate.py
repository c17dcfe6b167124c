"""``leap-rl evaluate``"""

from __future__ import annotations

import dataclasses
import math
import shlex
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from leap_rl import zoo
from leap_rl.agents import observed_algorithm
from leap_rl.agents.learning import is_finite, learns
from leap_rl.agents.tasks import check_learns
from leap_rl.atari import POOLS
from leap_rl.commands.initializations import check_is_for_vectors, load_initialization
from leap_rl.commands.saved_runs import agent_of, new_model, settings_of
from leap_rl.commands.score_bar import ScoreBar
from leap_rl.commands.tasks import algorithm, algorithm_kwargs, make_env, policy
from leap_rl.running.files import nearest
from leap_rl.running.outside import first_line
from leap_rl.running.progress import JobsProgress
from leap_rl.settings import EvaluateSettings
from leap_rl.transfer import Initialization
from leap_rl.transfer.saved_agent import AgentError, SavedAgent

FULL_ACTIONS = 18
VIDEO_STEPS = 3_000
"""A video ends after so many steps, if its episode does not."""


def evaluate(settings: EvaluateSettings, what: Path, video: Path | None, trust: bool) -> None:
    """
    Print the mean return of some episodes.

    :param settings: of the evaluation
    :param what: a run folder of ``leap-rl train``, a saved agent, or an initialization: a folder, or a name of the zoo
    :param video: MP4 to write, of one more episode
    :param trust: unpickle what a saved agent holds, as SB3 does, which runs whatever its author put there
    :raises ValueError: if it is none of them, or does not fit the game
    """
    if video is not None and video.suffix != ".mp4":
        raise ValueError(f"--video {video} must end in .mp4")
    if video is not None:
        import_module("moviepy")  # which Gymnasium's recorder needs; better missed now than after the episodes
    is_initialization = (what / "config.json").is_file() or (not what.exists() and str(what) in zoo.list())
    is_run = (what / "settings.yaml").is_file()
    if is_run:
        settings = _with_settings_of(what, settings)
        if not (what / "agent.zip").is_file():
            resume = shlex.join(["leap-rl", "train", "--resume", str(what)])
            raise ValueError(f"{what} has no agent.zip yet: {resume} finishes it")
        what = what / "agent.zip"
    elif not is_initialization and not what.is_file():
        raise ValueError(f"{what} is neither a run folder of leap-rl train, nor an agent.zip, nor an initialization")
    n_envs = settings.agent.n_envs if is_initialization else 1
    if video is not None:
        there = nearest(video.absolute().parent)
        if not there.is_dir():
            raise ValueError(f"--video {video}: {there} is a file, not a folder")
        _check_can_be_drawn(settings)
    games = POOLS.get(settings.game, (settings.game,))  # of a pool, whose games were learned together, each alone
    full = bool(settings.game) and not is_initialization and _has_all_actions(what)
    env = _make_env(settings.game if is_initialization else games[0], settings, n_envs, full)
    try:
        if is_initialization:
            model = _learned_from(load_initialization(what), env, settings)
        elif trust:
            model = _unpickled(what, env, settings)
        elif is_run:
            game, env_name = settings.game, settings.env
            model = agent_of(what, settings.agent, env, game, env_name, settings.seed, settings.device)
        else:
            kind, game = algorithm(settings.agent), settings.game or settings.env
            model = SavedAgent(what).player(kind, env, game, seed=settings.seed, device=settings.device)
    finally:
        env.close()
    for game in games:
        _play(model, game, n_envs, settings, full)
    if video is not None:
        _record(model, games[0], settings, video, full)
        print(f"One more episode is in {video}")


def _make_env(game: str, settings: EvaluateSettings, n_envs: int, full_action_space: bool) -> VecEnv:
    return make_env(game, settings.env, n_envs, settings.atari, settings.seed, full_action_space)


def _has_all_actions(agent: Path) -> bool:
    """Whether it acts in ALE's full action set, as a student of several games does."""
    with suppress(AgentError):
        outputs = SavedAgent(agent).policy().get("action_net.weight")
        return outputs is not None and len(outputs) == FULL_ACTIONS
    return False


def _play(model: BaseAlgorithm, game: str, n_envs: int, settings: EvaluateSettings, full: bool) -> None:
    """
    Print the mean return.

    :param game: one game, if it is not an ``env`` of the settings
    :param full: whether the model acts in ALE's full action set
    """
    env = _make_env(game, settings, n_envs, full)
    what = game or settings.env

    def count(found: dict[str, Any], _: object) -> None:
        ended = found["episode_rewards"]
        bar.job_at(0, len(ended), float(np.mean(ended)) if ended else math.nan)

    try:
        with JobsProgress(unit="episodes") as bar:
            bar.outer(f"Playing {what}", settings.episodes)
            bar.jobs([what], [settings.episodes])
            returns, lengths = evaluate_policy(
                model,
                env,
                settings.episodes,
                settings.deterministic,
                callback=count,
                return_episode_rewards=True,
            )
    finally:
        env.close()
    assert isinstance(returns, list)
    print(
        f"{what}: mean return {np.mean(returns):,.1f} ± {np.std(returns):,.1f} over "
        f"{len(returns)} episodes, {np.mean(lengths):,.0f} steps each",
        flush=True,
    )


def _with_settings_of(folder: Path, settings: EvaluateSettings) -> EvaluateSettings:
    """
    The game, where it is not given, the agent and the preprocessing of a training run.

    :raises ValueError: for an agent or a preprocessing that is not the run's
    """
    game, env, agent, atari = settings_of(folder)
    if not (settings.game or settings.env):
        settings = dataclasses.replace(settings, game=game, env=env)
    for name, given, own in (("agent", settings.agent, agent), ("atari", settings.atari, atari)):
        if given not in (type(given)(), own):
            raise ValueError(f"{folder} knows its own {name} settings: leave --{name}.* out, or evaluate its agent.zip")
    return dataclasses.replace(settings, agent=agent, atari=atari)


def _unpickled(agent: Path, env: VecEnv, settings: EvaluateSettings) -> BaseAlgorithm:
    """As SB3 loads it."""
    try:
        return algorithm(settings.agent).load(agent, env, device=settings.device)
    except Exception as error:  # whatever its pickle does
        raise ValueError(f"{agent} can't be loaded as {settings.agent.algorithm}: {first_line(error)}") from None


def _learned_from(initialization: Initialization, env: VecEnv, settings: EvaluateSettings) -> BaseAlgorithm:
    """An initialization plays nothing by itself: an agent learns from it first."""
    kwargs = algorithm_kwargs(settings.agent, policy(settings.agent, settings.env))
    check_learns(observed_algorithm(algorithm(settings.agent)), settings.timesteps, kwargs)
    given = (settings.agent, env, settings.game, settings.env, settings.timesteps)
    model = new_model(*given, settings.seed, settings.device)
    if policy(settings.agent, settings.env).startswith("Mlp"):
        check_is_for_vectors("it", settings.env, initialization)
    initialization.apply_to(model, settings.head)
    model.print_arithmetic()
    what = settings.game or settings.env
    print(f"Learning {what} from the initialization: {settings.timesteps:,} steps", flush=True)
    with JobsProgress() as bar:
        went_well = learns(model, settings.timesteps, [ScoreBar(bar, what, settings.timesteps)])
    if not (went_well and is_finite(model)):
        raise RuntimeError("the learning diverged: a smaller --agent.learning-rate may help")
    return model


def _check_can_be_drawn(settings: EvaluateSettings) -> None:
    """:raises ValueError: if there is no picture of the game, or nothing here to draw it with"""
    what = settings.game or settings.env
    env = make_env(POOLS.get(settings.game, (settings.game,))[0], settings.env, 1, settings.atari, settings.seed)
    try:
        env.reset()
        if env.get_images()[0] is None:
            raise ValueError("it has no picture")
    except Exception as error:  # whatever draws it
        raise ValueError(f"{what} can't be drawn ({first_line(error)}): leave --video out") from None
    finally:
        env.close()


def _record(model: BaseAlgorithm, game: str, settings: EvaluateSettings, video: Path, full: bool) -> None:
    """The first episode of one environment, by Gymnasium's recorder."""
    from gymnasium.utils.save_video import save_video  # needs the extra `video`

    env = _make_env(game, settings, 1, full)
    try:
        observations = env.reset()
        frames = [env.render()]
        state, begins = None, np.ones(1, dtype=bool)  # what a recurrent policy remembers
        for _ in range(VIDEO_STEPS):
            actions, state = model.predict(observations, state, begins, settings.deterministic)  # type: ignore[arg-type]
            observations, _, begins, infos = env.step(actions)
            frames.append(env.render())
            if "episode" in infos[0]:
                break
    finally:
        env.close()
    video.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=video.parent) as folder:
        save_video(frames, folder, fps=15, episode_trigger=lambda _: True, name_prefix="video")  # type: ignore[arg-type]
        next(Path(folder).glob("*.mp4")).replace(video)
