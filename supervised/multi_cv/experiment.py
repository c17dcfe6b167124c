"""One run of the Multi-CV experiment: a learner, a data set that is held out, a seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from leap_rl.core import (
    Engine,
    Initialization,
    Job,
    Leap,
    MetaCallback,
    MetaLearner,
    MetaTrainer,
    NoPretraining,
    Reptile,
    TaskResult,
)
from leap_rl.core.checkpoint import Checkpoints
from supervised.hat import HAT
from supervised.multi_cv.data import DATA_SETS, default_data_dir
from supervised.multi_cv.tasks import LEARNING_RATE, DataSets
from supervised.multihead import MultiHeadTrainer
from supervised.progressive import ProgressiveNet
from supervised.runs import evaluate, open_folder
from supervised.visits import NextTask, TaskNetwork, VisitsTrainer

# Appendix E, and section 4.2 for the metric. λ, and Reptile's meta optimizer, are ours. SGD needs no update skipped.
META_LEARNERS: dict[str, MetaLearner] = {
    "leap": Leap(metric="energy", loss_scale="auto", skip_updates=0),
    "reptile": Reptile(),
}
META_LEARNING_RATE = 0.01
"""Of Adam."""
META_PATIENCE = 10
"""Meta batches without a better validation error; the error is the mean over the meta batch (ours)."""

TASK_NETWORKS: dict[str, Callable[..., TaskNetwork]] = {
    "hat": HAT,
    "progressive": partial(ProgressiveNet, lateral="all"),
    "hat-sequential": HAT,
    "progressive-sequential": partial(ProgressiveNet, lateral="earlier"),
}
SEQUENTIAL = ("hat-sequential", "progressive-sequential")
"""One visit to each data set, of as many passes as others make over all visits: as the papers of HAT and Progressive
Nets have it. Flennerhag et al. compare what revisits tasks, one pass at a time."""
LEARNERS = ("none", *META_LEARNERS, "multihead", *TASK_NETWORKS)


@dataclass(frozen=True)
class Run:
    """
    The settings of a run.

    :param data_dir: of the data sets
    :param learner: one of ``LEARNERS``
    :param held_out: data set that is held out
    :param pretraining: the others that are learned from
    :param seed: of everything: images for validation, initialization, draws of data sets, minibatches
    :param meta_steps: at most; a visit is one pass over a data set. Joint learners make as many visits, or updates
    :param meta_batch_size: data sets per meta step, drawn with replacement
    :param passes: over the held-out data set, at most
    :param batch_size: images per update
    :param limit: images of a data set, at most
    """

    data_dir: str
    learner: str
    held_out: str
    pretraining: tuple[str, ...]
    seed: int
    meta_steps: int
    meta_batch_size: int
    passes: int
    batch_size: int
    limit: int | None

    @property
    def name(self) -> str:
        return f"{self.learner}-{self.held_out}-seed{self.seed}"

    def settings(self) -> dict[str, object]:
        """What must not change when a run goes on; more meta steps are more of the same run, unless it is one visit."""
        settings = asdict(self)
        del settings["data_dir"]
        if self.learner not in SEQUENTIAL:
            del settings["meta_steps"]
        return settings

    @property
    def visits(self) -> int:
        """To data sets, of one pass each, in pretraining."""
        return 0 if self.learner == "none" else self.meta_steps * self.meta_batch_size

    def data_sets(self) -> tuple[DataSets, DataSets]:
        """To learn from, and the one that is held out."""
        passes = max(1, round(self.visits / len(self.pretraining))) if self.learner in SEQUENTIAL else 1
        shared = {"run_seed": self.seed, "limit": self.limit, "batch_size": self.batch_size}
        return (
            DataSets(self.data_dir, self.pretraining, **shared, passes=passes),  # type: ignore[arg-type]
            DataSets(self.data_dir, [self.held_out], **shared, passes=self.passes),  # type: ignore[arg-type]
        )

    def images(self) -> tuple[int, int]:
        """Through forward and backward, at most: in pretraining (on average over draws), and in the evaluation."""
        pretraining, held_out = self.data_sets()
        steps = [task.steps for task in pretraining]
        visited = sum(steps) if self.learner in SEQUENTIAL else self.visits * np.mean(steps)
        return int(visited), held_out[0].steps


class EarlyStopping(MetaCallback):
    """
    End meta-training when the validation error of the meta batches has not improved for some. It is kept in
    ``validation_errors.json``, so that a run that goes on remembers.

    :param folder: of the run
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "validation_errors.json"

    def _on_step(self) -> bool:
        errors = self.errors()
        results = [r.scores["validation_error"] for r in self.locals["results"] if r.status == "ok"]
        errors[self.trainer.meta_step] = float(np.mean(results)) if results else 1.0
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(errors) + "\n")
        os.replace(unfinished, self.file)
        return not self.is_over()

    def errors(self) -> dict[int, float]:
        """By meta step."""
        if not self.file.is_file():
            return {}
        return {int(step): error for step, error in json.loads(self.file.read_text()).items()}

    def is_over(self) -> bool:
        errors = self.errors()
        return bool(errors) and max(errors) - min(errors, key=lambda step: (errors[step], step)) >= META_PATIENCE


