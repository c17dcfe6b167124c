"""What the experiments share: the folder of a run, the evaluation on what was held out, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leap_rl.core import Engine, Job, JobsProgress, TaskResult
from leap_rl.core.kept_results import run_kept
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.running.file_name import file_name
from leap_rl.running.files import clean, nearest, write_rows
from leap_rl.running.logger import write_whole
from leap_rl.running.run_file import begin_run, run_id, run_settings
from leap_rl.running.run_lock import run_lock


def read_runs(file: Path, keys: Collection[str]) -> list[dict[str, Any]]:
    """
    :param file: ``run.json`` of a run, or what ``table --save`` wrote of many
    :param keys: that each run of this experiment has
    :raises ValueError: if it can't be read, or is of something else
    """
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{file} is missing: {file.parent} is no run of this experiment") from None
    except ValueError as error:
        raise ValueError(f"{file} is no run.json, nor what table --save wrote: {error}") from None
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(isinstance(row, dict) and row.keys() >= set(keys) for row in rows):
        raise ValueError(f"{file} is of no run of this experiment, which has {', '.join(keys)}")
    return rows


def save_runs(file: Path, found: Sequence[Any]) -> None:
    """
    What ``read_runs`` reads: a line for each run.

    :param found: dataclasses
    :raises ValueError: if the file is there and holds more of them
    """
    known = len(read_runs(file, ())) if file.is_file() else 0
    if known > len(found):
        raise ValueError(
            f"{file} has {known} runs, and these are {len(found)}: name it beside the folders, to keep what it has, or "
            "remove it"
        )
    write_rows(file, [asdict(run) for run in found])


def read_run(folder: Path, keys: Collection[str]) -> dict[str, Any]:
    """As ``read_runs``, what ``run.json`` says of the run in a folder."""
    rows = read_runs(folder / "run.json", keys)
    if len(rows) > 1:
        raise ValueError(f"{folder / 'run.json'} is of {len(rows)} runs, expected one")
    return rows[0]


def check_folder(folder: Path, settings: dict[str, Any], budget: int | None = None) -> None:
    """
    :param folder: where a run is to be, or is already
    :param settings: of the run, those that must not change when it goes on
    :param budget: what its last checkpoint is to count; ``None``: as it is
    :raises ValueError: if it is of another run, or of this one with a larger budget, or no folder
    """
    there = nearest(folder)
    if not there.is_dir():
        raise ValueError(f"{there} is a file, where a folder of runs is to be: choose another --root")
    made = Checkpoints(folder).steps()
    if (folder / "run.json").is_file():
        read_run(folder, ("learner", "seed"))
        kept, given = run_settings(folder), json.loads(json.dumps(settings))
        for name in {**given, **kept}:
            if kept.get(name) != given.get(name):
                raise ValueError(
                    f"{folder} is of another run: its {name} is {kept.get(name)}, not {given.get(name)}; go on with "
                    "the settings and the data that it began with, or choose another --root"
                )
    elif made or any(folder.glob("[0-9]*")):
        raise ValueError(f"{folder} has no run.json that says of which run it is: remove it, or choose another --root")
    if budget is not None and made and made[-1] > budget:
        raise ValueError(
            f"{folder} has gone further than it is asked to: to {made[-1]}, not {budget} (meta steps, visits or "
            "updates, as its learner counts); ask for as many meta steps as it has made, or more"
        )


@contextmanager
def open_folder(folder: Path, settings: dict[str, Any], budget: int | None = None) -> Iterator[None]:
    """
    As ``check_folder``; a new one gets its ``run.json``, and nobody else writes to it meanwhile.

    :raises ValueError: if somebody does, as well
    """
    check_folder(folder, settings, budget)
    with run_lock(folder, "an experiment"):
        for kept in (folder, *folder.glob("[0-9]*"), *folder.glob("[0-9]*/held-out*")):
            clean(kept)
        begin_run(folder, settings)
        yield


def missing_runs(seeds_of: Mapping[str, Collection[int]], seeds: Sequence[int]) -> str:
    """
    A line for below a table; nothing if nothing is missing.

    :param seeds_of: what should have been run, and the seeds that were
    :param seeds: that any was run with
    """
    lacking = {what: [str(seed) for seed in seeds if seed not in there] for what, there in seeds_of.items()}
    listed = "; ".join(f"{what}, seed{'s' * (len(s) > 1)} {' '.join(s)}" for what, s in lacking.items() if s)
    return f"\n\nMissing: {listed}" * bool(listed)


def evaluate(
    jobs: Sequence[Job], what: str, folder: Path, engine: Engine, finetuning: str = ""
) -> dict[str, TaskResult]:
    """
    Learn what was held out; what was learned before is not learned again.

    :param jobs: one for each held-out task
    :param what: is held out, for the progress bar
    :param folder: of the results
    :param engine: where the tasks run
    :param finetuning: what tells these results from plain ones; they have a folder of their own
    :return: results by task
    :raises RuntimeError: if one failed
    """
    kind = f"held-out, {finetuning}" if finetuning else "held-out"
    called = f"{kind} after {folder.name}"
    folders = [folder / file_name(kind) / file_name(job.task.name) for job in jobs]
    results: dict[str, TaskResult] = {}
    with JobsProgress() as progress:
        progress.outer(what, sum(job.task.steps for job in jobs))
        progress.jobs([job.task.name for job in jobs], [job.task.steps for job in jobs])
        for _, result, ran_now in run_kept(engine, jobs, folders, progress.job_at, run_id(folder.parent)):
            result.raise_for_status()
            results[result.name] = result
            if ran_now or not logged_in(result, folder.parent, called).exists():
                log(result, folder.parent, called)
    return results


def logged_in(result: TaskResult, folder: Path, what: str) -> Path:
    """As ``log``: the folder that it writes to."""
    return folder / "tensorboard" / file_name(what) / file_name(result.name)


def log(result: TaskResult, folder: Path, what: str) -> None:
    """
    Write to TensorBoard what a learning process logged, in place of what an interrupted one had.

    :param folder: of the run
    :param what: to call it
    """
    held_out = [(step, {key.replace("train/", "held_out/"): v for key, v in row.items()}) for step, row in result.log]
    write_whole(logged_in(result, folder, what), held_out)


def test_error(result: TaskResult, what: str | None = None) -> float:
    """
    :param what: to call it; ``None``: its task
    :return: from 0 to 1
    :raises RuntimeError: if the process failed or diverged
    """
    result.raise_for_status(what)
    if result.status != "ok":
        raise RuntimeError(f"{what or result.name} diverged: it has no test error")
    return result.scores["test_error"]
