"""``leap-rl train``"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from leap_rl.agents import speed_up
from leap_rl.atari import game_name
from leap_rl.commands.initializations import load_initialization
from leap_rl.commands.run_folder import open_run_folder
from leap_rl.commands.tasks import algorithm, algorithm_kwargs, make_env, policy
from leap_rl.settings import TrainSettings, write_settings
from leap_rl.transfer import FreezeEncoder, SlowEncoder, WatchTransfer

MAY_CHANGE = {"timesteps", "save-freq"}

LOGS = 100
"""A run logs at least so often, if it has as many rollouts."""


class SaveAgent(BaseCallback):
    """
    Save the agent from time to time; a file appears whole or not at all, and the last two stay.

    :param folder: of the files, which are named by their steps
    :param every: steps
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.folder = folder
        self.every = every

    def _on_training_start(self) -> None:
        self.next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.next += self.every
            save_agent(self.model, self.folder / f"{self.num_timesteps:012d}.zip")
        return True


def save_agent(model: BaseAlgorithm, file: Path) -> None:
    """Under another name first; of those in the same folder the last two stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}-unfinished.zip")
    model.save(temporary)
    os.replace(temporary, file)
    for old in saved_agents(file.parent)[:-2]:
        old.unlink()


def saved_agents(folder: Path) -> list[Path]:
    """From first to last."""
    return sorted(p for p in folder.glob("[0-9]*.zip"))


def train(settings: TrainSettings, run_dir: Path | None, resume: bool) -> None:
    """
    Train an agent, and leave ``agent.zip`` in the run folder.

    :param settings: of the run
    :param run_dir: of a new run, or of the one to resume
    :param resume: whether it is there already
    :raises ValueError: for what can't be trained
    """
    initialization = None if settings.init is None else load_initialization(settings.init)
    gently = settings.freeze_encoder_steps > 0 or settings.encoder_lr_factor != 1
    if gently and not settings.game and settings.agent.network in (None, "mlp"):
        raise ValueError(
            "--freeze-encoder-steps and --encoder-lr-factor need an encoder: networks of vectors have none"
        )
    from_scratch = None
    if settings.watch is not None:
        from_scratch = curves_from_scratch(settings.watch, game_name(settings.game) if settings.game else settings.env)
    kwargs = algorithm_kwargs(settings.agent)
    policy_name = policy(settings.agent, images=bool(settings.game))
    folder = open_run_folder(run_dir, resume, "train", settings, MAY_CHANGE)
    env = make_env(settings.game, settings.env, settings.agent.n_envs, settings.atari, settings.seed)
    try:
        saved = saved_agents(folder / "agents")
        if saved:
            model = algorithm(settings.agent).load(saved[-1], env, device=settings.device)
            if model.num_timesteps >= settings.timesteps:
                raise ValueError(
                    f"{folder} is finished, with {model.num_timesteps:,} steps: --timesteps with more of them goes on"
                )
            print(f"Going on in {folder} from the agent saved after {model.num_timesteps:,} steps, with new episodes")
        else:
            model = algorithm(settings.agent)(policy_name, env, seed=settings.seed, device=settings.device, **kwargs)
            if initialization is not None:
                initialization.apply_to(model)
            print(f"Training {settings.agent.algorithm} on {settings.game or settings.env} in {folder}")
        if settings.agent.arithmetic == "fast":
            print(f"Fast arithmetic: {', '.join(speed_up(model)) or 'nothing that this hardware has'}")
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder, "train", settings)
        model.set_logger(logger_from(folder / "tensorboard", model.num_timesteps))
        callbacks: list[BaseCallback] = [SaveAgent(folder / "agents", settings.save_freq)]
        if settings.freeze_encoder_steps:
            callbacks.append(FreezeEncoder(settings.freeze_encoder_steps))
        if from_scratch is not None:
            callbacks.append(WatchTransfer(from_scratch))
        if settings.encoder_lr_factor != 1:
            callbacks.append(SlowEncoder(settings.encoder_lr_factor))
        # SB3 logs every 100 rollouts by default, which is never in a short run.
        rollout = model.n_steps * env.num_envs  # type: ignore[attr-defined]
        log_interval = max(1, min(100, settings.timesteps // rollout // LOGS))
        try:
            model.learn(
                settings.timesteps - model.num_timesteps,
                callback=callbacks,
                log_interval=log_interval,
                reset_num_timesteps=not saved,
                progress_bar=sys.stderr.isatty(),
            )
        except KeyboardInterrupt:
            save_agent(model, folder / "agents" / f"{model.num_timesteps:012d}.zip")
            print(f"\nInterrupted after {model.num_timesteps:,} steps; the agent is saved. To go on:")
            print(f"  leap-rl train --resume {folder}", flush=True)
            raise
        save_agent(model, folder / "agents" / f"{model.num_timesteps:012d}.zip")
        save_agent(model, folder / "agent.zip")
    finally:
        env.close()
    print(f"The agent is in {folder / 'agent.zip'}. Next:")
    print(f"  leap-rl evaluate {folder}")
    print(f"  tensorboard --logdir {folder / 'tensorboard'}")


def curves_from_scratch(folder: Path, task: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    :param folder: of a ``leap-rl compare``
    :param task: the game
    :return: steps and moving averages of the returns, of each seed that started at random
    :raises ValueError: if it has none of that game, or too few
    """
    file = folder / "results.json"
    if not file.is_file():
        raise ValueError(f"{folder} is no finished comparison: results.json is missing; leap-rl compare makes one")
    results = json.loads(file.read_text())["results"]
    if "random" not in results.get(task, {}):
        raise ValueError(f"{folder} has no random starts on {task}: it compared {', '.join(results)}")
    curves = [run["curve"] for run in results[task]["random"]]
    from_scratch = [(np.array(curve["steps"]), np.array(curve["values"])) for curve in curves]
    WatchTransfer(from_scratch)  # says if they are too few
    return from_scratch


def logger_from(folder: Path, last_step: int) -> Logger:
    """SB3's logger; what an interrupted run wrote after ``last_step`` is withdrawn."""
    tensorboard = TensorBoardOutputFormat(str(folder))
    tensorboard.writer.close()
    tensorboard.writer = SummaryWriter(str(folder), purge_step=last_step + 1)
    return Logger(str(folder), [tensorboard] if sys.stderr.isatty() else [tensorboard, HumanOutputFormat(sys.stdout)])