def train(run: Run, folder: Path, engine: Engine, progress_bar: bool = False) -> TaskResult:
    """
    Learn from the other data sets, then learn the one that is held out from what was found; an interrupted run goes on
    from where it stood.

    :param run: what to run
    :param folder: of the run
    :param engine: where the tasks run
    :param progress_bar: draw one, if the output is a terminal
    :return: of the held-out data set
    :raises ValueError: for a run that can't be, or a folder of another one
    """
    pretraining, held_out = run.data_sets()
    open_folder(folder, run.settings())
    evaluated = folder / f"{0 if run.learner == 'none' else run.meta_steps:04d}"
    if not (evaluated / "initialization" / "config.json").is_file():
        _pretrain(run, pretraining, folder, engine, progress_bar).save(evaluated / "initialization")
    return _evaluate(run, held_out, evaluated, engine)


def _pretrain(run: Run, tasks: DataSets, folder: Path, engine: Engine, progress_bar: bool) -> Initialization:
    tensorboard = folder / "tensorboard"
    if run.learner == "none":
        return tasks.draw_initialization(None, run.seed)
    if run.learner == "multihead":
        if Checkpoints(folder).steps():
            joint = MultiHeadTrainer.load(folder, tasks.tasks)
        else:
            joint = MultiHeadTrainer(
                tasks.tasks, LEARNING_RATE, folder, tensorboard_log=tensorboard / run.learner, seed=run.seed
            )
        updates = round(run.visits * np.mean([task.updates for task in tasks.tasks]))
        return joint.learn(updates - joint.n_updates, progress_bar).initialization
    if run.learner in TASK_NETWORKS:
        order = list(range(len(tasks)))
        if run.learner not in SEQUENTIAL:
            order = np.random.default_rng(run.seed).integers(len(tasks), size=run.visits).tolist()
        network = _task_network(run)
        trainer = VisitsTrainer(network, tasks.tasks, order, folder, tensorboard / run.learner, run.seed)
        return trainer.learn(progress_bar=progress_bar).initialization
    stopping = EarlyStopping(folder)
    if Checkpoints(folder).steps():
        meta = MetaTrainer.load(folder, tasks, engine=engine)
    else:
        meta = MetaTrainer(
            tasks,
            META_LEARNERS[run.learner],
            run.meta_batch_size,
            scope="encoder",
            meta_optimizer_class=torch.optim.Adam,
            meta_optimizer_kwargs={"lr": META_LEARNING_RATE},
            sampling="with_replacement",
            engine=engine,
            run_dir=folder,
            tensorboard_log=tensorboard,
            seed=run.seed,
        )
    if meta.meta_step < run.meta_steps and not stopping.is_over():
        meta.learn(run.meta_steps - meta.meta_step, stopping, progress_bar)
    return meta.initialization


def _task_network(run: Run) -> TaskNetwork:
    """That of the pretraining tasks, as it is drawn with the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return TASK_NETWORKS[run.learner]([DATA_SETS[name].n_classes for name in run.pretraining])


def _evaluate(run: Run, held_out: DataSets, folder: Path, engine: Engine) -> TaskResult:
    task = held_out[0]
    start = Initialization.load(folder / "initialization")
    if run.learner in TASK_NETWORKS:
        job = Job(NextTask.of(task, task.n_classes, partial(_task_network, run)), start, NoPretraining(), run.seed)
    else:
        job = Job(task, start, NoPretraining(), run.seed)
    return evaluate([job], f"held-out {run.held_out}", folder, engine)[run.held_out]


def evaluate_run(folder: Path, data_dir: Path | None, engine: Engine) -> TaskResult:
    """
    The held-out data set, learned from what a run found last; learned now if it was not yet.

    :param folder: of a run
    :param data_dir: of the data sets; ``None``: the default
    :param engine: where the task runs
    :raises ValueError: if it is no folder of a run, or nothing was found yet
    """
    settings = folder / "run.json"
    if not settings.is_file():
        raise ValueError(f"{folder} is no run of this experiment: run.json is missing")
    found = sorted(path.parents[1] for path in folder.glob("[0-9]*/initialization/config.json"))
    if not found:
        raise ValueError(f"{folder} is not finished: python -m supervised.multi_cv train goes on with it")
    given = json.loads(settings.read_text())
    given["pretraining"] = tuple(given["pretraining"])
    run = Run(str((data_dir or default_data_dir()).absolute()), **{"meta_steps": 0, **given})
    return _evaluate(run, run.data_sets()[1], found[-1], engine)
