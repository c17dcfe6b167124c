"""
Hours of meta-training under random faults, beside the same meta-training undisturbed: what is used must stay flat, and
θ⁰ must have the same bits.

    python benchmarks/soak.py --hours 6              # the same command goes on where it was ended
    python benchmarks/soak.py --hours 0.1 --run-dir soak

Tasks are CartPoles, learned by A2C in two worker processes. Of every hundred visits some raise, hang, end their worker
or are not finite. Besides, the trainer and its workers are killed and stopped, its files can't be written, and its
clock jumps. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
N_TASKS, META_BATCH, STEPS = 12, 4, 800
TASK_TIMEOUT = 90.0
SAMPLE_SECONDS = 30.0
FAULT_SECONDS = (10.0, 60.0)
EARLY = 0.2
"""Share of the faults that come whether or not the run went on after the last one, so in its start, too."""
FAULTS = ("kill the trainer", "kill a worker", "stop the trainer", "stop a worker", "no room", "Ctrl-C")


def tasks_of(faults: Path | None, left_out: frozenset[int] = frozenset()) -> Any:
    """
    :param faults: folder in which each fault that a visit had is noted, so that it has it once; ``None``: it has none
    :param left_out: seeds of visits that always fail
    """
    from stable_baselines3 import A2C

    from leap_rl.agents import EnvTasks
    from leap_rl.core import Task, TaskFamily

    @dataclass(frozen=True)
    class Faulty(Task):
        """A task whose visits, by their seeds, fail when they are first tried, or are never finite."""

        task: Any
        faults: Path | None

        @property
        def name(self) -> str:  # type: ignore[override]
            return self.task.name

        @property
        def steps(self) -> int:  # type: ignore[override]
            return self.task.steps

        def run(self, job: Any, report: Any) -> Any:
            if job.seed in left_out:
                raise ValueError("left out")
            kind = np.random.default_rng(job.seed).integers(100)
            if self.faults is not None and kind < 12:
                note = self.faults / str(job.seed)
                if not note.exists():
                    note.touch()
                    self.fail(int(kind))
            result = self.task.run(job, report)
            if kind == 99:
                result.status, result.meta_gradient = "non_finite", None
            return result

        @staticmethod
        def fail(kind: int) -> None:
            if kind < 3:
                raise ValueError("of a task's own")
            if kind < 6:
                os._exit(3)
            if kind < 8:
                time.sleep(600)
            if kind < 10:
                _children = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
                raise MemoryError
            os.kill(os.getpid(), signal.SIGSEGV)

    envs = {f"cartpole-{i}": "CartPole-v1" for i in range(N_TASKS)}
    family = EnvTasks(A2C, "MlpPolicy", envs, STEPS, n_envs=4, algorithm_kwargs={"n_steps": 5})

    class FaultyTasks(TaskFamily):
        def __len__(self) -> int:
            return len(family)

        def __getitem__(self, index: int) -> Faulty:  # type: ignore[override]
            return Faulty(family[index], faults)

        def check_learner(self, learner: Any) -> None:
            family.check_learner(learner)

        def draw_initialization(self, scope: str | None, seed: int) -> Any:
            return family.draw_initialization(scope, seed)

    return FaultyTasks()


def train(folder: Path, meta_steps: int, disturbed: bool, left_out: frozenset[int] = frozenset()) -> None:
    """Until it is ended, or has made so many meta steps; goes on with what is there."""
    from leap_rl.core import Leap, MetaTrainer, Workers

    if disturbed:
        _jump_through_time()
    faults = folder / "faults" if disturbed else None
    if faults is not None:
        faults.mkdir(parents=True, exist_ok=True)
    tasks, engine = tasks_of(faults, left_out), Workers(2, TASK_TIMEOUT)
    run = folder / "run"
    if (run / "checkpoints").is_dir():
        trainer = MetaTrainer.load(run, tasks, engine=engine)
    else:
        trainer = MetaTrainer(
            tasks, Leap(), META_BATCH, engine=engine, run_dir=run, tensorboard_log=run / "tensorboard", seed=0
        )
    print("begun", flush=True)

    def note(local: Any, _: Any) -> None:
        with (folder / "theta.jsonl").open("a") as file:
            file.write(json.dumps([trainer.meta_step, trainer.initialization.sha256]) + "\n")

    if trainer.meta_step < meta_steps:
        trainer.learn(meta_steps - trainer.meta_step, callback=note)


def _jump_through_time() -> None:
    """What the clock says jumps by days, back and forth, as of a machine whose clock is set."""
    real, rng = time.time, random.Random()
    offset = 0.0

    def jumping() -> float:
        nonlocal offset
        if rng.random() < 0.01:
            offset = rng.uniform(-3, 3) * 86_400
        return real() + offset

    time.time = jumping


# -- the supervisor --------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def family_of(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children_of(pid) for below in family_of(child))]


def sample(pid: int, folder: Path) -> dict[str, float]:
    """What the trainer and its workers use now, and what lies on disk."""
    status = Path(f"/proc/{pid}/status").read_text()
    value = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    workers = []
    for other in family_of(pid)[1:]:
        with suppress(OSError):
            workers.append(int(Path(f"/proc/{other}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6)
    files = [file for file in (folder / "run").rglob("*") if file.is_file() and "tensorboard" not in file.parts]
    sizes = []
    for file in files:
        with suppress(OSError):
            sizes.append(file.stat().st_size)
    return {
        "trainer MB": int(value["VmRSS"]) / 1e3,
        "threads": int(value["Threads"]),
        "open files": len(os.listdir(f"/proc/{pid}/fd")),
        "processes": 1 + len(workers),
        "largest worker MB": max(workers, default=0.0),
        "files on disk": len(files),
        "MB on disk": sum(sizes) / 1e6,
    }


def disturb(trainer: subprocess.Popen[str], rng: random.Random) -> str:
    """:return: what was done"""
    fault, pid = rng.choice(FAULTS), trainer.pid
    workers = family_of(pid)[1:]
    if fault == "kill the trainer":
        os.kill(pid, signal.SIGKILL)
    elif fault == "Ctrl-C":
        os.kill(pid, signal.SIGINT)
    elif fault == "no room":
        # Every write beyond so many bytes of a file fails, for a while.
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, hard))
        time.sleep(rng.uniform(1, 10))
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    else:
        victim = pid if fault == "stop the trainer" else rng.choice(workers or [pid])
        with suppress(ProcessLookupError):
            if fault == "kill a worker" and victim != pid:
                os.kill(victim, signal.SIGKILL)
            else:
                os.kill(victim, signal.SIGSTOP)
                time.sleep(rng.uniform(1, 10))
                os.kill(victim, signal.SIGCONT)
    return fault


def meta_steps(folder: Path) -> int:
    """How many the disturbed run has made."""
    made = folder / "theta.jsonl"
    return made.read_text().count("\n") if made.exists() else 0


def soak(folder: Path, hours: float) -> None:
    """Supervise the disturbed run for so long in all."""
    folder.mkdir(parents=True, exist_ok=True)
    log, rng = folder / "soak.jsonl", random.Random()
    before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    seconds = before[-1]["seconds"] if before else 0.0
    rest = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--train", str(folder)]
    trainer: subprocess.Popen[str] | None = None
    looked_at = sampled_at = time.monotonic()
    next_fault, at_fault, goes_on = looked_at + rng.uniform(*FAULT_SECONDS), meta_steps(folder), True
    with log.open("a") as file:
        while seconds < hours * 3600:
            if trainer is None or trainer.poll() is not None:
                output = (folder / "trainer.log").open("a")
                trainer = subprocess.Popen(command, stdout=output, stderr=output, text=True, env=rest, cwd=ROOT)
            time.sleep(0.5)
            now = time.monotonic()
            seconds, looked_at = seconds + now - looked_at, now
            goes_on = goes_on or meta_steps(folder) > at_fault
            entry: dict[str, Any] = {}
            with suppress(OSError, KeyError, ProcessLookupError):
                if now > next_fault and goes_on:
                    entry = {"fault": disturb(trainer, rng)}
                    # Most faults wait for a meta step after the last one: on a busy machine none would ever be made.
                    next_fault, at_fault = now + rng.uniform(*FAULT_SECONDS), meta_steps(folder)
                    goes_on = rng.random() < EARLY
                elif now - sampled_at > SAMPLE_SECONDS:
                    sampled_at = now
                    entry = sample(trainer.pid, folder)
            if entry:
                file.write(json.dumps({"seconds": seconds, **entry}) + "\n")
                file.flush()
    if trainer is not None:
        trainer.terminate()
        trainer.wait()


def left_out_of(folder: Path) -> frozenset[int]:
    """
    Seeds of the visits that failed twice, by themselves and by a fault from outside, say: the trainer leaves them out,
    and so must the undisturbed run.
    """
    from leap_rl.core.meta_state import MetaState
    from leap_rl.running.checkpoint import Checkpoints

    state = Checkpoints(folder / "run").state(MetaState)
    failed = [
        (step["meta_step"] - 1, state.tasks.index(row["name"]))
        for step in state.history
        for row in step["tasks"]
        if row["status"] == "failed"
    ]
    return frozenset(state.settings.visit_seed(meta_step, task, 0) for meta_step, task in failed)


def report(folder: Path) -> None:
    """What was used in the first and in the last third, and whether the bits are those of the undisturbed run."""
    rows = [json.loads(line) for line in (folder / "soak.jsonl").read_text().splitlines()]
    faults = [row["fault"] for row in rows if "fault" in row]
    samples = [row for row in rows if "threads" in row]
    thetas = dict(json.loads(line) for line in (folder / "theta.jsonl").read_text().splitlines())
    undisturbed = dict(json.loads(line) for line in (folder / "undisturbed" / "theta.jsonl").read_text().splitlines())
    both = sorted(thetas.keys() & undisturbed.keys())
    differing = [step for step in both if thetas[step] != undisturbed[step]]
    print(f"{rows[-1]['seconds'] / 3600:.2f} hours, {max(thetas)} meta steps, {len(faults)} faults from outside:")
    for fault in FAULTS:
        print(f"  {faults.count(fault):5} {fault}")
    print(f"  {len(list((folder / 'faults').iterdir())):5} visits that failed by themselves")
    print(f"θ⁰: {len(both)} meta steps compared, {len(differing)} of them in other bits {differing[:3] or ''}")
    third = max(1, len(samples) // 3)
    # Medians are also of how long ago the trainer was last started; what leaks shows in what is largest.
    print("\n| | median, first third | last third | largest, first third | last third |\n|---|---|---|---|---|")
    for key in [key for key in samples[0] if key != "seconds"]:
        parts = [[row[key] for row in part] for part in (samples[:third], samples[-third:])]
        cells = [f"{of(part):,.1f}" for of in (np.median, max) for part in parts]
        print(f"| {key} | {' | '.join(cells)} |")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--hours", type=float, default=6.0, help="in all, over the times that it was ended")
    cli.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "soak")
    cli.add_argument("--train", type=Path, help="the disturbed run itself, which the supervisor starts")
    args = cli.parse_args()
    if args.train is not None:
        train(args.train, 10**6, disturbed=True)
        return
    folder = args.run_dir.absolute()
    soak(folder, args.hours)
    made = max(json.loads(line)[0] for line in (folder / "theta.jsonl").read_text().splitlines())
    (folder / "undisturbed").mkdir(exist_ok=True)
    torch.set_num_threads(1)  # as the supervisor has it: a random θ⁰ has other bits with two
    left_out = left_out_of(folder)
    train(folder / "undisturbed", made, disturbed=False, left_out=left_out)
    print(f"{len(left_out)} visits failed twice and were left out, of the undisturbed run as well")
    report(folder)


if __name__ == "__main__":
    main()
