"""Start the same tasks from different initializations, at equal budget and with equal seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leap_rl.core import (
    Engine,
    Initialization,
    Job,
    JobsProgress,
    LearningCurve,
    NoPretraining,
    Task,
    TaskFamily,
    TaskResult,
)
from leap_rl.core.initialization import what_learns
from leap_rl.core.kept_results import run_kept
from leap_rl.core.lead import NEGATIVE, by_learner, lead
from leap_rl.running import record
from leap_rl.running.file_name import file_name
from leap_rl.running.files import json_number, write_text
from leap_rl.running.integers import integer
from leap_rl.running.logger import write_whole
from leap_rl.running.progress import mean_of, return_spec
from leap_rl.running.run_file import begin_run, run_id


@dataclass
class Comparison:
    """
    Learning curves by start, task and seed.

    :param curves: ``curves[start][task]`` has one curve per seed; starts called ``leap/0``, ``leap/1``, ... are
        meta-trainings of one learner, ``leap``
    :param seeds: in the order of the curves
    :param diverged: start, task and seed of the runs that ended because something was not finite
    """

    curves: dict[str, dict[str, list[LearningCurve]]]
    seeds: Sequence[int]
    diverged: Collection[tuple[str, str, int]] = ()

    def learners(self) -> dict[str, list[str]]:
        """The starts of each learner: its meta-trainings, or one start that is none."""
        return by_learner(self.curves)

    def areas(self, start: str, task: str) -> np.ndarray:
        """Area under each curve, shape ``(seeds,)``; NaN where no episode ended, or the run diverged."""
        return self._measured(start, task, LearningCurve.area)

    def final_scores(self, start: str, task: str) -> np.ndarray:
        """Final score of each curve, shape ``(seeds,)``; NaN where no episode ended at the end, or the run diverged."""
        return self._measured(start, task, LearningCurve.final_score)

    def _measured(self, start: str, task: str, measure: Callable[[LearningCurve], float]) -> np.ndarray:
        return np.array(
            [
                np.nan if (start, task, seed) in self.diverged else measure(curve)
                for seed, curve in zip(self.seeds, self.curves[start][task], strict=True)
            ]
        )

    def behind(self, reference: str = "random") -> dict[tuple[str, str], float]:
        """
        Negative transfer: starts whose mean area lies more than two standard deviations of the reference's seeds below
        (for losses: above) the reference's mean.

        Runs that diverged have no area; a start of which all did is infinitely far behind.

        :param reference: a start; without it, with fewer than three seeds, where one of them diverged, or where they
            don't differ, nothing is known
        :return: by task and start, how many standard deviations
        """
        found: dict[tuple[str, str], float] = {}
        for task, curves in self.curves.get(reference, {}).items():
            areas = self.areas(reference, task)
            for start in self.curves:
                own = self.areas(start, task)
                if all((start, task, seed) in self.diverged for seed in self.seeds):
                    own = np.array([-np.inf if curves[0].maximize else np.inf])
                ahead = lead(own[~np.isnan(own)], areas, curves[0].maximize)
                if start != reference and ahead < NEGATIVE:
                    found[task, start] = -ahead
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON: by task and start, a list of runs with seed, area, final score and curve."""
        return {
            task: {
                start: [
                    {
                        "seed": seed,
                        "area": json_number(area),
                        "final_score": json_number(final_score),
                        "diverged": (start, task, seed) in self.diverged,
                        "curve": {"steps": curve.steps.tolist(), "values": curve.moving_average().tolist()},
                    }
                    for seed, area, final_score, curve in zip(
                        self.seeds,
                        self.areas(start, task).tolist(),
                        self.final_scores(start, task).tolist(),
                        self.curves[start][task],
                        strict=True,
                    )
                ]
                for start in self.curves
            }
            for task in next(iter(self.curves.values()))
        }

    def table(self, over_tasks: bool = False) -> str:
        """
        Markdown: mean over the seeds and, in brackets, each seed alone.

        :param over_tasks: with rows of the means over tasks, for tasks whose returns are of one size (those of games
            are not)
        """
        rows = [
            "| task | start | area under the curve (each seed) | final score (each seed) |",
            "|---|---|---|---|",
        ]
        for task in next(iter(self.curves.values())):
            for start in self.curves:
                cells = [self._cell(self.areas(start, task)), self._cell(self.final_scores(start, task))]
                rows.append(f"| {task} | {start} | {cells[0]} | {cells[1]} |")
        tasks = list(next(iter(self.curves.values())))
        if over_tasks and len(tasks) > 1:
            for start in self.curves:
                areas = np.mean([self.areas(start, task) for task in tasks], axis=0)
                scores = np.mean([self.final_scores(start, task) for task in tasks], axis=0)
                rows.append(f"| mean of {len(tasks)} | {start} | {self._cell(areas)} | {self._cell(scores)} |")
        return "\n".join(rows)

    @staticmethod
    def _cell(values: np.ndarray) -> str:
        known = values[~np.isnan(values)]
        if not len(known):
            return "not measured"
        spec, missing = return_spec(known.mean()), len(values) - len(known)
        said = f"; {missing} of {len(values)} not measured" if missing else ""
        return f"{known.mean():{spec}} ({', '.join('-' if np.isnan(v) else f'{v:{spec}}' for v in values)}{said})"


