"""``leap-rl meta-train --dry-run``: what a meta-training will do, and what it costs."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from datetime import timedelta

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from leap_rl.agents.observed import default_arguments
from leap_rl.commands.meta_train import make_trainer, training_tasks
from leap_rl.commands.tasks import algorithm
from leap_rl.core import Job, Workers
from leap_rl.running.checkpoint import checkpoint_bytes
from leap_rl.settings import AgentSettings, MetaTrainSettings

MEASURED_STEPS = 1_000
PATIENCE = 5  # times as long as a task should take is long enough to say that it hangs


def dry_run(settings: MetaTrainSettings) -> None:
    """
    Print games, steps, updates, disk, and hours at the throughput measured now, for some seconds.

    :raises ValueError: as meta-training would
    """
    settings = dataclasses.replace(settings, engine="local", address=None, gpus_per_task=0.0)  # no cluster is needed
    tasks = training_tasks(settings)
    trainer = make_trainer(settings, tasks, None)
    theta, size, eval_tasks = trainer.initialization, trainer.settings.meta_batch_size, trainer.eval_tasks
    rollout, updates, before = _updates(settings.agent)
    visits = settings.meta_steps * size
    timesteps = math.ceil(settings.timesteps / rollout) * rollout  # rollouts are collected whole
    steps = visits * timesteps
    evaluations = (1 + math.ceil(settings.meta_steps / settings.eval_freq)) * len(eval_tasks)
    eval_steps = evaluations * (settings.eval_timesteps or settings.timesteps)

    names = [task.name for task in tasks]
    shown = names if len(names) <= 25 else [*names[:3], "...", names[-1]]
    print(f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}: {', '.join(shown)}")
    print(f"scope {theta.scope}: {sum(t.numel() for t in theta.parameters.values()):,} parameters")
    print(f"{settings.meta_steps} meta steps × {size} tasks = {visits:,} visits")
    per_visit = math.ceil(max(0, settings.timesteps - before) / rollout) * updates
    print("Steps (papers count some as updates of the network, some as steps of the environment):")
    print(f"  environment steps (what will be run): {timesteps:,} steps = {per_visit:,} updates a visit, ")
    print(f"    {steps:,} steps = {per_visit * visits:,} updates in all")
    other = math.ceil(settings.timesteps / updates) * rollout + before
    print(f"  updates: {settings.timesteps:,} updates = {other:,} steps a visit (--timesteps {other}), ")
    print(f"    {other * visits:,} steps in all")
    if evaluations:
        print(f"{evaluations:,} evaluations: {eval_steps:,} steps")
    kept = settings.keep_checkpoints + (settings.meta_steps // settings.keep_every if settings.keep_every else 0)
    disk = checkpoint_bytes(theta.parameters, kept, size)
    print(f"disk: at most {disk / 1e6:,.0f} MB for checkpoints, and the TensorBoard files")

    engine = Workers(settings.n_workers)
    print(f"Measuring on this machine, {engine.n_workers} processes ...", flush=True)
    short = [dataclasses.replace(task, steps=before + max(MEASURED_STEPS, 2 * rollout)) for task in tasks]
    # Every task, and as many at once as later.
    order = [i % len(short) for i in range(math.ceil(len(short) / engine.n_workers) * engine.n_workers)]
    jobs = [Job(short[i], theta, trainer.learner, n, settings.device) for n, i in enumerate(order)]
    visits_of: dict[int, float] = {}  # seconds
    for number, result in engine.run(jobs, lambda *_: None):
        result.raise_for_status()
        if not result.log:
            raise RuntimeError(f"{result.name} diverges at once: nothing can be measured, try a smaller learning rate")
        # SB3's own rate, which leaves out how long the process took to start.
        elapsed = [(done, done / row["time/fps"]) for done, row in result.log if row.get("time/fps")]
        visits_of[order[number]] = seconds_of(timesteps, elapsed, before)
    visit = [visits_of[i] for i in range(len(tasks))]
    rates = {i: timesteps / seconds for i, seconds in visits_of.items()}
    mean_rate = len(rates) / sum(1 / rate for rate in rates.values())
    print(f"  {mean_rate:,.0f} steps/s on a core, {min(rates.values()):,.0f} to {max(rates.values()):,.0f} by the task")
    longest = max(max(visit), (settings.eval_timesteps or 0) / mean_rate if eval_tasks else 0)
    print(
        f"  a visit takes up to {longest:,.0f} s: one that hangs is ended by --task-timeout {sensible_timeout(longest)}"
    )
    if settings.task_timeout is not None and settings.task_timeout < longest:
        print(f"  --task-timeout {settings.task_timeout:g} ends every visit before it is done")
    traffic = 2 * size * sum(t.nbytes for t in theta.parameters.values())
    print(f"  between machines at most {traffic / 1e6:,.0f} MB a meta step: θ⁰ to each task, and its ∇F back")
    batches = [trainer.settings.batch(meta_step, len(tasks)) for meta_step in range(settings.meta_steps)]
    for machines in (1, 2, 4, 8, 16):
        cores = engine.n_workers * machines
        seconds = sum(makespan([visit[i] for i in batch], cores) for batch in batches)
        seconds += eval_steps / mean_rate / min(cores, max(1, len(eval_tasks)))
        print(f"  {machines:2} such machines: {seconds / 3600:,.1f} hours ({timedelta(seconds=round(seconds))})")
        if cores >= max(size, len(eval_tasks)):
            print(f"  more are of no use: a visit is one process, and a meta step has {size} of them")
            break


def seconds_of(timesteps: int, elapsed: Sequence[tuple[int, float]], before: int) -> float:
    """
    How long a visit takes, of which the first steps learn nothing, and cost less.

    :param timesteps: of the visit
    :param elapsed: of a shorter one: steps, and the seconds when they were made
    :param before: steps before the first update
    """
    last, ended = elapsed[-1]
    first, began = max(((steps, seconds) for steps, seconds in elapsed if steps <= before), default=(0, 0.0))
    if last == first:  # nothing was learned in it
        return timesteps * ended / last
    return began + (timesteps - first) * (ended - began) / (last - first)


def makespan(seconds: Sequence[float], cores: int) -> float:
    """
    :param seconds: that each job takes, in the order in which they are begun
    :param cores: that each run one at a time
    :return: seconds until the last one ends
    """
    busy_until = [0.0] * cores
    for job in seconds:
        heapq.heapreplace(busy_until, busy_until[0] + job)
    return max(busy_until)


def sensible_timeout(seconds: float) -> int:
    """
    :param seconds: that a visit takes
    :return: seconds after which it hangs: a round number, at least a minute
    """
    timeout = max(60.0, PATIENCE * seconds)
    unit = 10 ** (math.floor(math.log10(timeout)) - 1)
    return math.ceil(timeout / unit) * unit


def _updates(agent: AgentSettings) -> tuple[int, int, int]:
    """
    Steps that are collected at a time, summed over environments, the updates made of them, and the steps before the
    first. Actor and critic that have an optimizer each are updated as often, or the actor less often.
    """
    kind = algorithm(agent)
    known = {**default_arguments(kind), **{n: value for n, value in vars(agent).items() if value is not None}}
    if issubclass(kind, OffPolicyAlgorithm):
        return agent.n_envs * known["train_freq"], known["gradient_steps"], known["learning_starts"]
    rollout = agent.n_envs * known["n_steps"]
    epochs, batch = (1, rollout) if agent.algorithm == "A2C" else (known["n_epochs"], known["batch_size"])
    return rollout, epochs * math.ceil(rollout / batch), 0
