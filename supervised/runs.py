"""What the experiments share: the folder of a run, the evaluation on what was held out, and intervals."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leap_rl.core import Engine, Job, JobsProgress, TaskResult
from leap_rl.core.checkpoint import run_kept
from leap_rl.core.logger import TensorBoardLogger


def check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """
    :param folder: where a run is to be, or is already
    :param settings: of the run, those that must not change when it goes on
    :raises ValueError: if it is of another run
    """
    there = folder / "run.json"
    if there.is_file() and json.loads(there.read_text()) != json.loads(json.dumps(settings)):
        raise ValueError(f"{folder} is of another run: {there.read_text().strip()}; choose another --root")


def open_folder(folder: Path, settings: dict[str, Any]) -> None:
    """As ``check_folder``; a new one gets its ``run.json``."""
    check_folder(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.json").is_file():
        (folder / ".run.json").write_text(json.dumps(settings) + "\n")
        os.replace(folder / ".run.json", folder / "run.json")


def evaluate(jobs: Sequence[Job], what: str, folder: Path, engine: Engine) -> dict[str, TaskResult]:
    """
    Learn what was held out; what was learned before is not learned again.

    :param jobs: one for each held-out task
    :param what: is held out, for the progress bar
    :param folder: of the results
    :param engine: where the tasks run
    :return: results by task
    :raises RuntimeError: if one failed
    """
    folders = [folder / "held-out" / job.task.name for job in jobs]
    results: dict[str, TaskResult] = {}
    with JobsProgress() as progress:
        progress.outer(what, sum(job.task.steps for job in jobs))
        progress.jobs([job.task.name for job in jobs], [job.task.steps for job in jobs])
        for _, result, ran_now in run_kept(engine, jobs, folders, progress.job_at):
            result.raise_for_status()
            results[result.name] = result
            if not ran_now:
                continue
            logger = TensorBoardLogger(folder.parent / "tensorboard" / f"held-out after {folder.name}" / result.name)
            logger.write([(s, {k.replace("train/", "held_out/"): v for k, v in row.items()}) for s, row in result.log])
            logger.close()
    return results


def interval(values: Sequence[np.ndarray], reps: int = 2000) -> tuple[float, float]:
    """
    95 % bootstrap interval of the mean: seeds are drawn first, then tasks within them.

    :param values: of the tasks, by seed, as many of each
    """
    rng, stacked = np.random.default_rng(0), np.stack(values)
    n_seeds, n_tasks = stacked.shape
    seeds = rng.integers(n_seeds, size=(reps, n_seeds, 1))
    tasks = rng.integers(n_tasks, size=(reps, n_seeds, n_tasks))
    low, high = np.percentile(stacked[seeds, tasks].mean(axis=(1, 2)), [2.5, 97.5])
    return float(low), float(high)