def folder_of(task: str, start: str) -> str:
    """What the folder of a task's runs from a start is called."""
    # Only one " from" is the one between the two.
    return f"{file_name(task).replace(' from', '%20from')} from {file_name(start)}"


def check_starts(
    tasks: TaskFamily, starts: Mapping[str, Initialization | None], scope: str | None = None
) -> str | None:
    """
    :param tasks: to be learned
    :param starts: initializations by name; ``None`` is a random one
    :param scope: of the random ones; ``None``: that of the others
    :return: scope of the random ones; ``None``: that of the tasks
    :raises ValueError: if an initialization does not fit the tasks, or has another scope than the others: what a head
        learns, and the actions of a game, depend on it
    """
    scopes = {name: start.scope for name, start in starts.items() if start is not None}
    if scope is not None:
        scopes["random"] = scope
    if len(set(scopes.values())) > 1:
        said = ", ".join(f"{name} has {of!r}" for name, of in scopes.items())
        raise ValueError(f"starts of different scopes can't be compared: {said}. Compare those of one scope")
    scope = next(iter(scopes.values()), None)
    given = [start for start in starts.values() if start is not None]
    if given:
        fitting = tasks.draw_initialization(scope, 0).named_tensors()
        for start in given:
            start.check_fits(fitting)
    return scope


def compare(
    tasks: TaskFamily,
    starts: Mapping[str, Initialization | None],
    seeds: Sequence[int],
    engine: Engine,
    scope: str | None = None,
    device: str = "auto",
    run_dir: Path | None = None,
    progress_bar: bool = False,
    finetune: Mapping[str, str] | None = None,
    verbose: int = 0,
) -> Comparison:
    """
    Learn every task from every start with every seed.

    :param tasks: with their budgets
    :param starts: initializations by name; ``None`` is a random one, drawn anew for each seed
    :param seeds: the same for every start
    :param engine: where the runs take place
    :param scope: of the random initializations; ``None``: that of the others
    :param device: where the models live
    :param run_dir: every run that ends is kept there, and not run again; so is its TensorBoard run
    :param progress_bar: draw one, if the output is a terminal
    :param finetune: strategies by start, as ``read_strategies`` takes them; others learn plainly
    :param verbose: 1 prints a line per run that ends
    :return: the learning curves
    :raises ValueError: if an initialization does not fit the tasks, or ``run_dir`` has runs of another one of its name,
        of another strategy, or of another agent
    :raises RuntimeError: if a run fails twice
    """
    if not seeds or not starts:
        raise ValueError(f"{len(seeds)} seeds and {len(starts)} starts: at least one of each is needed")
    seeds = [integer("a seed", seed, least=0) for seed in seeds]
    scope = check_starts(tasks, starts, scope)
    random = {seed: tasks.draw_initialization(scope, seed) for seed in seeds}
    if run_dir is not None:
        check_same_runs(run_dir, tasks, starts, random[seeds[0]], finetune)
    held = {start: tasks.finetuned(strategies) for start, strategies in (finetune or {}).items()}
    runs = [(start, task, seed) for start in starts for task in held.get(start, tasks) for seed in seeds]
    jobs = [Job(task, starts[start] or random[seed], NoPretraining(), seed, device) for start, task, seed in runs]

    def folder(index: int) -> Path | None:
        start, task, seed = runs[index]
        return run_dir and run_dir / "results" / f"{folder_of(task.name, start)} seed {seed}"

    results: dict[int, TaskResult] = {}
    with JobsProgress(enabled=progress_bar) as progress:
        progress.outer(f"{len(jobs)} runs", sum(job.task.steps for job in jobs))
        names = [f"{task.name} from {start}, seed {seed}" for start, task, seed in runs]
        progress.jobs(names, [job.task.steps for job in jobs])
        folders = [folder(index) for index in range(len(runs))]
        run = None if run_dir is None else run_id(run_dir)
        drawn = [index for index, (start, _, _) in enumerate(runs) if starts[start] is None]
        for index, result, ran_now in run_kept(engine, jobs, folders, progress.job_at, run, drawn):
            result.raise_for_status(names[index])
            results[index] = result
            if verbose and ran_now:
                print(f"{names[index]}: {_said(result)}", flush=True)
            if run_dir is not None and result.log:
                _log_run(run_dir / "tensorboard", runs[index], result, ran_now)
    curves: dict[str, dict[str, list[LearningCurve]]] = {start: {task.name: [] for task in tasks} for start in starts}
    for index, (start, task, _) in enumerate(runs):
        curves[start][task.name].append(results[index].curve)
    diverged = {
        (start, task.name, seed) for i, (start, task, seed) in enumerate(runs) if results[i].status == "non_finite"
    }
    return Comparison(curves, seeds, diverged)


