"""Where the learning processes of a meta batch run."""

from leap_rl.running.engines.base import Engine, Job, OnProgress, Report, Result, TaskError, described
from leap_rl.running.engines.in_process import InProcess
from leap_rl.running.engines.process import learning_process
from leap_rl.running.engines.workers import Workers

__all__ = [
    "Engine",
    "InProcess",
    "Job",
    "OnProgress",
    "Report",
    "Result",
    "TaskError",
    "Workers",
    "described",
    "learning_process",
]
