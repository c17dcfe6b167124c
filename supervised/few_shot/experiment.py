"""One run: a learner, episodes of N ways and K shots, a budget of images, a seed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from leap_rl.core import (
    FOMAML,
    MAML,
    Engine,
    Initialization,
    Job,
    Leap,
    MetaLearner,
    MetaTrainer,
    NoPretraining,
    Reptile,
)
from leap_rl.running.checkpoint import Checkpoints
from supervised.experiments import Run
from supervised.few_shot.classes import PARTS, Part, is_of_folders, load_classes
from supervised.few_shot.comparing import NETWORKS, QueryLoss
from supervised.few_shot.episodes import Episodes, TestEpisodes, with_statistics
from supervised.runs import evaluate, test_error
from supervised.tasks import ClassificationTasks

TEST_QUERIES = 15
"""Of each class (Snell et al., 2017, section 3.1)."""


@dataclass(frozen=True)
class Kind:
    """
    How a learner meta-learns. Chosen without test classes: rates and averaging are the same for all of a kind.

    :param learner: the meta-learner
    :param rate: of the meta optimizer
    :param optimizer: the meta optimizer
    :param meta_batch_size: episodes per meta step
    :param ways: of the episodes it learns from; ``None``: those that it is tested with
    :param shots: as ``ways``
    :param queries: of each class
    :param updates: of a learning process, and of one in the test
    :param learning_rate: of these
    """

    learner: MetaLearner
    rate: float
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    meta_batch_size: int = 1
    ways: int | None = None
    shots: int | None = None
    queries: int = 5
    updates: tuple[int, int] = (0, 0)
    learning_rate: float = 0.1


_MAML = {"rate": 1e-3, "meta_batch_size": 4, "updates": (5, 5)}
# Reptile and Leap have no queries to learn from; in their place more shots, as Nichol et al. (2018, table 2) have it.
_PATHS = {"optimizer": torch.optim.SGD, "meta_batch_size": 5, "shots": 10, "updates": (5, 50)}

KINDS: dict[str, Kind] = {
    # More ways than in the test are harder episodes: Snell et al., section 3.1 (60 there, 20 ours).
    "protonet": Kind(QueryLoss(), 1e-3, ways=20),
    "matching": Kind(QueryLoss(), 1e-3, ways=20),
    "relation": Kind(QueryLoss(), 1e-3, queries=15),  # a pair of each query and each class: ways cost most
    "maml": Kind(MAML(inner_steps=5), **_MAML),  # type: ignore[arg-type]
    "fomaml": Kind(FOMAML(), **_MAML),  # type: ignore[arg-type]
    "reptile": Kind(Reptile(), rate=1.0, **_PATHS),  # type: ignore[arg-type]
    "leap": Kind(Leap(metric="energy", skip_updates=0), rate=1.0, **_PATHS),  # type: ignore[arg-type]
}
LEARNERS = ("none", *KINDS)
AVERAGED = 1 / 3
"""Of the meta steps, the last ones: what is tested is the mean of θ⁰ over them. Of comparing networks, whose batch norm
is computed anew for it."""


@dataclass(frozen=True)
class FewShotRun(Run):
    """
    The settings of a run.

    :param learner: one of ``LEARNERS``
    :param ways: classes of a test episode
    :param shots: images of each in its support
    :param budget: images to meta-learn from, through forward and backward
    :param episodes: to test with
    :param n_filters: as of ``ConvNet``
    """

    experiment = "few-shot"

    learner: str
    ways: int
    shots: int
    budget: int
    episodes: int
    n_filters: int = 64

    @property
    def cells(self) -> dict[str, str]:
        data = {"data": Path(self.data_dir).resolve().name} if is_of_folders(self.data_dir) else {}
        return {"learner": self.learner, "episodes": f"{self.ways}-way {self.shots}-shot", **data}

    @property
    def comparison(self) -> str | None:
        return self.learner if self.learner in NETWORKS else None

    def to_learn(self) -> Episodes:
        """
        :raises ValueError: if there are none
        """
        kind = KINDS[self.learner]
        ways, shots = self.ways, kind.shots or self.shots
        if kind.ways is not None:  # as far as there are classes
            ways = max(ways, min(kind.ways, len(load_classes(self.data_dir, "train"))))
        updates, _ = kind.updates
        # Paths of several minibatches: a part of the larger support at a time.
        batch = self.ways * min(2, self.shots) if kind.shots else None
        shared = (self.comparison, updates, kind.learning_rate, batch, self.n_filters)
        return Episodes(self.data_dir, "train", ways, shots, kind.queries, *shared)

    def to_test(self) -> TestEpisodes:
        """
        :raises ValueError: if there are none
        """
        kind = KINDS.get(self.learner, KINDS["maml"])
        shared = (self.comparison, kind.updates[1], kind.learning_rate, None, self.n_filters)
        return TestEpisodes(
            Episodes(self.data_dir, "test", self.ways, self.shots, TEST_QUERIES, *shared).task, self.episodes
        )

    def meta_steps(self) -> int:
        if self.learner == "none":
            return 0
        kind, task = KINDS[self.learner], self.to_learn().task
        looks_ahead = kind.learner.looks_ahead or isinstance(kind.learner, MAML)
        visit = task.steps + (task.ways * task.queries if looks_ahead else 0)
        each = visit * kind.meta_batch_size
        if self.budget < each:
            raise ValueError(f"--images {self.budget:,} is less than one meta step of {self.learner}, {each:,} images")
        return self.budget // each

    def data(self) -> dict[str, Any]:
        self.to_test(), self.meta_steps()  # say what is wrong with them
        sizes: dict[str, Any] = {}
        for part in PARTS:
            classes = load_classes(self.data_dir, part)
            sizes[f"classes to {part}"] = len(classes)
            if is_of_folders(self.data_dir):
                sizes[f"images to {part}"] = sum(map(len, classes))
                sizes[f"sha256 of those to {part}"] = _sha256(self.data_dir, part)
        return sizes

    def images(self) -> int:
        return 0 if self.learner == "none" else self.budget

    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        test = self.to_test()
        start = self._meta_learn(folder, engine, progress_bar)
        if self.comparison is not None:
            start = with_statistics(start, self.to_learn().task, self.seed)
        evaluated = folder / f"{self.meta_steps():04d}"
        if not (evaluated / "initialization" / "config.json").is_file():
            start.save(evaluated / "initialization")
        start = Initialization.load(evaluated / "initialization")
        job = Job(test, start, NoPretraining(), self.seed)
        result = evaluate([job], test.name, evaluated, engine)[test.name]
        return {"error": 100 * test_error(result)}

    def _meta_learn(self, folder: Path, engine: Engine, progress_bar: bool) -> Initialization:
        if self.learner == "none":
            return ClassificationTasks([self.to_test().task], "all", {"data": "episodes"}).draw_initialization(
                None, self.seed
            )
        kind, tasks, last = KINDS[self.learner], self.to_learn(), self.meta_steps()
        if Checkpoints(folder).steps():
            trainer = MetaTrainer.load(folder, tasks, kind.learner, engine=engine, keep_checkpoints=1)
        else:
            trainer = MetaTrainer(
                tasks,
                kind.learner,
                kind.meta_batch_size,
                meta_optimizer_class=kind.optimizer,
                meta_optimizer_kwargs={"lr": kind.rate},
                average_from=None if self.comparison is None else max(1, round((1 - AVERAGED) * last)),
                sampling="with_replacement",
                engine=engine,
                run_dir=folder,
                keep_checkpoints=1,
                tensorboard_log=folder / "tensorboard",
                seed=self.seed,
            )
        if trainer.meta_step < last:
            trainer.learn(last - trainer.meta_step, progress_bar=progress_bar)
        return trainer.initialization


@cache
def _sha256(data_dir: str, part: Part) -> str:
    """Of the images of a folder as they are learned: another folder may have its name, and as many."""
    found = hashlib.sha256()
    for images in load_classes(data_dir, part):
        found.update(repr(images.shape).encode())  # which images are of one class
        found.update(images.numpy().tobytes())
    return found.hexdigest()[:16]
