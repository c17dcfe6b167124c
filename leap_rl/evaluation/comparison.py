"""Start the same tasks from different initializations, at equal budget and with equal seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leap_rl.core import Engine, Initialization, Job, JobsProgress, LearningCurve, NoPretraining, TaskFamily
from leap_rl.core.logger import TensorBoardLogger


@dataclass
class Comparison:
    """
    Learning curves by start, task and seed.

    :param curves: ``curves[start][task]`` has one curve per seed
    :param seeds: in the order of the curves
    """

    curves: dict[str, dict[str, list[LearningCurve]]]
    seeds: Sequence[int]

    def areas(self, start: str, task: str) -> np.ndarray:
        """Area under each curve, shape ``(seeds,)``; NaN where no episode ended."""
        return np.array([curve.area() for curve in self.curves[start][task]])

    def final_scores(self, start: str, task: str) -> np.ndarray:
        """Final score of each curve, shape ``(seeds,)``; NaN where no episode ended at the end."""
        return np.array([curve.final_score() for curve in self.curves[start][task]])

    def table(self) -> str:
        """
        Markdown: mean over the seeds and, in brackets, each seed alone.
        """
        rows = [
            "| task | start | area under the curve (each seed) | final score (each seed) |",
            "|---|---|---|---|",
        ]
        for task in next(iter(self.curves.values())):
            for start in self.curves:
                cells = [self._cell(self.areas(start, task)), self._cell(self.final_scores(start, task))]
                rows.append(f"| {task} | {start} | {cells[0]} | {cells[1]} |")
        return "\n".join(rows)

    @staticmethod
    def _cell(values: np.ndarray) -> str:
        return f"{values.mean():,.1f} ({', '.join(f'{v:,.1f}' for v in values)})"


def compare(
    tasks: TaskFamily,
    starts: Mapping[str, Initialization | None],
    seeds: Sequence[int],
    engine: Engine,
    scope: str | None = None,
    device: str = "auto",
    tensorboard_log: Path | None = None,
    progress_bar: bool = False,
) -> Comparison:
    """
    Learn every task from every start with every seed.

    :param tasks: with their budgets
    :param starts: initializations by name; ``None`` is a random one, drawn anew for each seed
    :param seeds: the same for every start
    :param engine: where the runs take place
    :param scope: of the random initializations; ``None``: that of the others
    :param device: where the models live
    :param tensorboard_log: a TensorBoard run per start, task and seed goes there
    :param progress_bar: draw one, if the output is a terminal
    :return: the learning curves
    :raises ValueError: if an initialization does not fit the tasks
    """
    scope = scope or next((start.scope for start in starts.values() if start is not None), None)
    random = {seed: tasks.draw_initialization(scope, seed) for seed in seeds}
    for initialization in starts.values():
        if initialization is not None:
            initialization.check_fits(random[seeds[0]].named_tensors())
    runs = [(start, i, seed) for start in starts for i in range(len(tasks)) for seed in seeds]
    jobs = [Job(tasks[i], starts[start] or random[seed], NoPretraining(), seed, device) for start, i, seed in runs]
    curves: dict[str, dict[str, list[LearningCurve]]] = {start: {task.name: [] for task in tasks} for start in starts}
    with JobsProgress(enabled=progress_bar) as progress:
        progress.outer(f"{len(jobs)} runs", sum(job.task.steps for job in jobs))
        progress.jobs(
            [f"{tasks[i].name} from {start}, seed {seed}" for start, i, seed in runs], [j.task.steps for j in jobs]
        )
        results = dict(engine.run(jobs, progress.job_at))
    for index, (start, i, seed) in enumerate(runs):
        curves[start][tasks[i].name].append(results[index].curve)
        if tensorboard_log is not None:
            logger = TensorBoardLogger(tensorboard_log / f"{tasks[i].name} from {start}" / f"seed {seed}")
            for step, values in results[index].log:
                for key, value in values.items():
                    logger.record(key, value)
                logger.dump(step)
            logger.close()
    return Comparison(curves, seeds)