def _said(result: TaskResult) -> str:
    """How a run went, in a line."""
    if result.status == "non_finite":
        return "it diverged"
    if not len(result.curve.values):
        return "no episode ended"
    return f"area {mean_of([result.curve.area()])}, final score {mean_of([result.curve.final_score()])}"


@dataclass(frozen=True)
class _Compared:
    """
    What names of starts and tasks stand for in a folder.

    :param run: that it is of
    :param starts: sha256 of each; ``None``: drawn at random
    :param steps: budgets of the tasks
    :param config: what learns
    :param finetune: strategies of those starts that have any
    """

    run: str
    starts: dict[str, str | None]
    steps: dict[str, int]
    config: dict[str, Any]
    finetune: dict[str, str] = field(default_factory=dict)


def check_same_runs(
    run_dir: Path,
    tasks: TaskFamily,
    starts: Mapping[str, Initialization | None],
    random: Initialization,
    finetune: Mapping[str, str] | None = None,
) -> None:
    """
    What is kept is kept by the names of starts and tasks: the names must stand for what they stood for.

    :param random: a random initialization, whose scope and config say what learns, and what a head is for
    :param finetune: strategies by start
    :raises ValueError: if a start is another initialization than before or learns by another strategy, a task has
        another budget, or the agent is another
    """
    begin_run(run_dir)
    file, config = run_dir / "compared.json", {"scope": random.scope, **what_learns(random.config)}
    known = _Compared(run_id(run_dir), {}, {}, config)
    if file.is_file():
        try:
            known = record.read_sealed(file, _Compared)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} can't be read ({error}): start in another folder") from None
        if known.run != run_id(run_dir):
            raise ValueError(f"{file} is of another run than {run_dir / 'run.json'}: start in another folder")

    def check(name: str, before: Any, now: Any, what: str) -> None:
        if before != now:
            raise ValueError(
                f"{run_dir} has runs of {name} with {what} ({before}, now {now}): "
                "choose another folder, or another name"
            )

    for name, start in starts.items():
        if name in known.starts:
            now = (finetune or {}).get(name, "")
            check(name, known.finetune.get(name, ""), now, "another fine-tuning strategy")
        elif finetune and name in finetune:
            known.finetune[name] = finetune[name]
        sha256 = None if start is None else start.sha256
        check(name, known.starts.setdefault(name, sha256), sha256, "another initialization")
    for task in tasks:
        check(task.name, known.steps.setdefault(task.name, task.steps), task.steps, "another budget")
    # Those may be joined by others; of what learns nothing may be new, and nothing gone.
    for name in {**known.config, **config}:
        check(name, known.config.get(name), config.get(name), "another value")
    write_text(file, record.sealed(vars(known)))


def _log_run(tensorboard: Path, run: tuple[str, Task, int], result: TaskResult, ran_now: bool) -> None:
    """A run that was kept is logged where the process that made it was ended in between."""
    start, task, seed = run
    folder = tensorboard / folder_of(task.name, start) / f"seed {seed}"
    if ran_now or not folder.exists():
        write_whole(folder, result.log)
