"""One run of the Multi-CV experiment: a learner, a data set that is held out, a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
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
from leap_rl.core.meta_settings import Sampling, sample_batch
from leap_rl.running.checkpoint import Checkpoints
from supervised.hat import CAPACITY, HAT, S_MAX
from supervised.multi_cv.data import DATA_SETS, load
from supervised.multi_cv.tasks import LEARNING_RATE, PATIENCE, VALIDATION, DataSets
from supervised.multi_cv.way import PLAIN, Way
from supervised.multihead import MultiHeadTrainer
from supervised.progressive import ProgressiveNet
from supervised.runs import check_folder, evaluate, open_folder, read_run
from supervised.visits import NextTask, TaskNetwork, VisitsTrainer

# Appendix E, and section 4.2 for the metric. λ, and Reptile's meta optimizer, are ours. SGD needs no update skipped.
LEAP = Leap(metric="energy", loss_scale="auto", skip_updates=0)
META_LEARNERS: dict[str, tuple[MetaLearner, type[torch.optim.Optimizer], float]] = {
    "leap": (LEAP, torch.optim.Adam, 0.01),
    "leap-sgd": (LEAP, torch.optim.SGD, 0.5),
    "reptile": (Reptile(), torch.optim.SGD, 1.0),
}
"""With meta optimizer and rate. Leap's: appendix E. Those with SGD are ours (docs/evidence/multi-cv.md)."""
SAMPLING: Sampling = "with_replacement"
META_PATIENCE = 10
"""Meta batches without a better validation error (appendix E); what is its error is ours, see ``EarlyStopping``."""

TASK_NETWORKS: dict[str, Callable[..., TaskNetwork]] = {
    "hat-none": HAT,
    "hat": HAT,
    "progressive": partial(ProgressiveNet, lateral="all"),
    "hat-sequential": HAT,
    "progressive-sequential": partial(ProgressiveNet, lateral="earlier"),
}
WITHOUT_PRETRAINING = ("none", "hat-none")
"""``hat-none``: HAT's gated network as it is drawn, to tell what gates cost from what is carried over. Progressive Nets
without other columns are the network of ``none``."""
SEQUENTIAL = ("hat-sequential", "progressive-sequential")
"""One visit to each data set, of as many passes as others make over all visits: as the papers of HAT and Progressive
Nets have it. Flennerhag et al. compare what revisits tasks, one pass at a time."""
LEARNERS = ("none", *META_LEARNERS, "multihead", *TASK_NETWORKS)

CONSTANTS: dict[str, object] = {"learning_rate": LEARNING_RATE, "validation": VALIDATION, "patience": PATIENCE}
"""Of all runs. Kept with each, as its learner's are, so that none is gone on with, or compared, under others."""


