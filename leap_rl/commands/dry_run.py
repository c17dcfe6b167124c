"""``leap-rl meta-train --dry-run``: what a meta-training will do, and what it costs."""

from __future__ import annotations

import dataclasses
import inspect
import math
from datetime import timedelta

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
    tasks = training_tasks(settings)
    trainer = make_trainer(settings, tasks, None)
    theta, size, eval_tasks = trainer.initialization, trainer.meta_batch_size, trainer.eval_tasks
    rollout, updates = _updates(settings.agent)
    visits = settings.meta_steps * size
    steps = visits * settings.timesteps
    evaluations = (1 + settings.meta_steps // settings.eval_freq) * len(eval_tasks)
    eval_steps = evaluations * (settings.eval_timesteps or settings.timesteps)

    print(f"{len(tasks)} tasks: {', '.join(task.name for task in tasks)}")
    print(f"scope {theta.scope}: {sum(t.numel() for t in theta.parameters.values()):,} parameters")
    print(f"{settings.meta_steps} meta steps × {size} tasks = {visits:,} visits")
    per_visit = math.ceil(settings.timesteps / rollout) * updates
    print("What a training step counts:")
    print(f"  environment steps (what will be run): {settings.timesteps:,} steps = {per_visit:,} updates a visit, ")
    print(f"    {steps:,} steps = {per_visit * visits:,} updates in all")
    other = math.ceil(settings.timesteps / updates) * rollout
    print(f"  updates: {settings.timesteps:,} updates = {other:,} steps a visit (--timesteps {other}), ")
    print(f"    {other * visits:,} steps in all")
    if evaluations:
        print(f"{evaluations:,} evaluations: {eval_steps:,} steps")
    kept = settings.keep_checkpoints + (settings.meta_steps // settings.keep_every if settings.keep_every else 0)
    disk = checkpoint_bytes(theta.parameters, kept, size)
    print(f"disk: at most {disk / 1e6:,.0f} MB for checkpoints, and the TensorBoard files")

    engine = Workers(settings.n_workers)
    print(f"Measuring on this machine, {engine.n_workers} processes ...", flush=True)
    short = [dataclasses.replace(task, steps=max(MEASURED_STEPS, 2 * rollout)) for task in tasks]
    measured = [Job(short[i % len(short)], theta, trainer.learner, i, settings.device) for i in range(engine.n_workers)]
    rate = 0.0
    for _, result in engine.run(measured, lambda index, steps: None):
        result.raise_for_status()
        if not result.log:
            raise RuntimeError(f"{result.name} diverges at once: nothing can be measured, try a smaller learning rate")
        # SB3's own rate, which leaves out how long the process took to start.
        rate += result.log[-1][1]["time/fps"]
    print(f"  {rate:,.0f} steps/s")
    longest = max(settings.timesteps, settings.eval_timesteps or 0 if eval_tasks else 0) * engine.n_workers / rate
    print(
        f"  a visit takes some {longest:,.0f} s: one that hangs is ended by --task-timeout {sensible_timeout(longest)}"
    )
    if settings.task_timeout is not None and settings.task_timeout < longest:
        print(f"  --task-timeout {settings.task_timeout:g} ends every visit before it is done")
    for machines in (1, 2, 4, 8, 16):
        # A visit runs in one process, so a meta batch is at least as long as a visit.
        waves = math.ceil(size / (engine.n_workers * machines))
        seconds = waves * settings.timesteps * settings.meta_steps * engine.n_workers / rate
        seconds += eval_steps / rate / machines
        print(f"  {machines:2} such machines: {seconds / 3600:,.1f} hours ({timedelta(seconds=round(seconds))})")


def sensible_timeout(seconds: float) -> int:
    """
    :param seconds: that a visit takes
    :return: seconds after which it hangs: a round number, at least a minute
    """
    timeout = max(60.0, PATIENCE * seconds)
    unit = 10 ** (math.floor(math.log10(timeout)) - 1)
    return math.ceil(timeout / unit) * unit


def _updates(agent: AgentSettings) -> tuple[int, int]:
    """Steps of a rollout, summed over environments, and the updates made of it."""
    defaults = {k: p.default for k, p in inspect.signature(algorithm(agent)).parameters.items()}
    rollout = agent.n_envs * (agent.n_steps or defaults["n_steps"])
    if agent.algorithm == "A2C":
        return rollout, 1
    epochs, batch = agent.n_epochs or defaults["n_epochs"], agent.batch_size or defaults["batch_size"]
    return rollout, epochs * math.ceil(rollout / batch)
