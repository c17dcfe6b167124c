"""One run of the Omniglot experiment: a learner, a number of pretraining alphabets, a seed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from leap_rl.core import (
    FOMAML,
    MAML,
    Engine,
    Initialization,
    Job,
    JobsProgress,
    Leap,
    MetaLearner,
    MetaTrainer,
    NoPretraining,
    Reptile,
    TaskResult,
)
from leap_rl.core.checkpoint import load_result, save_result
from supervised.omniglot.alphabets import BATCH_SIZE, UPDATES, Alphabets, split

Learner = Literal["leap", "reptile", "fomaml", "maml", "none"]

LEARNERS: dict[Learner, MetaLearner] = {
    # λ = 1, the raw gradient and every update: the paper's, on a loss of one unit.
    "leap": Leap(metric="length", loss_scale=1.0, skip_updates=0),
    "reptile": Reptile(),
    "fomaml": FOMAML(),
    "maml": MAML(inner_steps=5),
    "none": NoPretraining(),
}

# Appendix D: meta SGD with 0.1, for MAML and FOMAML 0.5.
META_LEARNING_RATES: dict[Learner, float] = {"leap": 0.1, "reptile": 0.1, "fomaml": 0.5, "maml": 0.5}


@dataclass(frozen=True)
class Run:
    """
    The settings of a run.

    :param data_dir: of Omniglot
    :param learner: the meta-learner
    :param n_pretraining: alphabets to learn from
    :param seed: of everything: split, characters, held-out drawings, initialization, batches
    :param meta_steps: of a learner that makes all updates of a visit; one that makes fewer (MAML) has more meta steps,
        so that all see the same number of images
    :param meta_batch_size: alphabets per meta step
    :param updates: of a learning process
    :param meta_learning_rate: β; ``None``: the paper's
    """

    data_dir: str
    learner: Learner
    n_pretraining: int
    seed: int
    meta_steps: int
    meta_batch_size: int
    updates: int = UPDATES
    meta_learning_rate: float | None = None

    @property
    def name(self) -> str:
        rate = "" if self.meta_learning_rate is None else f"-{self.meta_learning_rate:g}"
        return f"{self.learner}{rate}-{self.n_pretraining}-seed{self.seed}"

    @property
    def meta_steps_of_learner(self) -> int:
        """For equal budgets of images."""
        learner = LEARNERS[self.learner]
        if isinstance(learner, MAML):
            return round(self.meta_steps * self.updates / (learner.inner_steps + 1))
        return self.meta_steps


def meta_train(run: Run, folder: Path, engine: Engine, progress_bar: bool = False) -> Initialization:
    """
    Meta-train, going on from where an interrupted run stood; without pretraining draw an initialization.

    :param run: what to run
    :param folder: of the run
    :param engine: where the tasks run
    :param progress_bar: draw one, if the output is a terminal
    :raises ValueError: for a run that can't be, or a folder of another one
    """
    pretraining, _ = split(run.data_dir, run.n_pretraining, run.seed)
    tasks = Alphabets(run.data_dir, pretraining, run.seed, run.updates)
    settings = folder / "run.json"
    if settings.is_file() and json.loads(settings.read_text()) != _comparable(run):
        raise ValueError(f"{folder} is of another run: {settings.read_text().strip()}; choose another folder")
    if run.learner == "none":
        folder.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(_comparable(run)) + "\n")
        return tasks.draw_initialization(None, run.seed)
    if (folder / "checkpoints").is_dir():
        trainer = MetaTrainer.load(folder, tasks, engine=engine)
    else:
        trainer = MetaTrainer(
            tasks,
            LEARNERS[run.learner],
            run.meta_batch_size,
            meta_optimizer_class=torch.optim.SGD,
            meta_optimizer_kwargs={"lr": run.meta_learning_rate or META_LEARNING_RATES[run.learner]},
            sampling="with_replacement" if run.meta_batch_size > len(tasks) else "without_replacement",
            engine=engine,
            run_dir=folder,
            tensorboard_log=folder / "tensorboard",
            seed=run.seed,
        )
        settings.write_text(json.dumps(_comparable(run)) + "\n")
    left = run.meta_steps_of_learner - trainer.meta_step
    if left > 0:
        trainer.learn(left, progress_bar=progress_bar)
    trainer.initialization.save(folder / "initialization")
    return trainer.initialization


def evaluate(run: Run, start: Initialization, folder: Path, engine: Engine) -> dict[str, TaskResult]:
    """
    Learn the held-out alphabets from a start; what was learned before is not learned again.

    :param run: whose split and seed it is
    :param start: to learn from
    :param folder: of the run
    :param engine: where the tasks run
    :return: results by alphabet
    """
    _, held_out = split(run.data_dir, run.n_pretraining, run.seed)
    tasks = Alphabets(run.data_dir, held_out, run.seed, run.updates)
    results: dict[str, TaskResult] = {}
    for task in tasks:
        kept = load_result(folder / "held-out" / task.name)
        if kept is not None:
            results[task.name] = kept
    rest = [task for task in tasks if task.name not in results]
    jobs = [Job(task, start, NoPretraining(), run.seed) for task in rest]
    with JobsProgress() as progress:
        progress.outer(f"{len(jobs)} held-out alphabets", sum(task.steps for task in rest))
        progress.jobs([task.name for task in rest], [task.steps for task in rest])
        for _, result in engine.run(jobs, progress.job_at):
            if result.status == "failed":
                raise RuntimeError(f"{result.name} failed: {(result.error or '').splitlines()[-1]}")
            save_result(folder / "held-out" / result.name, result)
            results[result.name] = result
    return results


def _comparable(run: Run) -> dict[str, Any]:
    """What must not change when a run goes on: more meta steps are more of the same run."""
    settings = asdict(run)
    del settings["meta_steps"], settings["data_dir"]
    return settings


def images(run: Run) -> int:
    """Through forward and backward, in pretraining."""
    if run.learner == "none":
        return 0
    return run.meta_steps * run.meta_batch_size * run.updates * BATCH_SIZE