def learner_constants(learner: str) -> dict[str, object]:
    """Kept with the runs of one learner."""
    if learner in META_LEARNERS:
        meta_learner, meta_optimizer_class, meta_learning_rate = META_LEARNERS[learner]
        constants: dict[str, object] = {"meta_learner": meta_learner.settings(), "meta_patience": META_PATIENCE}
        return constants | {"meta_optimizer": meta_optimizer_class.__name__, "meta_learning_rate": meta_learning_rate}
    return {"s_max": S_MAX, "capacity": CAPACITY} if learner.startswith("hat") else {}


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

    @classmethod
    def read(cls, folder: Path, data_dir: str) -> Run:
        """
        That of a folder; without a budget, unless it is one visit.

        :raises ValueError: if it has none of this experiment
        """
        names = [name for name in cls.__dataclass_fields__ if name not in ("data_dir", "meta_steps")]
        settings = read_run(folder, names)
        given = {name: settings[name] for name in names} | {"pretraining": tuple(settings["pretraining"])}
        return cls(data_dir, meta_steps=settings.get("meta_steps", 0), **given)

    @property
    def name(self) -> str:
        return f"{self.learner}-{self.held_out}-seed{self.seed}"

    def settings(self) -> dict[str, object]:
        """
        What must not change when a run goes on, the sizes of its data sets included; more meta steps are more of the
        same run, unless it is one visit.
        """
        data = {name: load(self.data_dir, name) for name in (self.held_out, *self.pretraining)}
        sizes = {name: [len(d.train), len(d.test)] for name, d in data.items()}
        settings = asdict(self) | {"images": sizes, "constants": CONSTANTS}
        settings["learner_constants"] = learner_constants(self.learner)
        del settings["data_dir"]
        if self.learner not in SEQUENTIAL:
            del settings["meta_steps"]
        return settings

    @property
    def visits(self) -> int:
        """To data sets, of one pass each, in pretraining."""
        return 0 if self.learner in WITHOUT_PRETRAINING else self.meta_steps * self.meta_batch_size

    def data_sets(self) -> tuple[DataSets, DataSets]:
        """To learn from, and the one that is held out."""
        passes = max(1, round(self.visits / len(self.pretraining))) if self.learner in SEQUENTIAL else 1
        shared = {"run_seed": self.seed, "limit": self.limit, "batch_size": self.batch_size}
        return (
            DataSets(self.data_dir, self.pretraining, **shared, passes=passes),  # type: ignore[arg-type]
            DataSets(self.data_dir, [self.held_out], **shared, passes=self.passes),  # type: ignore[arg-type]
        )

    def budget(self) -> int:
        """In what the learner's checkpoints count: meta steps, updates or visits."""
        if self.learner == "multihead":
            return round(self.visits * np.mean([task.updates for task in self.data_sets()[0].tasks]))
        if self.learner in SEQUENTIAL:
            return len(self.pretraining)
        return self.visits if self.learner in TASK_NETWORKS else self.meta_steps

    def images(self) -> tuple[int, int]:
        """Through forward and backward, at most: in pretraining (on average over draws), and in the evaluation."""
        pretraining, held_out = self.data_sets()
        steps = [task.steps for task in pretraining]
        visited = sum(steps) if self.learner in SEQUENTIAL else self.visits * np.mean(steps)
        return int(visited), held_out[0].steps


class EarlyStopping(MetaCallback):
    """
    End meta-training when the validation error has not improved for some meta steps: the mean over all data sets of
    the latest error of each, from when all were visited. (The mean over a meta batch would follow its draw.)
    """

    def _on_step(self) -> bool:
        return not is_over(self.trainer)


