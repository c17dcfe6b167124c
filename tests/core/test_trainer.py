"""The outer loop: what it computes, in every engine, interrupted or not."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EveryNTimesteps
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from leap_rl.core import (
    CheckpointError,
    Initialization,
    InitializationError,
    InProcess,
    Job,
    Leap,
    LearningCurve,
    MetaCallback,
    MetaTrainer,
    NoPretraining,
    Report,
    Reptile,
    SequentialFinetuning,
    Task,
    TaskFamily,
    TaskResult,
    Workers,
)
from leap_rl.core.best import BestInitialization
from leap_rl.core.meta_settings import sample_batch
from leap_rl.running.run_lock import run_lock


@dataclass(frozen=True)
class Quadratic(Task):
    """Noisy descent towards a point of its own, one for each index."""

    index: int
    steps: int = 12
    diverges: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"quadratic-{self.index}"

    def run(self, job: Job, report: Report) -> TaskResult:
        generator = torch.Generator().manual_seed(job.seed)
        target = torch.full((3,), float(self.index))
        model = point(0)
        job.initialization.apply_to(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        path = job.learner.observe(dict(model.named_parameters()))
        detach = path.attach(optimizer) if path is not None else lambda: None
        losses = []
        for i in range(self.steps):
            optimizer.zero_grad()
            loss = (model(torch.eye(3)).diagonal() - target + 0.1 * torch.randn(3, generator=generator)).square().sum()
            if self.diverges:
                loss = loss * math.nan
            loss.backward() if path is None else path.backward(loss)
            optimizer.step()
            losses.append(loss.item())
            report(i + 1)
        detach()
        gradient = None if path is None else path.meta_gradient()
        return TaskResult(
            self.name,
            LearningCurve(np.arange(1, self.steps + 1), np.array(losses), self.steps, maximize=False),
            steps=self.steps,
            seconds=0.01,
            meta_gradient=gradient,
            statistics=None if path is None else path.statistics(),
            status="non_finite" if self.diverges else "ok",
            log=[(self.steps, {"train/loss": losses[-1]})],
            final=Initialization.of(model) if job.return_final else None,
        )


def point(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 3)


class Quadratics(TaskFamily):
    def __init__(self, n: int = 5, diverging: tuple[int, ...] = ()) -> None:
        self.tasks = [Quadratic(i, diverges=i in diverging) for i in range(n)]
        self.config: dict[str, Any] = {"preprocessing": "older", "versions": {"library": "1"}}

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Quadratic:  # type: ignore[override]
        return self.tasks[index]

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        return Initialization.of(point(seed), scope or "all", {"network": "Linear(3, 3)", **self.config})


def trainer(learner: Any = None, **kwargs: Any) -> MetaTrainer:
    arguments = {"meta_batch_size": 2, "engine": InProcess(), "seed": 0, **kwargs}
    return MetaTrainer(arguments.pop("tasks", Quadratics()), learner or Leap(metric="length"), **arguments)


def same_bits(a: Initialization, b: Initialization) -> bool:
    return a.parameters.keys() == b.parameters.keys() and all(
        torch.equal(a.parameters[n], b.parameters[n]) for n in a.parameters
    )


# -- Algorithm 1 -----------------------------------------------------------------------------------


def test_a_meta_step_is_the_optimizers_step_on_the_mean_meta_gradient() -> None:
    seen: dict[str, Any] = {}

    def keep(locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        seen.update(locals_)

    meta = trainer(meta_optimizer_class=torch.optim.SGD, meta_optimizer_kwargs={"lr": 0.25})
    before = meta.initialization
    meta.learn(1, callback=keep)
    for name, now in meta.initialization.parameters.items():
        gradients = torch.stack([r.meta_gradient[name].double() for r in seen["results"]])
        torch.testing.assert_close(now.double(), before.parameters[name].double() - 0.25 * gradients.mean(dim=0))


def test_reptile_with_rate_one_and_one_task_is_sequential_finetuning() -> None:
    reptile = trainer(
        Reptile(), meta_batch_size=1, meta_optimizer_class=torch.optim.SGD, meta_optimizer_kwargs={"lr": 1.0}
    ).learn(4)
    chain = trainer(SequentialFinetuning(), meta_batch_size=1).learn(4)
    assert same_bits(reptile.initialization, chain.initialization)


def test_sequential_finetuning_ends_where_its_last_task_ended() -> None:
    results: list[TaskResult] = []
    meta = trainer(SequentialFinetuning(), meta_batch_size=1)
    start = meta.initialization
    meta.learn(1, callback=lambda locals_, globals_: results.extend(locals_["results"]))
    index = int(results[0].name[-1])
    seed = meta.settings.visit_seed(0, index, visit=0)
    job = Job(meta.tasks[index], start, NoPretraining(), seed, return_final=True)
    final = job.task.run(job, lambda *_: None).final
    assert final is not None
    for name, t in meta.initialization.parameters.items():
        torch.testing.assert_close(t, final.parameters[name])


def test_it_moves_towards_the_middle_of_the_tasks() -> None:
    meta = trainer(meta_batch_size=5, meta_optimizer_class=torch.optim.SGD, meta_optimizer_kwargs={"lr": 0.1})

    def distance(initialization: Initialization) -> float:
        model = point(0)
        initialization.apply_to(model)
        return (model(torch.eye(3)).diagonal() - 2.0).norm().item()

    before = distance(meta.initialization)
    meta.learn(40)
    assert distance(meta.initialization) < before / 3


def test_a_learning_rate_schedule_in_sb3s_manner() -> None:
    rates: list[float] = []
    meta = trainer(
        meta_optimizer_class=torch.optim.SGD, meta_optimizer_kwargs={"lr": lambda remaining: 0.5 * remaining}
    )
    meta.learn(4, callback=lambda locals_, globals_: rates.append(meta.meta_optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize("sampling", ["without_replacement", "reshuffle", "with_replacement"])
def test_sampling(sampling: Any) -> None:
    batches = [sample_batch(0, meta_step, 5, 3, sampling) for meta_step in range(50)]
    counts = Counter(i for batch in batches for i in batch)
    assert set(counts) == set(range(5))
    repeated = any(len(set(batch)) < 3 for batch in batches)
    if sampling == "without_replacement":
        assert not repeated
    if sampling == "with_replacement":
        assert repeated
    if sampling == "reshuffle":
        assert set(counts.values()) == {30}
        stream = [i for batch in batches for i in batch]
        assert all(set(stream[p : p + 5]) == set(range(5)) for p in range(0, 150, 5))
    assert [sample_batch(1, meta_step, 5, 3, sampling) for meta_step in range(50)] != batches


def test_the_global_generators_do_not_matter() -> None:
    first = trainer().learn(3).initialization
    torch.manual_seed(123)
    np.random.seed(5)
    assert same_bits(first, trainer().learn(3).initialization)
    assert not same_bits(first, trainer(seed=1).learn(3).initialization)


# -- engines ---------------------------------------------------------------------------------------


def test_engines_agree_to_the_bit() -> None:
    """In this process, on one worker and on two; results come in another order, and are added in the tasks'."""
    results = [
        trainer(engine=engine, meta_batch_size=4).learn(3).initialization
        for engine in (InProcess(), Workers(1), Workers(2))
    ]
    assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])


