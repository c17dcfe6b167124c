"""Meta-training: the outer loop of Leap."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.callbacks import Callback, CallbackLike, callback_list
from leap_rl.core.initialization import Initialization, relative_change, versions, what_learns
from leap_rl.core.initialization_config import InitializationError
from leap_rl.core.kept_results import run_kept
from leap_rl.core.learners import MetaLearner, NoPretraining, learner_from_settings
from leap_rl.core.meta_log import MetaLog
from leap_rl.core.meta_state import Best, MetaState, Sampling, Settings, optimizer_state, restore_optimizer
from leap_rl.core.task import Job, Task, TaskFamily, TaskResult
from leap_rl.running.as_json import as_json
from leap_rl.running.checkpoint import CheckpointError, Checkpoints, check_tensors, checkpoint_bytes
from leap_rl.running.engines import Engine, InProcess, Workers
from leap_rl.running.integers import integer
from leap_rl.running.logger import LoggerLike, TensorBoardLogger
from leap_rl.running.progress import JobsProgress
from leap_rl.running.record import shown
from leap_rl.running.run_lock import next_run_folder

Schedule = Callable[[float], float]

_log = logging.getLogger(__name__)

# Streams of the trainer's own random numbers; SB3 reseeds the global generators.
_BATCHES, _JOBS, _EVALUATION = range(3)


def sample_batch(seed: int, meta_step: int, n_tasks: int, size: int, sampling: Sampling) -> list[int]:
    """
    Indices of the tasks of a meta step: a function of seed and meta step alone, so that resuming is exact.

    :param seed: of the meta-training
    :param meta_step: from 0
    :param n_tasks: to draw from
    :param size: of the meta batch
    :param sampling: as ``MetaTrainer`` has it
    """

    def rng(position: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([seed, _BATCHES, position]))

    if sampling == "reshuffle":
        positions = range(meta_step * size, (meta_step + 1) * size)
        return [int(rng(p // n_tasks).permutation(n_tasks)[p % n_tasks]) for p in positions]
    return rng(meta_step).choice(n_tasks, size=size, replace=sampling == "with_replacement").tolist()


class MetaTrainer:
    """
    Meta-learns an initialization, Algorithm 1 of Leap, with any meta-learner.

    :param tasks: the tasks to learn from
    :param learner: the meta-learner
    :param meta_batch_size: tasks per meta step
    :param scope: what of the model is meta-learned; ``None``: the encoder for images, else ``"all"``
    :param meta_optimizer_class: any torch optimizer; ``None``: the meta-learner's own
    :param meta_optimizer_kwargs: of the meta optimizer; ``lr`` may be a schedule in SB3's manner, a function of
        the progress remaining, from 1 to 0
    :param initialization: θ⁰ to start from; ``None``: a random one
    :param average_from: meta step from which on θ⁰ is averaged: ``initialization`` is then the mean of θ⁰ after each
        meta step from that one (Polyak and Juditsky, 1992), while meta-training goes on from θ⁰; ``None``: θ⁰ itself
    :param sampling: of a meta batch: ``"without_replacement"`` within it, ``"reshuffle"``: every task once per
        pass, or ``"with_replacement"``
    :param eval_tasks: tasks that decide which θ⁰ was best, never learned from
    :param eval_freq: meta steps between two evaluations
    :param engine: where the tasks run; ``None``: worker processes, or this process where there is one task
    :param n_workers: worker processes; ``None``: one per core
    :param run_dir: folder for a checkpoint after every meta step, for the results of the tasks of the running one, and
        for the best initialization
    :param keep_checkpoints: how many of the last checkpoints stay
    :param keep_every: those of every n-th meta step stay, too; 0: none
    :param tensorboard_log: folder for TensorBoard runs
    :param seed: of everything
    :param device: where the models of the tasks live
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
        meta_batch_size = integer("meta_batch_size", meta_batch_size, least=1)
        eval_freq = integer("eval_freq", eval_freq, least=0)
        self._check(tasks, learner, meta_batch_size, sampling, eval_tasks, eval_freq, meta_optimizer_class)
        self.tasks = tasks
        self._task_names = [task.name for task in tasks]
        self.learner = learner
        self.meta_batch_size = meta_batch_size
        self.average_from = None if average_from is None else integer("average_from", average_from, least=1)
        self.sampling: Sampling = sampling
        self.eval_tasks = list(eval_tasks or [])
        self.eval_freq = eval_freq
        self.run_dir = None if run_dir is None else Path(run_dir)
        keep_checkpoints = integer("keep_checkpoints", keep_checkpoints, least=1)
        keep_every = integer("keep_every", keep_every, least=0)
        self.checkpoints = None if run_dir is None else Checkpoints(Path(run_dir), keep_checkpoints, keep_every)
        self.tensorboard_log = None if tensorboard_log is None else Path(tensorboard_log)
        drawn_seed: Any = np.random.SeedSequence().entropy
        self.seed = integer("seed", drawn_seed % 2**31 if seed is None else seed, least=0, below=2**31)
        self.device = str(device)
        self.verbose = verbose
        several = meta_batch_size > 1 or len(self.eval_tasks) > 1
        self.engine = engine or (Workers(n_workers) if several else InProcess())

        drawn = tasks.draw_initialization(scope, self.seed)
        if initialization is not None:
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
            drawn = Initialization(parameters, drawn.scope, initialization.buffers, config)
        if isinstance(eval_tasks, TaskFamily):
            drawn.check_fits(eval_tasks.draw_initialization(drawn.scope, self.seed).named_tensors())
        self._versions = versions() | drawn.config.get("versions", {})
        self._theta = drawn.clone()
        for tensor in self._theta.parameters.values():
            tensor.requires_grad_(True)

        default_class, default_kwargs = learner.meta_optimizer
        kwargs = dict(default_kwargs if meta_optimizer_class is None else {})
        kwargs.update(meta_optimizer_kwargs or {})
        kwargs = {key: value if callable(value) else as_json(value) for key, value in kwargs.items()}
        self._schedule: Schedule | None = kwargs.get("lr") if callable(kwargs.get("lr")) else None
        if self._schedule is not None:
            kwargs["lr"] = self._schedule(1.0)
        self.meta_optimizer = (meta_optimizer_class or default_class)(list(self._theta.parameters.values()), **kwargs)

        self._average: dict[str, Tensor] = {}
        self.meta_step = 0
        self.num_timesteps = 0
        self.history: list[dict[str, Any]] = []
        self.best_initialization: Initialization | None = None
        self.best_score = -math.inf
        self._eval_reference: dict[str, float] = {}
        self._steps_of: dict[str, int] = {}  # per task, over all its visits: the x axis of its curves
        self._log: MetaLog | None = None
        self._log_folder: Path | None = None
        self._progress = JobsProgress(enabled=False)
        if self.checkpoints is not None:
            if self.checkpoints.steps():
                raise ValueError(f"{run_dir} holds a run already: MetaTrainer.load goes on with it, or choose another")
            self._check_room()

    @staticmethod
    def _check(
        tasks: TaskFamily,
        learner: MetaLearner,
        meta_batch_size: int,
        sampling: str,
        eval_tasks: Sequence[Task] | None,
        eval_freq: int,
        meta_optimizer_class: type[Optimizer] | None,
    ) -> None:
        if sampling not in get_args(Sampling):
            raise ValueError(f"sampling={sampling!r} is unknown, choose one of {', '.join(get_args(Sampling))}")
        if meta_batch_size > len(tasks) and sampling != "with_replacement":
            raise ValueError(
                f"meta_batch_size={meta_batch_size}, but there are {len(tasks)} tasks: "
                'take fewer, or sampling="with_replacement"'
            )
        tasks.check_learner(learner)
        if isinstance(learner, NoPretraining):
            raise ValueError("NoPretraining learns nothing: use tasks.draw_initialization(scope, seed)")
        if learner.order == "chain":
            if meta_batch_size != 1:
                raise ValueError(
                    f"{type(learner).__name__} trains one task after the other: "
                    f"meta_batch_size must be 1, not {meta_batch_size}"
                )
            if meta_optimizer_class is not None:
                raise ValueError(f"{type(learner).__name__} keeps θ^K as it is: it takes no meta optimizer")
        if bool(eval_tasks) != (eval_freq > 0):
            raise ValueError(f"eval_freq={eval_freq} with {len(eval_tasks or [])} eval_tasks: evaluation needs both")

    # -- Algorithm 1 -------------------------------------------------------------------------------

    def learn(
        self, meta_steps: int, callback: Callback | Sequence[Callback] | None = None, progress_bar: bool = False
    ) -> MetaTrainer:
        """
        Meta-train.

        :param meta_steps: how many more
        :param callback: called as SB3 calls its own; a meta step is the step
        :param progress_bar: draw one, if the output is a terminal
        :return: self
        :raises ValueError: if another process, or another trainer, goes on with the run in ``run_dir``
        :raises RuntimeError: if more than half of a meta batch was lost, or a task fails whenever it is visited; θ⁰ is
            as it was
        :raises OSError: if there is no room for a checkpoint; the last one is intact
        """
        meta_steps = integer("meta_steps", meta_steps, least=1)
        last = self.meta_step + meta_steps
        alone = nullcontext() if self.checkpoints is None else self.checkpoints.alone(self.meta_step)
        with alone, JobsProgress(enabled=progress_bar) as self._progress:
            callbacks = self._start(callback)
            steps = sum(task.steps for task in self.tasks) * self.meta_batch_size // len(self.tasks)  # of a meta batch
            self._progress.outer(f"meta step {self.meta_step + 1} of {last}", meta_steps * steps)
            if self._wants_evaluation() and not self._eval_reference:
                self._evaluate()
                self.logger.dump(self.meta_step)
            while self.meta_step < last:
                started = time.perf_counter()
                self._progress.outer(f"meta step {self.meta_step + 1} of {last}")
                for c in callbacks:
                    c.on_rollout_start()
                batch = sample_batch(  # τ ~ p(τ)
                    self.seed, self.meta_step, len(self.tasks), self.meta_batch_size, self.sampling
                )
                results = self._run(batch)  # θ⁰ → θ^K on every τ, observed
                self._check_not_hopeless(results)
                meta_gradient = self._mean_meta_gradient(results)  # 1/|B| Σ ∇F
                for c in callbacks:
                    c.update_locals({"results": results, "meta_gradient": meta_gradient})
                    c.on_rollout_end()
                change = self._update(meta_gradient, progress_remaining=1 - self.meta_step / last)
                self.meta_step += 1
                self._update_average()
                self._record(results, change, time.perf_counter() - started)
                if self._wants_evaluation():
                    self._evaluate()
                self.logger.dump(self.meta_step)
                if self.checkpoints is not None:
                    self.save()
                if not all([c.on_step() for c in callbacks]):
                    break
            for c in callbacks:
                c.on_training_end()
        return self

    def _run(self, batch: Sequence[int]) -> list[TaskResult]:
        """The results in the order of the tasks, not of their completion: sums then have the same bits."""
        theta = self._current()
        jobs = []
        for slot, index in enumerate(batch):
            visit = batch[:slot].count(index)  # with replacement a task may come twice
            seed = self._job_seed(_JOBS, self.meta_step, index, visit)
            jobs.append(Job(self.tasks[index], theta, self.learner, seed, self.device))
        return self._run_jobs(jobs, "task")

    def _check_not_hopeless(self, results: Sequence[TaskResult]) -> None:
        """
        :raises RuntimeError: if a task failed now, and whenever it was visited, in another meta step at least
        """
        for result in results:
            if result.status != "failed":
                continue
            before = [row["status"] for step in self.history for row in step["tasks"] if row["name"] == result.name]
            statuses = before + [r.status for r in results if r.name == result.name]
            if before and set(statuses) == {"failed"}:
                raise RuntimeError(
                    f"{result.name} failed in each of its {len(statuses)} visits ({result.reason}); θ⁰ is as it was. "
                    "Once the task is mended the run can go on; a new run can leave it out"
                )

    def _mean_meta_gradient(self, results: Sequence[TaskResult]) -> dict[str, Tensor]:
        gradients = [r.meta_gradient for r in results if r.status == "ok" and r.meta_gradient is not None]
        if 2 * len(gradients) < len(results):
            lost = ", ".join(sorted(f"{r.name}: {r.status}" for r in results if r.status != "ok"))
            errors = "".join(f"; {r.name}: {r.reason}" for r in results if r.error is not None)
            if self.checkpoints is not None:  # those of other settings must not be taken for lost, too
                shutil.rmtree(self.checkpoints.running, ignore_errors=True)
            raise RuntimeError(
                f"meta step {self.meta_step}: {len(results) - len(gradients)} of {len(results)} learning processes "
                f"were lost ({lost}); θ⁰ is as it was. Where they are not finite a smaller learning rate of the tasks, "
                f"or a new run with a smaller meta rate, may help{errors}"
            )
        return {
            name: torch.stack([gradient[name].cpu() for gradient in gradients]).mean(dim=0)
            for name in self._theta.parameters
        }

    def _update(self, meta_gradient: Mapping[str, Tensor], progress_remaining: float) -> dict[str, float]:
        """One step of the meta optimizer; returns ‖Δθ⁰‖ / ‖θ⁰‖ by layer."""
        before = {name: t.detach().clone() for name, t in self._theta.parameters.items()}
        if self._schedule is not None:
            for group in self.meta_optimizer.param_groups:
                group["lr"] = self._schedule(progress_remaining)
        for name, tensor in self._theta.parameters.items():
            tensor.grad = meta_gradient[name].to(tensor.dtype)
        self.meta_optimizer.step()
        self.meta_optimizer.zero_grad()
        return relative_change(before, {name: t.detach() for name, t in self._theta.parameters.items()})

    def _update_average(self) -> None:
        """The mean of θ⁰ over the meta steps from ``average_from`` on."""
        if self.average_from is None or self.meta_step < self.average_from:
            return
        for name, tensor in self._theta.parameters.items():
            average = self._average.setdefault(name, torch.zeros_like(tensor, requires_grad=False))
            average.lerp_(tensor.detach(), 1 / (self.meta_step - self.average_from + 1))

    # -- what is around it -------------------------------------------------------------------------

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
            "meta_optimizer": self._optimizer_settings(),
            "meta_batch_size": self.meta_batch_size,
            "meta_steps": self.meta_step,
            **({"averaged_from": self.average_from} if self._average else {}),
            "timesteps": self.num_timesteps,
            "seed": self.seed,
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
    def logger(self) -> LoggerLike:
        """Where meta-training is logged; SB3's callbacks ask for it."""
        return self._meta_log().run

    def set_logger(self, logger: LoggerLike) -> None:
        """:param logger: anything with ``record(key, value)`` and ``dump(step)``, SB3's ``Logger`` for one"""
        self._meta_log().run = logger

    def _job_seed(self, *stream: int) -> int:
        return int(np.random.SeedSequence([self.seed, *stream]).generate_state(1)[0]) & 0x7FFFFFFF

    def _run_jobs(self, jobs: Sequence[Job], kind: str, counted: bool = True) -> list[TaskResult]:
        """Those that an interrupted run had finished are not run again."""
        self._progress.jobs([job.task.name for job in jobs], [job.task.steps for job in jobs], counted)
        keys = [f"{kind}-{self.meta_step:06d}-{index:03d}" for index in range(len(jobs))]
        folders = [None if self.checkpoints is None else self.checkpoints.running / key for key in keys]
        results: dict[int, TaskResult] = {}
        run = None if self.checkpoints is None else self.checkpoints.run
        for index, result, ran_now in run_kept(self.engine, jobs, folders, self._progress.job_at, run):
            results[index] = result
            if ran_now and result.status == "non_finite":  # the same seed would fail again
                _log.warning(
                    "%s was not finite and is left out of meta step %d. Its path before that: %s",
                    result.name,
                    self.meta_step,
                    result.statistics,
                )
        return [results[index] for index in range(len(jobs))]

    def _start(self, callback: Callback | Sequence[Callback] | None) -> list[CallbackLike]:
        self._meta_log()
        if self.checkpoints is not None and not self.checkpoints.steps():
            self.save()
        callbacks = callback_list(callback)
        for c in callbacks:
            c.init_callback(self)
            c.on_training_start({"self": self}, {})
        return callbacks

    def _meta_log(self) -> MetaLog:
        if self._log is None:
            resumed = self._log_folder is not None and self.meta_step > 0
            if self.tensorboard_log is not None and self._log_folder is None:
                self._log_folder = next_run_folder(self.tensorboard_log, type(self.learner).__name__)
            self._log = MetaLog(self._log_folder, self.meta_step if resumed else -1)
            if isinstance(self._log.run, TensorBoardLogger) and not resumed:
                self._log.run.describe(vars(self._settings()), self._task_names)
        return self._log

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
        needed = checkpoint_bytes(self._theta.parameters, self.checkpoints.keep, self.meta_batch_size)
        free = shutil.disk_usage(self.run_dir).free
        if free < needed:
            raise ValueError(
                f"run_dir={str(self.run_dir)!r} has {free / 1e6:,.0f} MB free, its checkpoints need "
                f"{needed / 1e6:,.0f} MB: choose another place, or fewer checkpoints"
            )

    def _wants_evaluation(self) -> bool:
        return self.eval_freq > 0 and self.meta_step % self.eval_freq == 0

    def _evaluate(self) -> None:
        """
        Learn the evaluation tasks from ``initialization`` with the same seeds each time, and keep the best. Its score
        is the mean over these tasks of the area under the learning curve relative to that of the first evaluation,
        since games have scales of their own. A task that had no area then decides nothing.

        :raises RuntimeError: if one fails in the first evaluation
        """
        is_first = not self._eval_reference
        theta = self.initialization
        jobs = [
            Job(task, theta, NoPretraining(), self._job_seed(_EVALUATION, index), self.device)
            for index, task in enumerate(self.eval_tasks)
        ]
        scores = []
        for result in self._run_jobs(jobs, "evaluation", counted=False):
            if is_first:  # the same seeds would fail in every evaluation
                result.raise_for_status(f"evaluation task {result.name}")
            area = result.curve.area() if result.status == "ok" else float("nan")
            reference = self._eval_reference.setdefault(result.name, area)
            self.logger.record(f"eval/area/{result.name}", area)
            if math.isfinite(reference):
                gain = (area - reference) / max(abs(reference), 1e-9)
                scores.append(gain if result.curve.maximize else -gain)
        unknown = [name for name, reference in self._eval_reference.items() if not math.isfinite(reference)]
        if is_first and unknown:
            _log.warning(
                "%s had no learning curve in the first evaluation, so it won't decide which initialization is best: "
                "give evaluation tasks more timesteps, in which an episode ends",
                ", ".join(unknown),
            )
        score = float(np.mean(scores)) if scores else math.nan
        self.logger.record("eval/gain", score)
        if score > self.best_score:
            self.best_score, self.best_initialization = score, self.initialization
            if self.run_dir is not None:
                self.best_initialization.save(self.run_dir / "best_initialization")

    def _record(self, results: Sequence[TaskResult], change: Mapping[str, float], seconds: float) -> None:
        """One meta step in the log and in ``history``; the tasks' own curves in runs of their own."""
        self.config["versions"] = self._versions  # the checkpoint that is gone on from may be of older ones
        log = self._meta_log()
        steps = sum(r.steps for r in results)
        self.num_timesteps += steps
        rows = []
        for r in results:
            row: dict[str, Any] = {"name": r.name, "status": r.status, "steps": r.steps, "seconds": r.seconds}
            row |= {"area": r.curve.area(), "final_score": r.curve.final_score(), **r.scores}
            if r.error is not None:
                row["error"] = r.error
            if r.statistics is not None:
                row |= vars(r.statistics)
                if not r.statistics.segments:
                    warnings.warn(
                        f"{r.name} had {r.statistics.updates} updates and all were skipped, so nothing was learned "
                        "from it: give it more timesteps, or the meta-learner fewer skip_updates",
                        stacklevel=3,
                    )
            rows.append(row)
            before = self._steps_of.get(r.name, 0)
            self._steps_of[r.name] = before + r.steps
            log.visit(r, before)
        log.meta_step(rows, results, change)
        log.run.record("meta/learning_rate", self.meta_optimizer.param_groups[0]["lr"])
        log.run.record("time/steps_per_second", steps / seconds)
        log.run.record("time/total_timesteps", self.num_timesteps)
        self.history.append(
            {"meta_step": self.meta_step, "timesteps": self.num_timesteps, "seconds": seconds, "tasks": rows}
        )
        if self.verbose:
            areas = [f"{row['name']} {'-' if math.isnan(row['area']) else format(row['area'], '.4g')}" for row in rows]
            print(f"meta step {self.meta_step}: {steps / seconds:,.0f} steps/s, areas: {', '.join(areas)}", flush=True)

    def _settings(self) -> Settings:
        return Settings(
            learner=self.learner.settings(),
            meta_batch_size=self.meta_batch_size,
            scope=self._theta.scope,
            meta_optimizer=type(self.meta_optimizer).__name__,
            schedule=self._schedule is not None,
            average_from=self.average_from,
            sampling=self.sampling,
            eval_freq=self.eval_freq,
            seed=self.seed,
            device=self.device,
            arithmetic=self.engine.arithmetic,
            tensorboard_log=self._as_stored(self.tensorboard_log),
        )

    def _as_stored(self, path: Path | None) -> str | None:
        """What lies in ``run_dir`` is found again where that was moved, the rest wherever training goes on from."""
        if path is None:
            return None
        if self.run_dir is None:
            return str(path)
        path, run_dir = path.absolute(), self.run_dir.absolute()
        return str(path.relative_to(run_dir) if path.is_relative_to(run_dir) else path)

    def _optimizer_settings(self) -> dict[str, Any]:
        settings = {
            key: value
            for key, value in self.meta_optimizer.param_groups[0].items()
            if key != "params" and isinstance(value, int | float | str | bool)
        }
        return {"name": type(self.meta_optimizer).__name__, **settings}

    # -- on disk -----------------------------------------------------------------------------------

    def save(self) -> None:
        """
        Write a checkpoint into ``run_dir``; the last one stays until the new one is whole.

        :raises ValueError: without a ``run_dir``
        :raises OSError: if there is no room for it
        """
        if self.checkpoints is None:
            raise ValueError("there is nowhere to save: give the trainer a run_dir")
        optimizer_tensors, optimizer_rest = optimizer_state(self.meta_optimizer)
        best = self.best_initialization
        tensors = self._tensors() | {f"optimizer.{n}": t for n, t in optimizer_tensors.items()}
        state = MetaState(
            settings=self._settings(),
            tasks=self._task_names,
            tasks_steps=[task.steps for task in self.tasks],
            eval_tasks=[task.name for task in self.eval_tasks],
            eval_tasks_steps=[task.steps for task in self.eval_tasks],
            config=self._theta.config,
            optimizer=optimizer_rest,
            history=self.history,
            best=None if best is None else Best(self.best_score, best.config),
            eval_reference=self._eval_reference,
            log_folder=self._as_stored(self._log_folder),
        )
        self.checkpoints.save(tensors, state)

    def _tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds but the meta optimizer's."""
        tensors = {f"theta.{n}": t for n, t in self._theta.parameters.items()}
        tensors |= {f"buffer.{n}": t for n, t in self._theta.buffers.items()}
        tensors |= {f"average.{n}": t for n, t in self._average.items()}
        best = self.best_initialization
        if best is not None:
            tensors |= {f"best.{n}": t for n, t in best.parameters.items()}
            tensors |= {f"best_buffer.{n}": t for n, t in best.buffers.items()}
        return tensors

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
        run_dir = Path(run_dir)
        checkpoints = Checkpoints(run_dir, keep_checkpoints, keep_every)
        tensors, state = checkpoints.load(MetaState)
        checkpoints.clean()
        settings = state.settings
        for what, given, before in (
            ("tasks", tasks, (state.tasks, state.tasks_steps)),
            ("eval_tasks", eval_tasks or [], (state.eval_tasks, state.eval_tasks_steps)),
        ):
            names, budgets = [task.name for task in given], [task.steps for task in given]
            if names != before[0]:
                raise CheckpointError(f"{run_dir} was trained with {what} {shown(before[0])}, not {shown(names)}")
            if budgets != before[1]:
                raise CheckpointError(f"{run_dir} was trained with {what} of other budgets than {shown(budgets)} steps")
        if settings.schedule and not callable((meta_optimizer_kwargs or {}).get("lr")):
            raise CheckpointError(f"{run_dir} was trained with a schedule: give it as meta_optimizer_kwargs['lr']")
        if settings.arithmetic != (engine or Engine).arithmetic:
            raise CheckpointError(
                f"{run_dir} began with arithmetic {shown(settings.arithmetic)}, not {(engine or Engine).arithmetic!r}: "
                "give it an engine of that arithmetic"
            )
        try:
            learner = learner or learner_from_settings(settings.learner)
        except ValueError as error:
            raise CheckpointError(f"{run_dir} was trained by {error}") from None
        if learner.settings() != settings.learner:
            raise CheckpointError(f"{run_dir} was trained by {shown(settings.learner)}, not {learner.settings()}")
        optimizer_name = settings.meta_optimizer
        if meta_optimizer_class is not None and meta_optimizer_class.__name__ != optimizer_name:
            raise CheckpointError(
                f"{run_dir} was trained with {shown(optimizer_name)}, not {meta_optimizer_class.__name__}: a new run "
                "takes another meta optimizer, with initialization=..."
            )
        if learner.order != "chain" and meta_optimizer_class is None:
            meta_optimizer_class = getattr(torch.optim, optimizer_name, None)
            if not isinstance(meta_optimizer_class, type):
                raise CheckpointError(
                    f"{run_dir} was trained with {shown(optimizer_name)}: give it as meta_optimizer_class"
                )
        group: dict[str, Any] = next(iter(state.optimizer.param_groups), {})
        for key, value in (meta_optimizer_kwargs or {}).items():
            value = list(value) if isinstance(value, tuple) else value  # as JSON has betas
            if not callable(value) and group.get(key, value) != value:
                raise CheckpointError(
                    f"{run_dir} was trained with {key}={shown(group[key])} of the meta optimizer, not {value}: "
                    "a new run takes another, with initialization=..."
                )
        # Constructing needs some lr; the real one comes with the optimizer's state.
        lr = group.get("lr")
        lr = lr if isinstance(lr, float) and 0 < lr < math.inf else 0.0
        try:
            trainer = cls(
                tasks,
                learner,
                settings.meta_batch_size,
                settings.scope,
                meta_optimizer_class,
                {"lr": lr, **(meta_optimizer_kwargs or {})},
                average_from=settings.average_from,
                sampling=settings.sampling,
                eval_tasks=eval_tasks,
                eval_freq=settings.eval_freq,
                engine=engine,
                n_workers=n_workers,
                tensorboard_log=None if settings.tensorboard_log is None else run_dir / settings.tensorboard_log,
                seed=settings.seed,
                device=settings.device,
                verbose=verbose,
            )
        except ValueError as error:
            raise checkpoints.refused(error, MetaState) from None
        for key, value in what_learns(trainer._theta.config).items():
            known = state.config.get(key, value)
            if known != value:
                raise CheckpointError(
                    f"{run_dir} was trained with {key} {shown(known)}, not {shown(value)}: a new run takes another, "
                    "with initialization=..."
                )
        trainer.run_dir, trainer.checkpoints = run_dir, checkpoints
        try:
            trainer._restore(tensors, state)
        except ValueError as error:
            raise checkpoints.refused(error, MetaState) from None
        if state.log_folder is not None:
            trainer._log_folder = run_dir / state.log_folder
        return trainer

    def _restore(self, tensors: Mapping[str, Tensor], state: MetaState) -> None:
        """
        :raises ValueError: if the tensors are not those of such a run
        """

        def named(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.meta_step, self.num_timesteps = state.step, state.num_timesteps
        self.history = state.history
        self._steps_of = state.steps_of()
        self._eval_reference = state.eval_reference
        if self.average_from is not None and self.meta_step >= self.average_from:
            self._average = {name: tensor.detach().clone() for name, tensor in self._theta.parameters.items()}
        if state.best is not None:
            self.best_score, self.best_initialization = state.best.score, self._current()
            self.best_initialization.config = state.best.config
        restore_optimizer(self.meta_optimizer, named("optimizer."), state.optimizer, self.meta_step > 0)
        own = self._tensors()
        check_tensors({n: t for n, t in tensors.items() if not n.startswith("optimizer.")}, own)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        self._theta.config = state.config
