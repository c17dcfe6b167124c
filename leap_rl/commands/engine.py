"""The engine that a command's settings ask for."""

from __future__ import annotations

from leap_rl.core import Engine, Workers
from leap_rl.settings import CompareSettings, MetaTrainSettings

WHERE_IT_RUNS = {"engine", "address", "gpus-per-task", "n-workers", "task-timeout"}
"""Options that may change when a run goes on: its bits are the same."""


def engine_of(settings: MetaTrainSettings | CompareSettings) -> Engine:
    """
    :raises ValueError: for no cluster at the address
    :raises ModuleNotFoundError: without Ray
    """
    if settings.engine == "local":
        return Workers(settings.n_workers, settings.task_timeout)
    from leap_rl.running.engines.ray import RayEngine

    return RayEngine(settings.address, num_gpus=settings.gpus_per_task, task_timeout=settings.task_timeout)