def test_the_order_of_completion_does_not_matter() -> None:
    class Backwards(InProcess):
        def run(self, jobs: Any, on_progress: Any) -> Any:
            return reversed(list(super().run(jobs, on_progress)))

    first = trainer(engine=Backwards(), meta_batch_size=4).learn(2).initialization
    assert same_bits(first, trainer(meta_batch_size=4).learn(2).initialization)


class Threads(Quadratic):
    """Says on how many threads it ran, and takes longer than a worker is looked at; it ends before its budget."""

    def run(self, job: Job, report: Report) -> TaskResult:
        result = super().run(job, report)
        time.sleep(1.0)
        result.scores = {"threads": torch.get_num_threads()}
        report(self.steps // 2)
        return result


@pytest.mark.parametrize("engine", [InProcess(), Workers(2)], ids=["in-process", "workers"])
def test_engines_report_progress_and_run_on_one_thread(engine: Any) -> None:
    torch.set_num_threads(2)
    try:
        steps: dict[int, list[int]] = {0: [], 1: []}
        theta = Quadratics().draw_initialization(None, 0)
        jobs = [Job(Threads(i), theta, NoPretraining(), 0) for i in range(2)]
        done = dict(engine.run(jobs, lambda index, n, score=math.nan: steps[index].append(n)))
        assert sorted(done) == [0, 1] and all(done[i].name == f"quadratic-{i}" for i in done)
        for index, result in done.items():
            assert result.scores == {"threads": 1}
            assert steps[index][-1] == 12 and len(set(steps[index])) > 1, steps
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("engine", [InProcess(), Workers(2)], ids=["in-process", "workers"])
def test_a_task_that_raises_is_run_once_more_and_then_failed(engine: Any, tmp_path: Path, caplog: Any) -> None:
    @dataclass(frozen=True)
    class Broken(Quadratic):
        def run(self, job: Job, report: Report) -> TaskResult:
            attempts = len(list(tmp_path.glob(f"{self.index}-*")))
            (tmp_path / f"{self.index}-{attempts}").touch()
            if attempts < self.index:
                raise ZeroDivisionError("the task's own")
            return super().run(job, report)

    jobs = [Job(Broken(i), Initialization.of(point(0)), NoPretraining(), 0) for i in range(3)]
    results = dict(engine.run(jobs, lambda *_: None))
    assert [results[i].status for i in range(3)] == ["ok", "ok", "failed"]
    assert "ZeroDivisionError: the task's own" in results[2].error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0-0", "1-0", "1-1", "2-0", "2-1"]
    assert "quadratic-1 failed and is tried once more" in caplog.text and "quadratic-2 failed again" in caplog.text


@pytest.mark.slow  # the README's example, in the fast suite, is one as well
def test_a_script_without_a_main_guard_runs_on_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import gymnasium as gym
            from leap_rl import EnvTasks, Leap, LeapPPO, MetaTrainer

            def make():                      # defined in the script: workers can't import it
                return gym.make("CartPole-v1")

            print("started")
            tasks = EnvTasks(LeapPPO, "MlpPolicy", {"a": make, "b": make}, timesteps=64, n_envs=2,
                             algorithm_kwargs={"n_steps": 16, "batch_size": 16, "n_epochs": 2})
            MetaTrainer(tasks, Leap(), meta_batch_size=2, n_workers=2, seed=0, device="cpu").learn(1)
            print("done")
            """
        )
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["started", "done"]


# -- faults ----------------------------------------------------------------------------------------


def test_a_process_that_is_not_finite_is_left_out(caplog: Any) -> None:
    meta = trainer(tasks=Quadratics(4, diverging=(1,)), meta_batch_size=4).learn(2)
    said = [r.getMessage() for r in caplog.records if "quadratic-1 was not finite" in r.getMessage()]
    assert len(said) == 2 and "left out of meta step 0" in said[0] and "non_finite_update=0" in said[0]
    assert all(t.isfinite().all() for t in meta.initialization.parameters.values())
    statuses = {row["name"]: row["status"] for row in meta.history[-1]["tasks"]}
    assert statuses["quadratic-1"] == "non_finite" and list(statuses.values()).count("ok") == 3
    assert meta.initialization.config["tasks"] == ["quadratic-0", "quadratic-2", "quadratic-3"]


def test_a_task_that_fails_twice_is_left_out_and_recorded(tmp_path: Path) -> None:
    class Crashing(InProcess):
        """Loses one task in the second meta step; the first time it is tried it is not lost for good."""

        def outcomes(self, jobs: Any, waiting: Any, on_progress: Any) -> Any:
            for index, outcome in super().outcomes(jobs, waiting, on_progress):
                lost = meta.meta_step == 1 and jobs[index].task.index == 3
                yield index, RuntimeError("lost") if lost else outcome

    kept: list[Any] = []
    meta = trainer(
        engine=Crashing(), meta_batch_size=5, run_dir=tmp_path, meta_optimizer_class=torch.optim.SGD,
        meta_optimizer_kwargs={"lr": 0.25},
    )  # fmt: skip
    meta.learn(1)
    before = meta.initialization
    meta.learn(1, callback=lambda locals_, globals_: kept.extend(locals_["results"]))
    loaded = MetaTrainer.load(tmp_path, Quadratics())
    rows = {row["name"]: row for row in loaded.history[1]["tasks"]}
    assert rows["quadratic-3"]["status"] == "failed" and "lost" in rows["quadratic-3"]["error"]
    rest = [r.meta_gradient["weight"].double() for r in kept if r.name != "quadratic-3"]
    assert len(rest) == 4  # |B| counts these
    expected = before.parameters["weight"].double() - 0.25 * torch.stack(rest).mean(dim=0)
    torch.testing.assert_close(meta.initialization.parameters["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_training_stops_when_most_processes_are_not_finite() -> None:
    meta = trainer(tasks=Quadratics(4, diverging=(0, 1, 2)), meta_batch_size=4)
    before = meta.initialization
    with pytest.raises(RuntimeError, match=r"3 of 4 .*quadratic-0: non_finite, quadratic-1: non_finite, quadratic-2"):
        meta.learn(1)
    assert same_bits(before, meta.initialization)


def test_after_a_lost_meta_step_other_settings_start_it_anew(tmp_path: Path) -> None:
    meta = trainer(tasks=Quadratics(4, diverging=(0, 1, 2)), meta_batch_size=4, run_dir=tmp_path)
    with pytest.raises(RuntimeError, match="A smaller learning rate of the tasks"):
        meta.learn(1)
    resumed = MetaTrainer.load(tmp_path, Quadratics(4), engine=InProcess()).learn(1)
    assert [row["status"] for row in resumed.history[0]["tasks"]] == ["ok"] * 4


def exits_in_some(n: int, *broken: int) -> Quadratics:
    """Tasks of which some end whatever they run in."""

    @dataclass(frozen=True)
    class Exits(Quadratic):
        def run(self, job: Job, report: Report) -> TaskResult:
            sys.exit("no licence")

    tasks = Quadratics(n)
    for index in broken:
        tasks.tasks[index] = Exits(index)
    return tasks


def test_a_task_that_fails_whenever_it_is_visited_ends_the_run(tmp_path: Path) -> None:
    """At its second visit, resumed or not; θ⁰ is that of the last whole meta step, from which a mended task goes on."""

    tasks = exits_in_some(4, 3)
    meta = trainer(tasks=tasks, meta_batch_size=4, run_dir=tmp_path).learn(1)
    before = meta.initialization
    said = r"quadratic-3 failed in each of its 2 visits \(SystemExit: no licence\); θ⁰ is as it was"
    for fails in (meta, MetaTrainer.load(tmp_path, tasks, engine=InProcess())):
        with pytest.raises(RuntimeError, match=said):
            fails.learn(5)
        assert fails.meta_step == 1 and same_bits(fails.initialization, before)
        assert max((tmp_path / "checkpoints").iterdir()).name == "000001"
    mended = MetaTrainer.load(tmp_path, Quadratics(4), engine=InProcess()).learn(1)
    # From now on it has been seen to work, and is but left out where it fails.
    assert [row["status"] for row in mended.history[1]["tasks"]] == ["ok"] * 4
    last = MetaTrainer.load(tmp_path, tasks, engine=InProcess()).learn(2)
    assert [[row["status"] for row in step["tasks"]].count("failed") for step in last.history] == [1, 0, 1, 1]


def test_it_is_visits_that_count_not_meta_steps() -> None:
    """Four tasks, two in a meta step: one that always fails is met again in the second pass."""
    meta = trainer(tasks=exits_in_some(4, 2), sampling="reshuffle")
    with pytest.raises(RuntimeError, match="quadratic-2 failed in each of its 2 visits"):
        meta.learn(9)
    batches = [sample_batch(0, meta_step, 4, 2, "reshuffle") for meta_step in range(9)]
    assert meta.meta_step == [step for step, batch in enumerate(batches) if 2 in batch][1] >= 2


def test_a_task_that_is_met_twice_in_one_meta_step_gets_another(caplog: Any) -> None:
    seed = next(s for s in range(99) if sorted(sample_batch(s, 0, 3, 4, "with_replacement")) == [0, 1, 2, 2])
    meta = trainer(tasks=exits_in_some(3, 2), meta_batch_size=4, sampling="with_replacement", seed=seed).learn(1)
    assert [row["status"] for row in meta.history[0]["tasks"]].count("failed") == 2


def test_an_evaluation_task_that_fails_ends_the_run_before_any_learning() -> None:
    meta = trainer(eval_tasks=[exits_in_some(1, 0)[0]], eval_freq=1)
    with pytest.raises(RuntimeError, match="evaluation task quadratic-0 failed: SystemExit: no licence"):
        meta.learn(1)
    assert meta.meta_step == 0 and not meta.history


# -- evaluation, callbacks, logs -------------------------------------------------------------------


def test_an_evaluation_task_without_a_curve_decides_nothing(caplog: Any) -> None:
    @dataclass(frozen=True)
    class Endless(Quadratic):
        def run(self, job: Job, report: Report) -> TaskResult:
            result = super().run(job, report)
            result.curve = LearningCurve(np.array([]), np.array([]), self.steps)
            return result

    meta = trainer(eval_tasks=[Endless(1), Quadratic(3)], eval_freq=1).learn(2)
    alone = trainer(eval_tasks=[Quadratic(1), Quadratic(3)], eval_freq=1).learn(2)
    assert meta.best_initialization is not None and math.isfinite(meta.best_score)
    assert alone.best_initialization is not None
    said = [r.getMessage() for r in caplog.records if "had no learning curve" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith("quadratic-1 had")


@dataclass(frozen=True)
class AliveAtLast(Quadratic):
    """None of its episodes ends once θ⁰ has moved."""

    def run(self, job: Job, report: Report) -> TaskResult:
        result = super().run(job, report)
        if not same_bits(job.initialization, Quadratics().draw_initialization("all", 0)):
            result.curve = LearningCurve(np.array([]), np.array([]), self.steps, maximize=False)
        return result


@pytest.mark.parametrize("share_scale", [False, True])
def test_a_task_whose_episodes_do_not_end_decides_nothing_now(share_scale: bool, caplog: Any) -> None:
    """An agent that stays alive ends none: the others decide, in the units that they have in common."""
    bests = []
    for tasks in ([Quadratic(3), AliveAtLast(1)], [Quadratic(3)]):
        family = Quadratics()
        family.tasks, family.share_scale = tasks, share_scale
        meta = trainer(eval_tasks=family, eval_freq=1).learn(2)
        bests.append(meta)
    mixed, alone = bests
    assert mixed.best_initialization is not None and alone.best_initialization is not None
    assert same_bits(mixed.best_initialization, alone.best_initialization)
    assert not same_bits(mixed.best_initialization, trainer().initialization)
    if not share_scale:
        assert mixed.best_score == pytest.approx(alone.best_score)
    said = [r.getMessage() for r in caplog.records if "no episode of quadratic-1 ended" in r.getMessage()]
    assert len(said) == 2


@pytest.mark.parametrize("share_scale", [False, True])
def test_a_run_that_goes_on_judges_as_before(share_scale: bool, tmp_path: Path) -> None:
    def family() -> Quadratics:
        tasks = Quadratics(3)
        tasks.share_scale = share_scale
        return tasks

    whole = trainer(eval_tasks=family(), eval_freq=1).learn(2)
    trainer(eval_tasks=family(), eval_freq=1, run_dir=tmp_path).learn(1)
    resumed = MetaTrainer.load(tmp_path, Quadratics(), eval_tasks=family(), engine=InProcess()).learn(1)
    assert resumed.best_score == whole.best_score
    assert whole.best_initialization is not None and resumed.best_initialization is not None
    assert same_bits(whole.best_initialization, resumed.best_initialization)


@pytest.mark.parametrize("stop_at", [2, 3, None])
def test_the_last_meta_step_is_evaluated_whoever_ends_training(stop_at: int | None, tmp_path: Path) -> None:
    def stop(locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
        return locals_["self"].meta_step != stop_at

    meta = trainer(eval_tasks=[Quadratic(1)], eval_freq=3, run_dir=tmp_path, tensorboard_log=tmp_path / "tb")
    meta.learn(4, callback=stop)
    evaluated = [step for step, _ in read_tensorboard(tmp_path / "tb" / "Leap_1")["eval/gain"]]
    assert evaluated == {2: [0, 2], 3: [0, 3], None: [0, 3, 4]}[stop_at]
    assert MetaTrainer.load(tmp_path, Quadratics(), eval_tasks=[Quadratic(1)]).best_score == meta.best_score


def test_tensorboard_means_are_over_all_visits(tmp_path: Path) -> None:
    """A task may be visited twice in a meta batch."""
    meta = trainer(tasks=Quadratics(1), meta_batch_size=3, sampling="with_replacement", tensorboard_log=tmp_path)
    meta.learn(1)
    areas = [row["area"] for row in meta.history[0]["tasks"]]
    assert len(set(areas)) == 3
    logged = read_tensorboard(tmp_path / "Leap_1")
    assert logged["area/mean"][0][1] == logged["area/task/quadratic-0"][0][1] == pytest.approx(np.mean(areas))


def test_a_visit_that_diverged_has_no_area(tmp_path: Path) -> None:
    class Late(Quadratic):
        """Diverges in its first visit, after some values."""

        def run(self, job: Job, report: Report) -> TaskResult:
            result = super().run(job, report)
            result.status = "ok" if meta[0].meta_step else "non_finite"
            return result

    family = Quadratics(3)
    family.tasks[1] = Late(1)
    meta = [trainer(tasks=family, meta_batch_size=3)]
    meta[0].learn(2)
    first, second = ({row["name"]: row for row in step["tasks"]}["quadratic-1"] for step in meta[0].history)
    assert math.isnan(first["area"]) and math.isnan(first["final_score"])
    assert math.isfinite(second["area"]) and math.isnan(second["gain"])  # which is its first


def test_a_visit_that_diverged_is_kept_as_such(tmp_path: Path) -> None:
    """Its curve and its gradient are NaN; the same seed would diverge again."""
    diverging = Quadratics(4, diverging=(1,))
    whole = trainer(tasks=diverging, meta_batch_size=4).learn(2)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    class Late(InProcess):
        def outcomes(self, jobs: Any, waiting: Any, on_progress: Any) -> Any:
            for number, outcome in enumerate(super().outcomes(jobs, waiting, on_progress)):
                if number == 3:
                    interrupt()
                yield outcome

    with pytest.raises(KeyboardInterrupt):
        trainer(tasks=diverging, meta_batch_size=4, run_dir=tmp_path, engine=Late()).learn(2)
    assert len(list((tmp_path / "running").glob("task-*"))) == 3
    resumed = MetaTrainer.load(tmp_path, diverging, engine=InProcess()).learn(2)
    assert same_bits(whole.initialization, resumed.initialization)
    assert [[row["status"] for row in step["tasks"]] for step in whole.history] == [
        [row["status"] for row in step["tasks"]] for step in resumed.history
    ]


def test_what_a_callback_changes_is_in_the_checkpoint_of_its_step(tmp_path: Path) -> None:
    class Halve(MetaCallback):
        def _on_step(self) -> None:  # type: ignore[override]  # nothing returned goes on
            half = self.trainer.initialization
            half.parameters = {name: tensor / 2 for name, tensor in half.parameters.items()}
            self.trainer.initialization = half
            self.trainer.logger.record("mine", self.trainer.meta_step)

    whole = trainer().learn(3, callback=Halve())
    trainer(run_dir=tmp_path / "run", tensorboard_log=tmp_path / "tb").learn(2, callback=Halve())
    resumed = MetaTrainer.load(tmp_path / "run", Quadratics(), engine=InProcess()).learn(1, callback=Halve())
    assert whole.meta_step == 3 and same_bits(whole.initialization, resumed.initialization)
    assert read_tensorboard(tmp_path / "tb" / "Leap_1")["mine"][:2] == [(1, 1.0), (2, 2.0)]


def test_numbers_of_numpy_are_taken(tmp_path: Path) -> None:
    class Scored(Quadratic):
        def run(self, job: Job, report: Report) -> TaskResult:
            result = super().run(job, report)
            scores = {"test_error": np.float64(0.5), "n": np.int64(3)}
            return replace(result, steps=np.int64(result.steps), seconds=np.float32(0.5), scores=scores)  # type: ignore[arg-type]

    family = Quadratics(2)
    family.tasks = [Scored(0), Scored(1)]
    trainer(tasks=family, run_dir=tmp_path).learn(2)
    resumed = MetaTrainer.load(tmp_path, family, engine=InProcess()).learn(1)
    assert resumed.history[0]["tasks"][0]["test_error"] == 0.5
    with pytest.raises(ValueError, match="scores has 'error', which says something else of every visit"):
        TaskResult("task", LearningCurve(np.array([]), np.array([]), 1), 1, 1.0, scores={"error": 0.5})


def test_a_folder_of_somebody_is_not_taken_for_results(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "log.txt").write_text("years")
    with pytest.raises(ValueError, match="running is no run's, and would be removed: choose another run_dir"):
        trainer(run_dir=tmp_path).learn(1)
    assert (tmp_path / "running" / "log.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learner": Leap}, r"is no meta-learner: give one, such as Leap\(\)"),
        ({"initialization": "mine"}, "initialization='mine' is none: Initialization.load gives that of a folder"),
        ({"device": "gpu"}, "device='gpu' is none .* give auto, cpu or cuda"),
    ],
)
def test_what_is_none_is_refused_before_anything_runs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**given)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("mine", "callback='mine' must be a callback, a function, or a list of them"),
        (CheckpointCallback(1, "x"), "CheckpointCallback is for an agent that learns.*: run_dir and keep_every keep"),
        ([EveryNTimesteps(1, CheckpointCallback(1, "x"))], "CheckpointCallback is for an agent that learns"),
        (CallbackList([CheckpointCallback(1, "x")]), "CheckpointCallback is for an agent that learns"),
    ],
)
def test_callbacks_that_need_an_agent_are_refused_before_anything_runs(callback: Any, message: str) -> None:
    meta = trainer()
    with pytest.raises(ValueError, match=message):
        meta.learn(1, callback=callback)
    assert meta.meta_step == 0


def test_what_a_callback_of_ones_own_holds_is_its_own() -> None:
    class Mine(MetaCallback):
        callback, callbacks, steps = "a name", ["others"], 0

        def _on_step(self) -> None:  # type: ignore[override]
            self.steps += 1

    mine = Mine()
    trainer().learn(2, callback=mine)
    assert mine.steps == 2


def test_a_list_of_sb3_ends_where_one_of_its_callbacks_says_so() -> None:
    class Stops(MetaCallback):
        def _on_step(self) -> bool:
            return False

    class Says(MetaCallback):
        def _on_step(self) -> None:  # type: ignore[override]
            return None

    assert trainer().learn(3, callback=CallbackList([Stops(), Says()])).meta_step == 1  # type: ignore[list-item]


def test_reading_a_run_leaves_what_another_is_writing(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).learn(1)
    half = tmp_path / "checkpoints" / ".000002-unfinished-x"
    half.mkdir()
    with run_lock(tmp_path / "checkpoints", "another"):
        read = MetaTrainer.load(tmp_path, Quadratics(), engine=InProcess())
        assert half.is_dir()
    read.learn(1)
    assert not half.exists()


def test_the_best_initialization_is_the_one_that_evaluation_liked_best(tmp_path: Path) -> None:
    class Keep(MetaCallback):
        def _on_step(self) -> bool:
            kept.append((self.trainer.best_score, self.trainer.initialization))
            return True

    # A rate this high overshoots: the last θ⁰ is not the best one.
    meta = trainer(
        meta_optimizer_class=torch.optim.SGD,
        meta_optimizer_kwargs={"lr": 0.06},
        eval_tasks=[Quadratic(1), Quadratic(3)],
        eval_freq=1,
        run_dir=tmp_path,
    )
    kept: list[tuple[float, Initialization]] = [(0.0, meta.initialization)]  # of the first evaluation, by definition
    meta.learn(8, callback=Keep())
    assert meta.best_initialization is not None
    assert same_bits(meta.best_initialization, Initialization.load(tmp_path / "best_initialization"))
    improved = [i for i in range(1, len(kept)) if kept[i][0] > kept[i - 1][0]]
    assert improved and improved[-1] < 8
    assert same_bits(meta.best_initialization, kept[improved[-1]][1])

    def mean_area(start: Initialization) -> float:
        jobs = [Job(t, start, NoPretraining(), meta.settings.evaluation_seed(i)) for i, t in enumerate(meta.eval_tasks)]
        return float(np.mean([j.task.run(j, lambda *_: None).curve.area() for j in jobs]))

    assert mean_area(meta.best_initialization) < mean_area(trainer().initialization)


def test_a_task_that_scored_nothing_at_first_decides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Relative to 0 any score would be all that counts."""
    tasks = [Quadratic(1), Quadratic(2)]
    judge = BestInitialization(tasks)

    def result(task: Quadratic, area: float) -> TaskResult:
        return TaskResult(task.name, LearningCurve(np.array([1]), np.array([area]), 10), 10, 1.0)

    def judged(*areas: float) -> tuple[float, bool]:
        results = [result(task, area) for task, area in zip(tasks, areas, strict=True)]
        return judge.judge(Quadratics().draw_initialization("all", 0), results)[1:]

    assert judged(0.0, 20.0) == (0.0, True)
    assert "scored nothing, so it won't decide which" in caplog.text
    assert judged(0.02, 2.0) == (pytest.approx(-0.9), False)
    assert judged(0.0, 60.0) == (pytest.approx(2.0), True)


def test_of_tasks_of_one_scale_the_mean_decides() -> None:
    """Else one that was hardly learned at first would count more than all others."""
    tasks = Quadratics()
    tasks.share_scale = True
    judge = BestInitialization(tasks)

    def judged(*areas: float) -> tuple[float, bool]:
        results = [
            TaskResult(task.name, LearningCurve(np.array([1]), np.array([area]), 10), 10, 1.0)
            for task, area in zip(tasks, areas, strict=False)
        ]
        return judge.judge(Quadratics().draw_initialization("all", 0), results)[1:]

    first = [0.0, 0.01, *[0.59 / (len(tasks) - 2)] * (len(tasks) - 2)]
    assert judged(*first) == (0.0, True)
    score, is_best = judged(0.3, *first[1:])
    assert score == pytest.approx(0.5) and is_best
    assert not judged(0.0, 0.2, *first[2:])[1]  # twentyfold, of nearly nothing
    judge = BestInitialization(tasks)
    assert judged(*[0.0] * len(tasks)) == (0.0, True) and judged(0.5, *[0.0] * (len(tasks) - 1))[1]


def test_the_average_is_of_all_from_one_meta_step_on_and_changes_none_of_them(tmp_path: Path) -> None:
    class Judge(Quadratic):
        def run(self, job: Job, report: Report) -> TaskResult:
            judged.append(job.initialization)
            return super().run(job, report)

    class Keep(MetaCallback):
        def _on_step(self) -> bool:
            current = self.trainer._current().parameters
            kept.append(torch.cat([t.flatten() for t in current.values()]).double())
            handed_out.append(self.trainer.initialization)
            return True

    kept: list[torch.Tensor] = []
    handed_out: list[Initialization] = []
    judged: list[Initialization] = []
    trainer(average_from=3, run_dir=tmp_path, eval_tasks=[Judge(1)], eval_freq=1).learn(4, callback=Keep())
    resumed = MetaTrainer.load(tmp_path, Quadratics(), eval_tasks=[Judge(1)], engine=InProcess())
    resumed.learn(3, callback=Keep())
    last = trainer().learn(7)
    for step, found in enumerate(handed_out, start=1):
        flat = torch.cat([t.flatten() for t in found.parameters.values()]).double()
        expected = kept[step - 1] if step < 3 else torch.stack(kept[2:step]).mean(dim=0)
        torch.testing.assert_close(flat, expected, rtol=1e-6, atol=1e-7)
        assert found.config.get("averaged_from") == (3 if step >= 3 else None)
    assert same_bits(resumed._current(), last.initialization) and not same_bits(
        resumed.initialization, last.initialization
    )
    assert all(map(same_bits, judged[1:], handed_out))  # what is handed out is what is judged
    with pytest.raises(ValueError, match="average_from=0 must be at least 1"):
        trainer(average_from=0)


def test_sb3_callbacks_work_and_can_stop() -> None:
    class Sb3(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[str] = []

        def _on_training_start(self) -> None:
            self.events.append("start")

        def _on_rollout_start(self) -> None:
            self.events.append("batch")

        def _on_rollout_end(self) -> None:
            self.events.append("ran")

        def _on_step(self) -> bool:
            self.events.append(f"step {self.num_timesteps}")
            self.logger.record("mine", 1.0)
            return self.n_calls < 2

        def _on_training_end(self) -> None:
            self.events.append("end")

    callback = Sb3()
    trainer().learn(10, callback=[callback, lambda locals_, globals_: True])
    assert callback.events == ["start", "batch", "ran", "step 24", "batch", "ran", "step 48", "end"]


def read_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def test_tensorboard_holds_what_is_promised(tmp_path: Path) -> None:
    meta = trainer(tasks=Quadratics(2), tensorboard_log=tmp_path, eval_tasks=[Quadratic(7)], eval_freq=2, seed=0).learn(
        3
    )
    tags = read_tensorboard(tmp_path / "Leap_1")
    for mean, each in {
        "area/mean": "area/task",
        "final_score/mean": "final_score/task",
        "path/length": "path/length",
    }.items():
        for name in (mean, f"{each}/quadratic-0", f"{each}/quadratic-1"):
            assert [step for step, _ in tags[name]] == [1, 2, 3], name
    assert min(tags) == "area/gain", "what TensorBoard shows first"
    areas = [[row["area"] for row in step["tasks"]] for step in meta.history]
    for (step, gain), now in zip(tags["area/gain"], areas[1:], strict=True):
        first = dict(zip((row["name"] for row in meta.history[0]["tasks"]), areas[0], strict=True))
        names = [row["name"] for row in meta.history[step - 1]["tasks"]]
        gains = [(first[name] - area) / abs(first[name]) for name, area in zip(names, now, strict=True)]  # of losses
        assert gain == pytest.approx(sum(gains) / 2, rel=1e-6)
    for key in ("path/top_share", "path/loss_to_step", "meta/gradient_norm", "meta/cosine", "meta/change/weight"):
        assert len(tags[key]) == 3, key
    assert tags["time/total_timesteps"] == [(1, 24), (2, 48), (3, 72)]
    assert [s for s, _ in tags["eval/area/quadratic-7"]] == [0, 2, 3]  # after the last meta step, too
    assert all(-1 <= value <= 1 for _, value in tags["meta/cosine"])
    # A run per task, its visits one after the other.
    assert [s for s, _ in read_tensorboard(tmp_path / "Leap_1" / "quadratic-0")["train/loss"]] == [12, 24, 36]
    meta.learn(1)
    assert trainer(tensorboard_log=tmp_path).learn(1) and (tmp_path / "Leap_2").is_dir()


def test_a_run_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer(run_dir="before", tensorboard_log="before/tensorboard").learn(1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "before").rename(tmp_path / "elsewhere" / "after")
    monkeypatch.chdir(tmp_path / "elsewhere")
    MetaTrainer.load("after", Quadratics(), engine=InProcess()).learn(1)
    assert [s for s, _ in read_tensorboard(Path("after/tensorboard/Leap_1"))["meta/gradient_norm"]] == [1, 2]
    assert [p.name for p in tmp_path.rglob("*") if p.name in ("before", "after")] == ["after"]


def test_sb3s_logger_is_a_logger(tmp_path: Path) -> None:
    meta = trainer()
    logger = Logger(None, [])
    meta.set_logger(logger)
    meta.learn(1)
    assert meta.logger is logger


def test_verbose_prints_a_line_per_meta_step_and_no_bar_without_a_terminal(capfd: Any) -> None:
    trainer(verbose=1).learn(2, progress_bar=True)
    out, err = capfd.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["meta step 1", "meta step 2"]
    assert err == ""


def test_the_progress_bar_is_nested(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the output for a terminal
    monkeypatch.setenv("COLUMNS", "100")

    class Slow(InProcess):
        def outcomes(self, jobs: Any, waiting: Any, on_progress: Any) -> Any:
            while waiting:
                index = waiting.popleft()
                job = jobs[index]
                on_progress(index, 5)
                meta._progress._progress.refresh()
                yield index, job.task.run(job, lambda n, index=index: on_progress(index, n))

    meta = trainer(engine=Slow())
    meta.learn(2, progress_bar=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capfd.readouterr().err)
    assert re.search(r"meta step 1 of 2 .* 5/48", shown)
    assert re.search(r"  quadratic-\d .* 5/12", shown)
    assert re.search(r"meta step 2 of 2 .* 48/48", shown)


# -- save and load ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop, None])
def test_loading_goes_on_to_the_same_bits(tmp_path: Path, optimizer: Any) -> None:
    def new(run_dir: Path | None) -> MetaTrainer:
        kwargs = {} if optimizer is None else {"lr": 0.05}
        if optimizer is torch.optim.SGD:
            kwargs["momentum"] = 0.9
        return trainer(
            Leap(metric="length", loss_scale=0.5),
            meta_optimizer_class=optimizer,
            meta_optimizer_kwargs=kwargs,
            run_dir=run_dir,
            sampling="reshuffle",
            eval_tasks=[Quadratic(1)],
            eval_freq=1,
        )

    whole = new(None).learn(2).learn(3)
    new(tmp_path).learn(2)
    resumed = MetaTrainer.load(tmp_path, Quadratics(), eval_tasks=[Quadratic(1)], engine=InProcess())
    assert resumed.meta_step == 2 and resumed.learner == whole.learner
    resumed.learn(3)
    assert same_bits(whole.initialization, resumed.initialization)
    assert whole.best_initialization is not None and resumed.best_initialization is not None
    assert same_bits(whole.best_initialization, resumed.best_initialization)
    assert [[r["area"] for r in h["tasks"]] for h in whole.history] == [
        [r["area"] for r in h["tasks"]] for h in resumed.history
    ]
    assert whole.initialization.config == resumed.initialization.config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learner": Reptile()}, "was trained by .*Leap.*, not .*Reptile"),
        ({"meta_optimizer_class": torch.optim.Adam}, "was trained with .SGD., not Adam"),
        ({"meta_optimizer_kwargs": {"lr": 0.01}}, "was trained with lr=0.5 of the meta optimizer, not 0.01"),
    ],
)
def test_a_run_goes_on_as_it_began(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    sgd = {"meta_optimizer_class": torch.optim.SGD, "meta_optimizer_kwargs": {"lr": 0.5}}
    trainer(run_dir=tmp_path, **sgd).learn(1)
    with pytest.raises(CheckpointError, match=message):
        MetaTrainer.load(tmp_path, Quadratics(), **given)
    MetaTrainer.load(tmp_path, Quadratics(), learner=Leap(metric="length"), **sgd)
    trainer(run_dir=tmp_path / "adam", meta_optimizer_kwargs={"lr": 0.1, "betas": (0.9, 0.99)}).learn(1)
    MetaTrainer.load(tmp_path / "adam", Quadratics(), meta_optimizer_kwargs={"betas": (0.9, 0.99)})
    longer = Quadratics()
    longer.tasks = [Quadratic(i, steps=13) for i in range(5)]
    with pytest.raises(CheckpointError, match="of other budgets than"):
        MetaTrainer.load(tmp_path, longer)
    otherwise = Quadratics()
    otherwise.config = {"preprocessing": "newer"}
    with pytest.raises(CheckpointError, match="was trained with preprocessing 'older', not 'newer'"):
        MetaTrainer.load(tmp_path, otherwise)


def test_an_initialization_names_the_versions_that_it_was_learned_with(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).learn(1)
    newer = Quadratics()
    newer.config["versions"] = {"library": "2"}
    loaded = MetaTrainer.load(tmp_path, newer, engine=InProcess())
    known = loaded.initialization.config["versions"]
    assert known["library"] == "1" and known["torch"] == version("torch") and "leap-rl" in known
    assert loaded.learn(1).initialization.config["versions"] == known | {"library": "2"}


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).learn(1)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("[!.]*") if p.is_file()}
    states = {f"checkpoints/00000{i}/state.{kind}" for i in (0, 1) for kind in ("json", "safetensors")}
    assert files == {"run.json"} | states
    assert json.loads((tmp_path / "checkpoints" / "000001" / "state.json").read_text())["name"] == "000001"


