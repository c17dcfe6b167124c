"""One run of the Omniglot experiment: a learner, a number of pretraining alphabets, a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
    TaskResult,
)
from leap_rl.core.arithmetic import Arithmetic
from leap_rl.running.checkpoint import Checkpoints
from supervised.multihead import MultiHeadTrainer
from supervised.omniglot.alphabets import BATCH_SIZE, LEARNING_RATE, UPDATES, Alphabets, held_out_alphabets, split
from supervised.omniglot.curves import TrainingCurves, show_examples
from supervised.runs import check_folder, evaluate, open_folder, read_run

EVALUATE_EVERY = 15
"""Meta steps (ours)."""

# λ = 1, the raw gradient and every update: the paper's, on a loss of one unit.
_LEAP: dict[str, Any] = {"metric": "length", "loss_scale": 1.0, "skip_updates": 0}

LEARNERS: dict[str, MetaLearner | None] = {
    "none": NoPretraining(),
    "leap": Leap(**_LEAP),
    "reptile": Reptile(),
    "fomaml": FOMAML(),
    "maml": MAML(inner_steps=5),
    "multihead": None,  # a joint trainer
}

# The six different variants of appendix C: without the loss there is nothing to stabilize. The last equals Reptile.
ABLATION: dict[str, MetaLearner | None] = {
    "leap": Leap(**_LEAP),
    "leap-no-stabilizer": Leap(**_LEAP, stabilizer=False),
    "leap-no-loss": Leap(**_LEAP, loss_delta="none"),
    "leap-energy": Leap(**_LEAP | {"metric": "energy"}),
    "leap-energy-no-stabilizer": Leap(**_LEAP | {"metric": "energy"}, stabilizer=False),
    "leap-energy-no-loss": Leap(**_LEAP | {"metric": "energy"}, loss_delta="none"),
}
# Ours: each visit draws a head of its own. Is it the head that remembers alphabets?
ENCODER_ONLY: dict[str, MetaLearner | None] = {"leap-encoder": Leap(**_LEAP), "reptile-encoder": Reptile()}
KNOWN = LEARNERS | ABLATION | ENCODER_ONLY

# Appendix D: meta SGD with 0.1, for MAML and FOMAML 0.5. Multi-head fine-tuning has the tasks' own SGD.
META_LEARNING_RATES = {"fomaml": 0.5, "maml": 0.5, "multihead": LEARNING_RATE}
META_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Run:
    """
    The settings of a run.

    :param data_dir: of Omniglot
    :param learner: the meta-learner
    :param n_pretraining: alphabets to learn from
    :param seed: of everything: split, characters, held-out drawings, initialization, batches
    :param meta_steps: the budget: so many visits of all updates to a meta batch. MAML makes fewer updates in a visit,
        so it has more meta steps; multi-head fine-tuning makes as many updates in all. So all see the same number of
        images, but for FOMAML's look ahead: one minibatch more in a visit
    :param meta_batch_size: alphabets per meta step
    :param updates: of a learning process
    :param meta_learning_rate: β; ``None``: the paper's
    :param validation: hold out a quarter of the pretraining alphabets instead, to choose β by
    :param arithmetic: as of ``ClassificationTask``
    """

    data_dir: str
    learner: str
    n_pretraining: int
    seed: int
    meta_steps: int
    meta_batch_size: int
    updates: int = UPDATES
    meta_learning_rate: float | None = None
    validation: bool = False
    arithmetic: Arithmetic = "exact"

    @classmethod
    def read(cls, folder: Path, data_dir: str) -> Run:
        """
        That of a folder, without a budget.

        :raises ValueError: if it has none of this experiment
        """
        names = [name for name in cls.__dataclass_fields__ if name not in ("data_dir", "meta_steps", "arithmetic")]
        settings = read_run(folder, names)
        arithmetic = settings.get("arithmetic", "exact")
        return cls(data_dir, meta_steps=0, arithmetic=arithmetic, **{name: settings[name] for name in names})

    @property
    def name(self) -> str:
        rate = "" if self.meta_learning_rate is None else f"-{self.meta_learning_rate:g}"
        fast = "-fast" * (self.arithmetic == "fast")
        return f"{'validation-' * self.validation}{self.learner}{rate}{fast}-{self.n_pretraining}-seed{self.seed}"

    def budget(self, meta_steps: int) -> int:
        """What as many images as in ``meta_steps`` are to the learner: meta steps of its own, or updates."""
        learner = KNOWN[self.learner]
        if isinstance(learner, MAML):
            return round(meta_steps * self.updates / (learner.inner_steps + 1))
        return meta_steps if learner is not None else meta_steps * self.meta_batch_size * self.updates

    def evaluations(self) -> list[int]:
        """Meta steps after which the held-out alphabets are learned."""
        if self.learner == "none":
            return [0]
        return [*range(EVALUATE_EVERY, self.meta_steps, EVALUATE_EVERY), self.meta_steps]

    def images(self) -> tuple[int, int]:
        """Through forward and backward: in pretraining, and in all evaluations."""
        learner = KNOWN[self.learner]
        visits = 0 if self.learner == "none" else self.meta_steps * self.meta_batch_size
        updates = self.updates + (learner is not None and learner.looks_ahead)
        learned = len(self.evaluations()) * held_out_alphabets(self.n_pretraining, self.validation)
        return visits * updates * BATCH_SIZE, learned * self.updates * BATCH_SIZE

    def alphabets(self) -> tuple[Alphabets, Alphabets]:
        """
        To learn from, and held out.

        :raises ValueError: if there are not so many
        """
        pretraining, held_out = split(self.data_dir, self.n_pretraining, self.seed, self.validation)
        return (
            Alphabets(self.data_dir, pretraining, self.seed, self.updates, self.arithmetic),
            Alphabets(self.data_dir, held_out, self.seed, self.updates, self.arithmetic),
        )

    def settings(self) -> dict[str, Any]:
        """
        What must not change when a run goes on, the alphabets of its data included: more meta steps are more of the
        same run.
        """
        settings = asdict(self)
        del settings["meta_steps"], settings["data_dir"]
        if self.arithmetic == "exact":  # which is not said, as it was not when there was no other
            del settings["arithmetic"]
        pretraining, held_out = split(self.data_dir, self.n_pretraining, self.seed, self.validation)
        return settings | {"pretraining": pretraining, "held_out": held_out}


def train(
    run: Run, folder: Path, engine: Engine, progress_bar: bool = False
) -> Iterator[tuple[int, dict[str, TaskResult]]]:
    """
    Learn from the pretraining alphabets and, every ``EVALUATE_EVERY`` meta steps and at the end, learn the held-out
    ones from what was found, going on from where an interrupted run stood.

    :param run: what to run
    :param folder: of the run
    :param engine: where the tasks run
    :param progress_bar: draw one, if the output is a terminal
    :return: meta steps done, and the results of the held-out alphabets by name
    :raises ValueError: for a run that can't be, or a folder of another one
    """
    pretraining, held_out = run.alphabets()
    with open_folder(folder, run.settings(), run.budget(run.meta_steps)):
        if run.learner == "none":
            yield (
                0,
                _evaluate(pretraining.draw_initialization(None, run.seed), held_out, run.seed, folder / "0000", engine),
            )
            return
        trainer = _trainer(run, pretraining, folder, engine)
        curves = TrainingCurves(folder, EVALUATE_EVERY)
        for meta_steps in run.evaluations():
            evaluated = folder / f"{meta_steps:04d}"
            done = trainer.meta_step if isinstance(trainer, MetaTrainer) else trainer.n_updates
            left = run.budget(meta_steps) - done
            if left < 0 and not evaluated.is_dir():
                continue  # it was passed by when nothing asked for it
            if left > 0:
                if isinstance(trainer, MetaTrainer):
                    trainer.learn(left, curves, progress_bar)
                else:
                    trainer.learn(left, progress_bar)
            if left >= 0:
                trainer.initialization.save(evaluated / "initialization")
            start = Initialization.load(evaluated / "initialization")
            yield meta_steps, _evaluate(start, held_out, run.seed, evaluated, engine)


def _trainer(run: Run, pretraining: Alphabets, folder: Path, engine: Engine) -> MetaTrainer | MultiHeadTrainer:
    learner = KNOWN[run.learner]
    rate = run.meta_learning_rate or META_LEARNING_RATES.get(run.learner, META_LEARNING_RATE)
    started = bool(Checkpoints(folder).steps())
    tensorboard = folder / "tensorboard"
    if not started:
        show_examples(pretraining, tensorboard)
    if learner is None:
        return MultiHeadTrainer(
            pretraining.tasks, rate, run_dir=folder, tensorboard_log=tensorboard / "multihead", seed=run.seed
        )
    if started:
        return MetaTrainer.load(folder, pretraining, engine=engine)
    return MetaTrainer(
        pretraining,
        learner,
        run.meta_batch_size,
        meta_optimizer_class=torch.optim.SGD,
        meta_optimizer_kwargs={"lr": rate},
        scope="encoder" if run.learner in ENCODER_ONLY else "all",
        sampling="with_replacement" if run.meta_batch_size > len(pretraining) else "without_replacement",
        engine=engine,
        run_dir=folder,
        tensorboard_log=tensorboard,
        seed=run.seed,
    )


def _evaluate(
    start: Initialization, held_out: Alphabets, seed: int, folder: Path, engine: Engine
) -> dict[str, TaskResult]:
    jobs = [Job(task, start, NoPretraining(), seed) for task in held_out]
    return evaluate(jobs, f"{len(jobs)} held-out alphabets", folder, engine)


def evaluate_run(run: Run, folder: Path, engine: Engine) -> tuple[dict[str, TaskResult], int]:
    """
    The held-out alphabets at the last meta step that was evaluated; what is missing of it is learned now.

    :param run: as it was read from the folder
    :param folder: of it
    :param engine: where the tasks run
    :return: results by alphabet, and the meta step
    :raises ValueError: if nothing was evaluated yet, or the data is not that of the run
    """
    check_folder(folder, run.settings())
    evaluated = sorted((path for path in folder.glob("[0-9]*") if path.is_dir()), key=lambda path: int(path.name))
    if not evaluated:
        raise ValueError(f"{folder} was not evaluated yet: the command that began it goes on with it")
    pretraining, held_out = run.alphabets()
    last = evaluated[-1]
    if run.learner == "none":
        start = pretraining.draw_initialization(None, run.seed)
    else:
        start = Initialization.load(last / "initialization")
    with open_folder(folder, run.settings()):
        return _evaluate(start, held_out, run.seed, last, engine), int(last.name)