def is_over(trainer: MetaTrainer) -> bool:
    """As ``EarlyStopping`` ends it, from what a checkpoint remembers."""
    latest: dict[str, float] = {}
    errors: list[float] = []
    for row in trainer.history:
        latest |= {task["name"]: task["validation_error"] for task in row["tasks"] if task["status"] == "ok"}
        if len(latest) == len(trainer.tasks):
            errors.append(float(np.mean(list(latest.values()))))
    return bool(errors) and len(errors) - 1 - int(np.argmin(errors)) >= META_PATIENCE


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
    :raises RuntimeError: if it diverged
    """
    pretraining, held_out = run.data_sets()
    with open_folder(folder, run.settings(), run.budget()):
        start = _pretrain(run, pretraining, folder, engine, progress_bar)
        evaluated = folder / f"{run.meta_steps if run.visits else 0:04d}"
        if not (evaluated / "initialization" / "config.json").is_file():
            start.save(evaluated / "initialization")
        return _evaluate(run, held_out, evaluated, engine)


def _pretrain(run: Run, tasks: DataSets, folder: Path, engine: Engine, progress_bar: bool) -> Initialization:
    """
    What a new task starts from. Its config says how many images were learned from, forward and backward.
    """
    tensorboard, budget = folder / "tensorboard", run.budget()
    if run.learner == "none":
        start, images = tasks.draw_initialization(None, run.seed), 0
    elif run.learner == "multihead":
        joint = MultiHeadTrainer(
            tasks.tasks, LEARNING_RATE, folder, tensorboard_log=tensorboard / run.learner, seed=run.seed
        )
        if joint.n_updates < budget:
            joint.learn(budget - joint.n_updates, progress_bar)
        start, images = joint.initialization, joint.n_updates * run.batch_size
    elif run.learner in TASK_NETWORKS:
        order = _visits(run, tasks)
        trainer = VisitsTrainer(_task_network(run), tasks.tasks, order, folder, tensorboard / run.learner, run.seed)
        if order:
            trainer.learn(progress_bar=progress_bar)
        start, images = trainer.initialization, trainer.images
    else:
        if Checkpoints(folder).steps():
            meta = MetaTrainer.load(folder, tasks, engine=engine)
        else:
            meta_learner, meta_optimizer_class, meta_learning_rate = META_LEARNERS[run.learner]
            meta = MetaTrainer(
                tasks,
                meta_learner,
                run.meta_batch_size,
                scope="encoder",
                meta_optimizer_class=meta_optimizer_class,
                meta_optimizer_kwargs={"lr": meta_learning_rate},
                sampling=SAMPLING,
                engine=engine,
                run_dir=folder,
                tensorboard_log=tensorboard,
                seed=run.seed,
            )
        if meta.meta_step < run.meta_steps and not is_over(meta):
            meta.learn(run.meta_steps - meta.meta_step, EarlyStopping(), progress_bar)
        start, images = meta.initialization, meta.num_timesteps
    start.config["images"] = images
    return start


def _visits(run: Run, tasks: DataSets) -> list[int]:
    """Of data sets by a network for many tasks: one to each, or those of the meta-learners."""
    if run.learner in SEQUENTIAL:
        return list(range(len(tasks)))
    meta_steps = range(run.meta_steps if run.visits else 0)
    batches = [sample_batch(run.seed, i, len(tasks), run.meta_batch_size, SAMPLING) for i in meta_steps]
    return list(chain.from_iterable(batches))


def _task_network(run: Run) -> TaskNetwork:
    """That of the pretraining tasks, as it is drawn with the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return TASK_NETWORKS[run.learner]([DATA_SETS[name].n_classes for name in run.pretraining])


def _evaluate(run: Run, held_out: DataSets, folder: Path, engine: Engine, way: Way = PLAIN) -> TaskResult:
    task = way.of(held_out[0])
    start = Initialization.load(folder / "initialization")
    if way != PLAIN:
        if run.learner in TASK_NETWORKS:
            raise ValueError(f"{run.learner} learns in its own way: it is not fine-tuned by strategies")
        network = task.network()
        start.apply_to(network, layers=way.transfer_layers or None)
        task.check_finetuning(network, start)
    if run.learner in TASK_NETWORKS:
        job = Job(
            NextTask.of(task, DATA_SETS[run.held_out].n_classes, partial(_task_network, run)),
            start,
            NoPretraining(),
            run.seed,
        )
    else:
        job = Job(task, start, NoPretraining(), run.seed)
    return evaluate([job], f"held-out {run.held_out}", folder, engine, way.name)[run.held_out]


def evaluate_run(run: Run, folder: Path, engine: Engine, way: Way = PLAIN) -> TaskResult:
    """
    The held-out data set, learned from what a run found last; learned now if it was not yet.

    :param run: as it was read from the folder
    :param folder: of it
    :param engine: where the task runs
    :param way: that it is learned in; results of each have a folder of their own
    :raises ValueError: if nothing was found yet, the data is not that of the run, or it can't be fine-tuned so
    """
    found = found_last(run, folder)
    with open_folder(folder, run.settings()):
        return _evaluate(run, run.data_sets()[1], found, engine, way)


def found_last(run: Run, folder: Path) -> Path:
    """
    :param run: as it was read from the folder
    :return: folder of the initialization that the run found last
    :raises ValueError: if nothing was found yet, or the data is not that of the run
    """
    check_folder(folder, run.settings())
    found = [path.parents[1] for path in folder.glob("[0-9]*/initialization/config.json")]
    if not found:
        raise ValueError(f"{folder} is not finished: the command that began it goes on with it")
    return max(found, key=lambda path: int(path.name))
