"""``leap-rl meta-train``"""

from __future__ import annotations

import logging
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from leap_rl.agents import EnvTasks, RecycleDormant
from leap_rl.atari import POOLS
from leap_rl.atari.games import unseen_games
from leap_rl.commands.engine import WHERE_IT_RUNS, engine_of
from leap_rl.commands.initializations import load_initialization
from leap_rl.commands.run_folder import begin, check_same_settings, print_commands
from leap_rl.commands.tasks import make_tasks
from leap_rl.core import (
    FOMAML,
    Initialization,
    InitializationError,
    Leap,
    MetaLearner,
    MetaTrainer,
    Reptile,
    SequentialFinetuning,
)
from leap_rl.core.meta_settings import MetaSettings
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.settings import MetaTrainSettings, as_options, write_settings

_log = logging.getLogger(__name__)

MAY_CHANGE = {"meta-steps", "keep-checkpoints", "keep-every", *WHERE_IT_RUNS}


def meta_train(settings: MetaTrainSettings, folder: Path, resume: bool) -> None:
    """
    Meta-train, and leave ``initialization`` in the run folder.

    :param settings: of the run
    :param folder: of a new run, or of the one to resume; nobody else writes to it
    :param resume: whether it is there already
    :raises ValueError: for what can't be trained
    """
    tasks = training_tasks(settings)
    if resume:
        check_same_settings(folder, "meta-train", settings, MAY_CHANGE)
    if resume and Checkpoints(folder).steps():
        trainer = MetaTrainer.load(folder, tasks, **_always_given(settings))
        # One that was told to end where it stands has its initialization still to write.
        written = _meta_steps_of(folder / "initialization")
        if trainer.meta_step > settings.meta_steps or trainer.meta_step == settings.meta_steps == written:
            raise ValueError(
                f"{folder} is finished, with {trainer.meta_step} meta steps: --meta-steps with a larger number goes on"
            )
        print(f"Going on in {folder} after meta step {trainer.meta_step} of {settings.meta_steps}", flush=True)
    elif resume and (folder / "initialization").exists():
        raise ValueError(
            f"{folder} has no checkpoint to go on from, but an initialization: train in another folder; it begins "
            "again where that is removed, too"
        )
    else:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of one that was ended before its first checkpoint
        trainer = make_trainer(settings, tasks, folder)
        of = f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}"
        print(f"Meta-training on {of}, {settings.meta_steps} meta steps, in {folder}", flush=True)
    begin(folder, "meta-train", settings, MAY_CHANGE)
    write_settings(folder, "meta-train", settings)
    try:
        if trainer.meta_step < settings.meta_steps:
            callback = RecycleDormant() if settings.recycle_dormant else None
            trainer.learn(settings.meta_steps - trainer.meta_step, callback, progress_bar=True)
    except KeyboardInterrupt:
        print(
            f"\nInterrupted in meta step {trainer.meta_step + 1} of {settings.meta_steps}; what is finished is saved. "
            "To go on:"
        )
        print_commands(["leap-rl", "meta-train", "--resume", folder])
        raise
    trainer.initialization.save(folder / "initialization")
    made, best = folder / "initialization", folder / "best_initialization"
    learned = trainer.best_initialization
    if learned is not None and not learned.config.get("meta_steps"):
        print("The evaluation tasks were learned best from what it started from: no meta step was better.")
        learned = None
    also = f", that by which the evaluation tasks were learned best in {best}" if learned is not None else ""
    print(f"The initialization is in {made}{also}. Next:")
    ended = any(not math.isnan(row["area"]) for step in trainer.history for row in step["tasks"])
    print_commands(
        ["tensorboard", "--logdir", folder / "tensorboard"],
        *next_commands(settings, trainer.initialization.scope, made if learned is None else best, ended),
    )