def test_the_last_checkpoints_stay_and_every_nth(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path, keep_checkpoints=2, keep_every=3).learn(7)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("[!.]*")) == ["000000", "000003", "000006", "000007"]


def test_a_run_folder_is_not_begun_twice(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).learn(1)
    with pytest.raises(ValueError, match="holds a run already"):
        trainer(run_dir=tmp_path)


def test_a_folder_that_takes_no_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't be written to"):
        trainer(run_dir=tmp_path / "file" / "run")
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="MB free"):
        trainer(run_dir=tmp_path / "run")


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign", "future", "no json"])
def test_checkpoints_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    trainer(run_dir=tmp_path).learn(1)
    folder = tmp_path / "checkpoints" / "000001"
    state, tensors = folder / "state.json", folder / "state.safetensors"
    if damage == "missing":
        tensors.unlink()
    elif damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "foreign":
        state.write_text("{}")
    elif damage == "future":
        state.write_text(json.dumps({**json.loads(state.read_text()), "format_version": 99}))
    else:
        state.write_text("{")
    before = tmp_path / "checkpoints" / "000000"
    with pytest.raises(CheckpointError, match=f"{before} is whole: remove {folder} to go on from it"):
        MetaTrainer.load(tmp_path, Quadratics())
    shutil.rmtree(folder)  # as the message advises
    assert MetaTrainer.load(tmp_path, Quadratics()).meta_step == 0


