"""
Meta-training: the outer loop of Leap.

- A **task** τ is one learning problem, such as a game. A **visit** is one learning process on it, θ⁰ → θ^K.
- A **meta step** visits a meta batch of tasks and moves θ⁰, the **initialization**, once.
- The **path** is what a visit's updates draw on the task's loss surface; a meta-learner sums its ∇F along it.
- The **scope** says what of the model θ⁰ is: the encoder, or all.
- **Steps** are decisions of an agent (or images), summed over environments; updates are those of an optimizer.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core import saving
from leap_rl.core.best import BestInitialization
from leap_rl.core.callbacks import Callback, CallbackLike, callback_list, says_stop
from leap_rl.core.initialization import Initialization, versions
from leap_rl.core.initialization_config import InitializationError
from leap_rl.core.kept_results import run_kept
from leap_rl.core.learners import MetaLearner, NoPretraining
from leap_rl.core.meta_gradient import MetaGradient
from leap_rl.core.meta_log import MetaLog, row_of
from leap_rl.core.meta_optimizer import MetaOptimizer
from leap_rl.core.meta_settings import MetaSettings, Sampling
from leap_rl.core.task import Job, Task, TaskFamily, TaskResult
from leap_rl.running.checkpoint import Checkpoints, checkpoint_bytes
from leap_rl.running.engines import Engine, InProcess, Workers
from leap_rl.running.integers import integer
from leap_rl.running.logger import LoggerLike, TensorBoardLogger
from leap_rl.running.outside import first_line
from leap_rl.running.progress import JobsProgress, mean_of
from leap_rl.running.run_lock import next_run_folder

_log = logging.getLogger(__name__)


class MetaTrainer:
    """
    Meta-learns an initialization, Algorithm 1 of Leap, with any meta-learner.

    :param tasks: the tasks to learn from
    :param learner: the meta-learner
    :param meta_batch_size: tasks per meta step; this and ``scope``, ``average_from``, ``sampling``, ``eval_freq``,
        ``seed`` and ``device`` are the trainer's ``settings``: see ``MetaSettings``
    :param meta_optimizer_class: any torch optimizer; ``None``: the meta-learner's own
    :param meta_optimizer_kwargs: of the meta optimizer; ``lr`` may be a schedule in SB3's manner, a function of
        the progress remaining, from 1 to 0
    :param initialization: θ⁰ to start from; ``None``: a random one
    :param eval_tasks: tasks that decide which θ⁰ was best, never learned from
    :param engine: where the tasks run; ``None``: worker processes, or this process where there is one task
    :param n_workers: worker processes; ``None``: one per core
    :param run_dir: folder for a checkpoint after every meta step, for the results of the tasks of the running one, and
        for the best initialization
    :param keep_checkpoints: how many of the last checkpoints stay
    :param keep_every: those of every n-th meta step stay, too; 0: none
    :param tensorboard_log: folder for TensorBoard runs
    :param verbose: 1 prints a line per meta step
    :raises ValueError: for what can't be trained; nothing has run then
    """

    def __init__(
        self,
        tasks: TaskFamily,
        learner: MetaLearner,
        meta_batch_size: int,
        scope: str | None = None,
        meta_optimizer_class: type[Optimizer] | None = None,
        meta_optimizer_kwargs: Mapping[str, Any] | None = None,
        initialization: Initialization | None = None,
        average_from: int | None = None,
        sampling: Sampling = "without_replacement",
        eval_tasks: Sequence[Task] | None = None,
        eval_freq: int = 0,
        engine: Engine | None = None,
        n_workers: int | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        keep_checkpoints: int = 3,
        keep_every: int = 0,
        tensorboard_log: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.settings = settings = MetaSettings(
            meta_batch_size=meta_batch_size,
            scope=scope,
            average_from=average_from,
            sampling=sampling,
            eval_freq=eval_freq,
            seed=seed,  # type: ignore[arg-type]
            device=device,
        )
        _check(settings, tasks, learner, eval_tasks, meta_optimizer_class)
        self.tasks = tasks
        self.learner = learner
        self.best = BestInitialization(eval_tasks or [])
        several = settings.meta_batch_size > 1 or len(self.best.tasks) > 1
        self.engine = engine or (Workers(n_workers) if several else InProcess())
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.checkpoints = None if run_dir is None else Checkpoints(Path(run_dir), keep_checkpoints, keep_every)
        self.tensorboard_log = None if tensorboard_log is None else Path(tensorboard_log)
        self.verbose = verbose

        drawn = tasks.draw_initialization(settings.scope, settings.seed)
        if isinstance(eval_tasks, TaskFamily):
            other = eval_tasks.draw_initialization(drawn.scope, settings.seed)
            drawn.check_fits(other.named_tensors())
        self._theta = drawn.clone() if initialization is None else _begun_from(initialization, drawn)
        for tensor in self._theta.parameters.values():
            tensor.requires_grad_(True)
        self._versions = versions() | self._theta.config.get("versions", {})
        self._meta_optimizer = MetaOptimizer(self._theta, learner, meta_optimizer_class, meta_optimizer_kwargs)
        self._average: dict[str, Tensor] = {}

        self.meta_step = 0
        self.num_timesteps = 0
        self.history: list[dict[str, Any]] = []
        self._steps_of: dict[str, int] = {}  # per task, over all its visits: the x axis of its curves
        self._task_names = [task.name for task in tasks]
        self._log: MetaLog | None = None
        self._log_folder: Path | None = None
        self._progress = JobsProgress(enabled=False)
        if self.checkpoints is not None:
            if self.checkpoints.steps():
                raise ValueError(f"{run_dir} holds a run already: MetaTrainer.load goes on with it, or choose another")
            self._check_room()

    def __repr__(self) -> str:
        return (
            f"MetaTrainer({type(self.learner).__name__}, {len(self.tasks)} tasks, "
            f"meta_batch_size={self.settings.meta_batch_size}, scope={self._theta.scope!r}, meta_step={self.meta_step})"
        )

    # -- Algorithm 1 -------------------------------------------------------------------------------

    def learn(
        self, meta_steps: int, callback: Callback | Sequence[Callback] | None = None, progress_bar: bool = False
    ) -> MetaTrainer:
        """
        Meta-train.

        :param meta_steps: how many more
        :param callback: called as SB3 calls its own; a meta step is the step. SB3's own work where they need no agent
        :param progress_bar: draw one, if the output is a terminal
        :return: self
        :raises ValueError: if another process, or another trainer, goes on with the run in ``run_dir``
        :raises RuntimeError: if more than half of a meta batch was lost, or a task fails whenever it is visited; θ⁰ is
            as it was
        :raises OSError: if there is no room for a checkpoint; the last one is intact
        """
        last = self.meta_step + integer("meta_steps", meta_steps, least=1)
        with self._alone(last, progress_bar):
            callbacks = self._start(callback)
            while self.meta_step < last:
                started = time.perf_counter()
                self._progress.outer(f"meta step {self.meta_step + 1} of {last}")
                for c in callbacks:
                    c.on_rollout_start()
                batch = self.settings.batch(self.meta_step, len(self.tasks))  # τ ~ p(τ)
                results = self._visit(batch)  # θ⁰ → θ^K on every τ, observed
                meta_gradient = self._sum(results)  # Σ ∇F
                mean = meta_gradient.mean()  # 1/|B| Σ ∇F
                for c in callbacks:
                    c.update_locals({"results": results, "meta_gradient": mean})
                    c.on_rollout_end()
                change = self._meta_optimizer.step(mean, progress_remaining=1 - self.meta_step / last)  # θ⁰ moves
                self.meta_step += 1
                self._update_average()
                self._record(results, meta_gradient, change, time.perf_counter() - started)
                evaluates = self._wants_evaluation(is_last=self.meta_step == last)
                if evaluates:
                    self._evaluate()
                ends = any([says_stop(c.on_step()) for c in callbacks])
                if ends and not evaluates and self._wants_evaluation(is_last=True):
                    self._evaluate()
                self.logger.dump(self.meta_step)
                if self.checkpoints is not None:
                    self.save()  # with what callbacks have changed and recorded
                if ends:
                    break
            for c in callbacks:
                c.on_training_end()
        return self

    def _visit(self, batch: Sequence[int]) -> list[TaskResult]:
        """
        :return: results in the order of the tasks, not of their completion: sums then have the same bits
        :raises RuntimeError: if a task fails whenever it is visited
        """
        theta = self._current()
        jobs = []
        for slot, index in enumerate(batch):
            seed = self.settings.visit_seed(self.meta_step, index, visit=batch[:slot].count(index))
            jobs.append(Job(self.tasks[index], theta, self.learner, seed, self.settings.device))
        results = self._run(jobs, "task")
        for result in results:
            if result.status == "failed":
                self._check_not_hopeless(result.name, results)
        return results

    def _sum(self, results: Sequence[TaskResult]) -> MetaGradient:
        """
        :raises RuntimeError: if more than half of the meta batch was lost
        """
        meta_gradient = MetaGradient(self._theta.parameters)
        for result in results:
            if result.status == "ok" and result.meta_gradient is not None:
                meta_gradient.add(result.meta_gradient)
        if 2 * meta_gradient.n_tasks < len(results):
            lost = ", ".join(sorted(f"{r.name}: {r.status}" for r in results if r.status != "ok"))
            errors = "".join(f"; {r.name}: {r.reason}" for r in results if r.error is not None)
            remedy = ""
            if any(r.status == "non_finite" for r in results):
                remedy = ". A smaller learning rate of the tasks, or a new run with a smaller meta rate, may help"
            if self.checkpoints is not None:  # those of other settings must not be taken for lost, too
                shutil.rmtree(self.checkpoints.running, ignore_errors=True)
            raise RuntimeError(
                f"meta step {self.meta_step}: {len(results) - meta_gradient.n_tasks} of {len(results)} learning "
                f"processes were lost ({lost}); θ⁰ is as it was{remedy}{errors}"
            )
        return meta_gradient

    def _update_average(self) -> None:
        """The mean of θ⁰ over the meta steps from ``average_from`` on."""
        first = self.settings.average_from
        if first is None or self.meta_step < first:
            return
        for name, tensor in self._theta.parameters.items():
            average = self._average.setdefault(name, torch.zeros_like(tensor, requires_grad=False))
            average.lerp_(tensor.detach(), 1 / (self.meta_step - first + 1))

    # -- θ⁰ ----------------------------------------------------------------------------------------

    def _current(self) -> Initialization:
        return Initialization(
            {name: t.detach().clone() for name, t in self._theta.parameters.items()},
            self._theta.scope,
            {name: t.clone() for name, t in self._theta.buffers.items()},
        )

    @property
    def config(self) -> dict[str, Any]:
        """What an initialization says of its tasks; callbacks add what they do to θ⁰. Kept in checkpoints."""
        return self._theta.config

    @property
    def initialization(self) -> Initialization:
        """θ⁰ as it is now, or its average, where ``average_from`` has been reached; a copy."""
        current = self._current()
        if self._average:
            current.parameters = {name: self._average[name].clone() for name in current.parameters}
        learned_from = {row["name"] for step in self.history for row in step["tasks"] if row["status"] == "ok"}
        current.config = {
            **self._theta.config,
            "tasks": [name for name in self._task_names if name in learned_from],
            "learner": self.learner.settings(),
            "meta_optimizer": self._meta_optimizer.settings(),
            "meta_batch_size": self.settings.meta_batch_size,
            "meta_steps": self.meta_step,
            **({"averaged_from": self.settings.average_from} if self._average else {}),
            "timesteps": self.num_timesteps,
            "seed": self.settings.seed,
        }
        return current

    @initialization.setter
    def initialization(self, initialization: Initialization) -> None:
        """
        θ⁰ goes on from there, and the meta optimizer with what it remembers; for callbacks.

        :raises InitializationError: if it does not fit
        """
        initialization.check_fits(self._theta.named_tensors())
        with torch.no_grad():
            for name, tensor in self._theta.parameters.items():
                tensor.copy_(initialization.parameters[name])
        self._theta.buffers = {name: tensor.clone() for name, tensor in initialization.buffers.items()}

    @property
    def meta_optimizer(self) -> Optimizer:
        """torch's, which moves θ⁰."""
        return self._meta_optimizer.optimizer

    # -- evaluation --------------------------------------------------------------------------------

    @property
    def eval_tasks(self) -> list[Task]:
        """That decide which θ⁰ was best."""
        return self.best.tasks

    @property
    def best_initialization(self) -> Initialization | None:
        """That from which the evaluation tasks were learned best."""
        return self.best.initialization

    @property
    def best_score(self) -> float:
        """Of the best initialization: see ``BestInitialization``."""
        return self.best.score

    def _wants_evaluation(self, is_last: bool = False) -> bool:
        return self.settings.eval_freq > 0 and (is_last or self.meta_step % self.settings.eval_freq == 0)

    def _evaluate(self) -> None:
        """
        :raises RuntimeError: if an evaluation task fails in the first evaluation
        """
        theta, is_first = self.initialization, not self.best.reference
        self._progress.outer(f"evaluation after meta step {self.meta_step}")
        results = self._run(self.best.jobs(theta, self.settings), "evaluation", counted=False)
        areas, score, is_best = self.best.judge(theta, results)
        for name, area in areas.items():
            self.logger.record(f"eval/area/{name}", area)
        self.logger.record("eval/gain", score)
        if self.verbose:
            said = (
                ""
                if is_first or math.isnan(score)
                else f", {score:+.0%} against the first{', the best so far' if is_best else ''}"
            )
            print(f"  evaluation tasks: mean area {mean_of(list(areas.values()))}{said}", flush=True)
        if is_best and self.run_dir is not None:
            theta.save(self.run_dir / "best_initialization")

    # -- running and logging -----------------------------------------------------------------------

    @contextmanager
    def _alone(self, last: int, progress_bar: bool) -> Iterator[None]:
        """Nobody else goes on with the run; the bar is there meanwhile."""
        alone = nullcontext() if self.checkpoints is None else self.checkpoints.alone(self.meta_step)
        with alone, JobsProgress(enabled=progress_bar) as self._progress:
            visit = sum(task.steps for task in self.tasks) / len(self.tasks)
            steps = int(visit * self.settings.meta_batch_size)
            self._progress.outer(f"meta step {self.meta_step + 1} of {last}", (last - self.meta_step) * steps)
            yield

    def _start(self, callback: Callback | Sequence[Callback] | None) -> list[CallbackLike]:
        self._meta_log()
        if self.checkpoints is not None and not self.checkpoints.steps():
            self.save()
        callbacks = callback_list(callback)
        for c in callbacks:
            c.init_callback(self)
            c.on_training_start({"self": self}, {})
        if self._wants_evaluation() and not self.best.reference:
            self._evaluate()
            self.logger.dump(self.meta_step)
        return callbacks

    def _run(self, jobs: Sequence[Job], kind: str, counted: bool = True) -> list[TaskResult]:
        """Those that an interrupted run had finished are not run again."""
        self._progress.jobs([job.name for job in jobs], [job.steps for job in jobs], counted)
        keys = [f"{kind}-{self.meta_step:06d}-{index:03d}" for index in range(len(jobs))]
        folders = [None if self.checkpoints is None else self.checkpoints.running / key for key in keys]
        results: dict[int, TaskResult] = {}
        run = None if self.checkpoints is None else self.checkpoints.run
        for index, result, ran_now in run_kept(self.engine, jobs, folders, self._progress.job_at, run):
            results[index] = result
            self._progress.ended_with(index, result.curve.last())
            if ran_now and result.status == "non_finite":  # the same seed would fail again
                _log.warning(
                    "%s was not finite and is left out of meta step %d. Its path before that: %s",
                    result.name,
                    self.meta_step,
                    result.statistics,
                )
        return [results[index] for index in range(len(jobs))]

    def _check_not_hopeless(self, name: str, results: Sequence[TaskResult]) -> None:
        """
        :raises RuntimeError: if a task failed now, and whenever it was visited, in another meta step at least
        """
        before = [row["status"] for step in self.history for row in step["tasks"] if row["name"] == name]
        now = [result for result in results if result.name == name]
        statuses = before + [result.status for result in now]
        if before and set(statuses) == {"failed"}:
            raise RuntimeError(
                f"{name} failed in each of its {len(statuses)} visits ({now[0].reason}); θ⁰ is as it was. "
                "Once the task is mended the run can go on; a new run can leave it out"
            )

    def _record(
        self,
        results: Sequence[TaskResult],
        meta_gradient: MetaGradient,
        change: Mapping[str, float],
        seconds: float,
    ) -> None:
        """One meta step in the log and in ``history``; the tasks' own curves in runs of their own."""
        self.config["versions"] = self._versions  # the checkpoint that is gone on from may be of older ones
        log = self._meta_log()
        steps = sum(result.steps for result in results)
        self.num_timesteps += steps
        visits = [row for step in reversed(self.history) for row in step["tasks"]]
        first = {row["name"]: row["area"] for row in visits if not math.isnan(row["area"])}
        rows = [row_of(result, first.get(result.name, math.nan)) for result in results]
        for result in results:
            if result.statistics is not None and not result.statistics.segments:
                warnings.warn(
                    f"{result.name} had {result.statistics.updates} updates and all were skipped, so nothing was "
                    "learned from it: give it more timesteps, or the meta-learner fewer skip_updates",
                    stacklevel=3,
                )
            before = self._steps_of.get(result.name, 0)
            self._steps_of[result.name] = before + result.steps
            log.visit(result, before)
        if all(row["status"] == "ok" and math.isnan(row["area"]) for row in rows):
            warnings.warn(
                f"no episode ended in any visit, so no area says how it goes: give visits more timesteps than "
                f"{max(result.steps for result in results):,}",
                stacklevel=3,
            )
        log.meta_step(rows, meta_gradient, change)
        log.run.record("meta/learning_rate", self._meta_optimizer.learning_rate)
        log.run.record("time/steps_per_second", steps / seconds)
        log.run.record("time/total_timesteps", self.num_timesteps)
        self.history.append(
            {"meta_step": self.meta_step, "timesteps": self.num_timesteps, "seconds": seconds, "tasks": rows}
        )
        if self.verbose:
            # Of few tasks it is said which they are: those of the last meta step had other scores.
            of = f" ({', '.join(row['name'] for row in rows)})" if len(rows) < min(4, len(self.tasks)) else ""
            said = [f"mean area {mean_of([row['area'] for row in rows])}{of}"]
            gains = [row["gain"] for row in rows if not math.isnan(row["gain"])]
            if gains:
                said.append(f"{sum(gains) / len(gains):+.0%} against first visits")
            print(f"meta step {self.meta_step}: {', '.join(said)}; {steps / seconds:,.0f} steps/s", flush=True)

    @property
    def logger(self) -> LoggerLike:
        """Where meta-training is logged; SB3's callbacks ask for it."""
        return self._meta_log().run

    def set_logger(self, logger: LoggerLike) -> None:
        """:param logger: anything with ``record(key, value)`` and ``dump(step)``, SB3's ``Logger`` for one"""
        self._meta_log().run = logger

    def _meta_log(self) -> MetaLog:
        if self._log is None:
            resumed = self._log_folder is not None and self.meta_step > 0
            if self.tensorboard_log is not None and self._log_folder is None:
                self._log_folder = next_run_folder(self.tensorboard_log, type(self.learner).__name__)
            self._log = MetaLog(self._log_folder, self.meta_step if resumed else -1)
            if isinstance(self._log.run, TensorBoardLogger) and not resumed:
                self._log.run.describe(vars(saving.settings_of(self)), self._task_names)
        return self._log

    # -- on disk -----------------------------------------------------------------------------------

    def save(self) -> None:
        """
        Write a checkpoint into ``run_dir``; the last one stays until the new one is whole.

        :raises ValueError: without a ``run_dir``
        :raises OSError: if there is no room for it
        """
        if self.checkpoints is None:
            raise ValueError("there is nowhere to save: give the trainer a run_dir")
        self.checkpoints.save(*saving.state_of(self))

    @classmethod
    def load(
        cls,
        run_dir: str | os.PathLike[str],
        tasks: TaskFamily,
        learner: MetaLearner | None = None,
        meta_optimizer_class: type[Optimizer] | None = None,
        meta_optimizer_kwargs: Mapping[str, Any] | None = None,
        eval_tasks: Sequence[Task] | None = None,
        engine: Engine | None = None,
        n_workers: int | None = None,
        keep_checkpoints: int = 3,
        keep_every: int = 0,
        verbose: int = 0,
    ) -> MetaTrainer:
        """
        Go on from the last checkpoint, and from the tasks that were finished since, to the same bits as without the
        interruption.

        :param run_dir: of the trainer that wrote it
        :param tasks: the same tasks
        :param learner: needed only for a class of your own
        :param meta_optimizer_class: needed only for a class that is not torch's
        :param meta_optimizer_kwargs: needed only for a schedule as ``lr``
        :param eval_tasks: the same, if there were any
        :param engine: as in the constructor
        :param n_workers: as in the constructor
        :param keep_checkpoints: as in the constructor
        :param keep_every: as in the constructor
        :param verbose: as in the constructor
        :raises ValueError: if it is missing, foreign, damaged, of other tasks, or needs what was not given
        """
        checkpoints = Checkpoints(Path(run_dir), keep_checkpoints, keep_every)
        given = (tasks, learner, meta_optimizer_class, dict(meta_optimizer_kwargs or {}), eval_tasks or [])
        return saving.loaded(cls, checkpoints, *given, engine=engine, n_workers=n_workers, verbose=verbose)

    def _check_room(self) -> None:
        """
        :raises ValueError: if the folder can't be written to, or is too small for the checkpoints
        """
        assert self.run_dir is not None and self.checkpoints is not None
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.run_dir):
                pass
        except OSError as error:
            raise ValueError(f"run_dir={str(self.run_dir)!r} can't be written to: {error.strerror}") from None
        needed = checkpoint_bytes(self._theta.parameters, self.checkpoints.keep, self.settings.meta_batch_size)
        free = shutil.disk_usage(self.run_dir).free
        if free < needed:
            raise ValueError(
                f"run_dir={str(self.run_dir)!r} has {free / 1e6:,.0f} MB free, its checkpoints need "
                f"{needed / 1e6:,.0f} MB: choose another place, or fewer checkpoints"
            )