def _meta_steps_of(initialization: Path) -> int | None:
    """Of one that a run has written; ``None`` if it has not. A damaged one is put aside, and written again."""
    if not initialization.is_dir():
        return None
    try:
        found = Initialization.load(initialization).config.get("meta_steps")
    except InitializationError as error:
        aside = initialization.with_name(f"{initialization.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        initialization.rename(aside)
        _log.warning("%s; it is %s now, and is written again", error, aside.name)
        return None
    return found if isinstance(found, int) else None


def next_commands(
    settings: MetaTrainSettings, scope: str, initialization: Path, ended: bool = True
) -> list[list[object]]:
    """
    What an initialization is made for: an agent that starts from it, and a comparison with random starts.

    :param settings: of its meta-training, whose agent learns again
    :param scope: of the initialization
    :param initialization: folder of it
    :param ended: whether episodes ended in its visits; if not, so short a training says nothing
    """
    agent = [*(["--timesteps", settings.timesteps] if ended else []), *as_options(settings.agent, settings.atari)]
    starts = ["--starts", f"{settings.learner}={initialization}", "random"]
    if settings.family or settings.envs:
        env = f"{settings.family}/test-0" if settings.family else (settings.eval_envs or settings.envs)[0]
        new = ["--family", settings.family] if settings.family else ["--envs", env]
        return [
            ["leap-rl", "train", "--env", env, "--init", initialization, *agent],
            ["leap-rl", "compare", *new, *starts, *agent],
        ]
    judged, learned = (
        [name for game in games for name in POOLS.get(game, (game,))] for games in (settings.eval_games, settings.games)
    )
    game = unseen_games(learned, judged)[0]  # not one that chose what is tried
    head = ["--head", "map"] if scope == "all" else []
    return [
        ["leap-rl", "train", game, "--init", initialization, *head, *agent],
        ["leap-rl", "compare", "--games", game, *starts, *agent],
    ]


def training_tasks(settings: MetaTrainSettings) -> EnvTasks:
    """:raises ValueError: for what can't be learned"""
    return make_tasks(
        settings.games, settings.envs, settings.timesteps, settings.agent, settings.atari, settings.family
    )


def make_trainer(settings: MetaTrainSettings, tasks: EnvTasks, folder: Path | None) -> MetaTrainer:
    """
    :param tasks: to learn from
    :param folder: of the run; ``None`` writes nothing
    :raises ValueError: for what can't be trained
    """
    if settings.average_from is not None and settings.average_from > settings.meta_steps:
        raise ValueError(f"average-from {settings.average_from} is after the last of {settings.meta_steps} meta steps")
    if settings.recycle_dormant:
        RecycleDormant.check(tasks, tasks.draw_initialization(settings.scope, settings.seed), settings.average_from)
    given = _always_given(settings)
    start = None if settings.init is None else load_initialization(settings.init)
    if start is not None and given["eval_tasks"]:
        both = sorted(start.learned_from & {task.name for task in given["eval_tasks"]})
        if both:
            raise ValueError(f"{settings.init} was learned from {', '.join(both)}: evaluate on others")
    return MetaTrainer(
        tasks,
        **{
            **{name: getattr(settings, name) for name in MetaSettings.__dataclass_fields__},
            "meta_batch_size": batch_size(settings, len(tasks)),
            "eval_freq": settings.eval_freq if given["eval_tasks"] else 0,
        },
        initialization=start,
        run_dir=folder,
        tensorboard_log=None if folder is None else folder / "tensorboard",
        **given,
    )


def _always_given(settings: MetaTrainSettings) -> dict[str, Any]:
    """What a trainer is given, whether it begins or goes on."""
    optimizer_class, optimizer_kwargs = meta_optimizer(settings)
    return {
        "learner": meta_learner(settings),
        "meta_optimizer_class": optimizer_class,
        "meta_optimizer_kwargs": optimizer_kwargs,
        "eval_tasks": evaluation_tasks(settings),
        "n_workers": settings.n_workers,
        # A single task, too, is then in a process that can be ended.
        "engine": engine_of(settings) if settings.engine != "local" or settings.task_timeout is not None else None,
        "keep_checkpoints": settings.keep_checkpoints,
        "keep_every": settings.keep_every,
        "verbose": 1,
    }


def meta_learner(settings: MetaTrainSettings) -> MetaLearner:
    if settings.learner == "reptile":
        return Reptile()
    if settings.learner == "fomaml":
        return FOMAML()
    if settings.learner == "finetuning":
        return SequentialFinetuning()
    return Leap(**asdict(settings.leap))


def meta_optimizer(settings: MetaTrainSettings) -> tuple[type[torch.optim.Optimizer] | None, dict[str, Any]]:
    """
    :raises ValueError: for sequential fine-tuning, which has none
    """
    given = (settings.meta_optimizer, settings.meta_learning_rate, settings.meta_schedule != "constant")
    if settings.learner == "finetuning":
        if any(given):
            raise ValueError("finetuning keeps what it learned as it is: no meta-optimizer, -learning-rate, -schedule")
        return None, {}
    default_class, default_kwargs = meta_learner(settings).meta_optimizer
    chosen = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, None: default_class}[settings.meta_optimizer]
    if settings.meta_learning_rate is None and chosen is not default_class:
        raise ValueError(f"meta-optimizer is {settings.meta_optimizer}: give its --meta-learning-rate, too")
    rate = settings.meta_learning_rate or default_kwargs["lr"]
    return chosen, {"lr": (lambda remaining: rate * remaining) if settings.meta_schedule == "linear" else rate}


def batch_size(settings: MetaTrainSettings, n_tasks: int) -> int:
    if settings.learner == "finetuning":
        return settings.meta_batch_size or 1
    return settings.meta_batch_size or n_tasks


def evaluation_tasks(settings: MetaTrainSettings) -> EnvTasks | None:
    """
    :raises ValueError: if one of them is learned from as well
    """
    if not (settings.eval_games or settings.eval_envs or settings.eval_family):
        return None
    timesteps = settings.eval_timesteps or settings.timesteps
    family = settings.family if settings.eval_family else None
    tasks = make_tasks(
        settings.eval_games, settings.eval_envs, timesteps, settings.agent, settings.atari, family, "validation"
    )
    both = sorted({t.name for t in tasks} & {t.name for t in training_tasks(settings)})
    if both:
        raise ValueError(f"learned from and evaluated on: {', '.join(both)}. Leave them out of one of the two")
    return tasks