def test_the_checkpoint_to_go_on_from_is_one_that_is_whole(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).learn(2)
    folders = [tmp_path / "checkpoints" / f"00000{i}" for i in range(3)]
    for folder in folders[1:]:
        (folder / "state.json").write_text("{}")
    remove = f"{folders[0]} is whole: remove {folders[2]} and {folders[1]} to go on from it"
    with pytest.raises(CheckpointError, match=f"{folders[2]} is no checkpoint of leap_rl. {remove}"):
        MetaTrainer.load(tmp_path, Quadratics())
    (folders[0] / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No other checkpoint is whole: begin again in another folder"):
        MetaTrainer.load(tmp_path, Quadratics())


def test_of_a_long_error_head_and_tail_are_kept(tmp_path: Path) -> None:
    class Verbose(InProcess):
        def outcomes(self, jobs: Any, waiting: Any, on_progress: Any) -> Any:
            for index, outcome in super().outcomes(jobs, waiting, on_progress):
                yield index, RuntimeError(f"it began {'x' * 10**6} it ended") if index == 0 else outcome

    trainer(engine=Verbose(), meta_batch_size=3, run_dir=tmp_path).learn(1)
    (row,) = (r for r in MetaTrainer.load(tmp_path, Quadratics()).history[0]["tasks"] if r["status"] == "failed")
    assert "it began x" in row["error"] and row["error"].endswith("x it ended")
    assert "characters ...]" in row["error"] and 3900 < len(row["error"]) < 4100


def test_a_checkpoint_of_other_tasks_is_refused(tmp_path: Path) -> None:
    trainer(run_dir=tmp_path).learn(1)
    with pytest.raises(CheckpointError, match="was trained with tasks"):
        MetaTrainer.load(tmp_path, Quadratics(4))


def test_a_schedule_must_be_given_again(tmp_path: Path) -> None:
    schedule = {"lr": lambda remaining: 0.1 * remaining}
    trainer(run_dir=tmp_path, meta_optimizer_class=torch.optim.SGD, meta_optimizer_kwargs=schedule).learn(1)
    with pytest.raises(CheckpointError, match="schedule"):
        MetaTrainer.load(tmp_path, Quadratics())
    MetaTrainer.load(tmp_path, Quadratics(), meta_optimizer_kwargs=schedule)


def test_saving_needs_a_folder() -> None:
    with pytest.raises(ValueError, match="run_dir"):
        trainer().save()


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"meta_batch_size": 6}, r"meta_batch_size=6, but there are 5 tasks"),
        ({"meta_batch_size": 0}, "at least 1"),
        ({"sampling": "replacement"}, "with_replacement"),
        ({"scope": "encoder"}, "'encoder' matches no parameter"),
        ({"eval_freq": 2}, "eval_tasks"),
        ({"eval_tasks": [Quadratic(0)]}, "eval_freq=0"),
        ({"learner": NoPretraining()}, "learns nothing"),
        ({"learner": SequentialFinetuning()}, "meta_batch_size must be 1"),
        (
            {"learner": SequentialFinetuning(), "meta_batch_size": 1, "meta_optimizer_class": torch.optim.Adam},
            "no meta optimizer",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**arguments)


def test_more_tasks_than_there_are_with_replacement() -> None:
    trainer(meta_batch_size=7, sampling="with_replacement").learn(1)


def test_meta_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="meta_steps=0"):
        trainer().learn(0)


def test_an_initialization_for_another_network_is_refused() -> None:
    with pytest.raises(InitializationError, match=r"weight \(4, 3\): the model has \(3, 3\)"):
        trainer(initialization=Initialization.of(nn.Linear(3, 4)))
    with pytest.raises(InitializationError, match="scope"):
        trainer(initialization=Initialization(Initialization.of(point(0)).parameters, "encoder"))


def test_a_given_initialization_is_where_training_starts() -> None:
    start = Initialization.of(point(9))
    assert same_bits(trainer(initialization=start).initialization, start)
    first = trainer().learn(1).initialization
    second = trainer(initialization=first).learn(2).initialization
    before = second.config["started_from"]
    assert before["sha256"] == first.sha256 and second.config["timesteps"] == 2 * before["timesteps"]
    assert "started_from" not in before and before["meta_steps"] == 1