def _check(
    settings: MetaSettings,
    tasks: TaskFamily,
    learner: MetaLearner,
    eval_tasks: Sequence[Task] | None,
    meta_optimizer_class: type[Optimizer] | None,
) -> None:
    size = settings.meta_batch_size
    if size > len(tasks) and settings.sampling != "with_replacement":
        raise ValueError(
            f'meta_batch_size={size}, but there are {len(tasks)} tasks: take fewer, or sampling="with_replacement"'
        )
    if not isinstance(learner, MetaLearner):
        made = f"{learner.__name__}()" if isinstance(learner, type) else "Leap()"
        raise ValueError(f"learner={learner!r} is no meta-learner: give one, such as {made}")
    tasks.check_learner(learner)
    if settings.device != "auto":
        try:
            torch.device(settings.device)
        except RuntimeError as error:
            raise ValueError(
                f"device={settings.device!r} is none ({first_line(error)}): give auto, cpu or cuda"
            ) from None
    if isinstance(learner, NoPretraining):
        raise ValueError("NoPretraining learns nothing: use tasks.draw_initialization(scope, seed)")
    if learner.order == "chain":
        if size != 1:
            raise ValueError(
                f"{type(learner).__name__} trains one task after the other: meta_batch_size must be 1, not {size}"
            )
        if meta_optimizer_class is not None:
            raise ValueError(f"{type(learner).__name__} keeps θ^K as it is: it takes no meta optimizer")
    if bool(eval_tasks) != (settings.eval_freq > 0):
        raise ValueError(
            f"eval_freq={settings.eval_freq} with {len(eval_tasks or [])} eval_tasks: evaluation needs both"
        )


def _begun_from(initialization: Initialization, drawn: Initialization) -> Initialization:
    """
    θ⁰ of these tasks, as another meta-training left it.

    :param initialization: of that one
    :param drawn: a random one of these tasks
    :raises InitializationError: if it does not fit
    """
    if not isinstance(initialization, Initialization):
        raise ValueError(f"initialization={initialization!r} is none: Initialization.load gives that of a folder")
    if initialization.scope != drawn.scope:
        raise InitializationError(
            f"the initialization has scope {initialization.scope!r}, these tasks meta-learn {drawn.scope!r}"
        )
    initialization.check_fits(drawn.named_tensors())
    # In the model's order: safetensors keeps none, and a meta optimizer counts its parameters.
    parameters = {name: initialization.parameters[name] for name in drawn.parameters}
    # What it learned before counts, whoever asks how much learning is in the result.
    recorded = ("tasks", "learner", "meta_steps", "timesteps", "seed", "recycled_units", "started_from")
    history = {key: initialization.config[key] for key in recorded if key in initialization.config}
    config = {**drawn.config, "started_from": {"sha256": initialization.sha256, **history}}
    return Initialization(parameters, drawn.scope, initialization.buffers, config).clone()
