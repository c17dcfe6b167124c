"""
Leap itself: gradient paths, initializations, meta-learners, tasks, the trainer and its engines.

Knows no environment, no Stable-Baselines3 and no data set.
"""

from leap_rl.core.callbacks import MetaCallback
from leap_rl.core.checkpoint import CheckpointError
from leap_rl.core.curve import LearningCurve
from leap_rl.core.engines import Engine, InProcess, OnProgress, Workers
from leap_rl.core.initialization import Initialization, InitializationError, NamedTensors, fit_head, named_tensors
from leap_rl.core.learners import FOMAML, MAML, Leap, MetaLearner, NoPretraining, Reptile, SequentialFinetuning
from leap_rl.core.lookahead import LookAhead
from leap_rl.core.path import GradientPath, PathStatistics
from leap_rl.core.progress import JobsProgress
from leap_rl.core.task import Job, Report, Task, TaskFamily, TaskResult
from leap_rl.core.trainer import MetaTrainer

__all__ = [
    "FOMAML",
    "MAML",
    "CheckpointError",
    "Engine",
    "GradientPath",
    "InProcess",
    "Initialization",
    "InitializationError",
    "Job",
    "JobsProgress",
    "Leap",
    "LearningCurve",
    "LookAhead",
    "MetaCallback",
    "MetaLearner",
    "MetaTrainer",
    "NamedTensors",
    "NoPretraining",
    "OnProgress",
    "PathStatistics",
    "Report",
    "Reptile",
    "SequentialFinetuning",
    "Task",
    "TaskFamily",
    "TaskResult",
    "Workers",
    "fit_head",
    "named_tensors",
]
