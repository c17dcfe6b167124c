"""
A meta-training to be interrupted, as a process of its own: it begins in a folder, or goes on there.

    python interrupted.py FOLDER [--file-size-limit BYTES] [--workers N] [--pause SECONDS]
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from leap_rl.core import (
    Initialization,
    InProcess,
    Job,
    Leap,
    LearningCurve,
    MetaTrainer,
    Report,
    Task,
    TaskFamily,
    TaskResult,
    Workers,
)

META_STEPS = 6


@dataclass(frozen=True)
class Descent(Task):
    """Slow enough to be interrupted in the middle."""

    index: int
    pause: float = 0.0
    steps: int = 20

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"descent-{self.index}"

    def run(self, job: Job, report: Report) -> TaskResult:
        generator = torch.Generator().manual_seed(job.seed)
        model = nn.Linear(4, 4)
        job.initialization.apply_to(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        path = job.learner.observe(dict(model.named_parameters()))
        losses = []
        for i in range(self.steps):
            optimizer.zero_grad()
            loss = (model(torch.randn(8, 4, generator=generator)) - self.index).square().mean()
            if path is None:
                loss.backward()
                optimizer.step()
            else:
                with path.observe(optimizer):
                    loss.backward()
                    optimizer.step()
            losses.append(loss.item())
            report(i + 1)
            time.sleep(self.pause)
        return TaskResult(
            self.name,
            LearningCurve(np.arange(1, self.steps + 1), np.array(losses), self.steps, maximize=False),
            steps=self.steps,
            seconds=1.0,
            meta_gradient=None if path is None else path.meta_gradient(),
            statistics=None if path is None else path.statistics(),
            log=[(i + 1, {"train/loss": loss}) for i, loss in enumerate(losses)],
        )


class Descents(TaskFamily):
    def __init__(self, pause: float) -> None:
        self.pause = pause

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Descent:  # type: ignore[override]
        return Descent(range(5)[index], self.pause)

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        torch.manual_seed(seed)
        return Initialization.of(nn.Linear(4, 4))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--file-size-limit", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.01)
    arguments = parser.parse_args()
    engine = Workers(arguments.workers) if arguments.workers else InProcess()
    tasks, eval_tasks = Descents(arguments.pause), [Descent(7, arguments.pause)]
    if any((arguments.folder / "checkpoints").glob("0*")):
        trainer = MetaTrainer.load(arguments.folder, tasks, eval_tasks=eval_tasks, engine=engine, verbose=1)
    else:
        trainer = MetaTrainer(
            tasks,
            Leap(metric="length"),
            meta_batch_size=3,
            eval_tasks=eval_tasks,
            eval_freq=2,
            engine=engine,
            run_dir=arguments.folder,
            tensorboard_log=arguments.folder / "tensorboard",
            seed=0,
            verbose=1,
        )

    def limit(locals_: object, globals_: object) -> None:
        if arguments.file_size_limit and trainer.meta_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_size_limit, arguments.file_size_limit))

    print("learning", flush=True)
    if trainer.meta_step < META_STEPS:
        trainer.learn(META_STEPS - trainer.meta_step, callback=limit)
    trainer.initialization.save(arguments.folder / "initialization")
    assert trainer.best_initialization is not None
    trainer.best_initialization.save(arguments.folder / "best")


main()
