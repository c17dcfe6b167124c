"""
Leap itself: gradient paths, initializations, meta-learners, tasks and the trainer.

What running them takes is in ``leap_rl.running``. Knows no environment, no Stable-Baselines3 and no data set.
"""

from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.core.callbacks import MetaCallback
    from leap_rl.core.curve import LearningCurve
    from leap_rl.core.initialization import Initialization, NamedTensors, fit_head, named_tensors
    from leap_rl.core.initialization_config import InitializationError
    from leap_rl.core.learners import FOMAML, MAML, Leap, MetaLearner, NoPretraining, Reptile, SequentialFinetuning
    from leap_rl.core.lookahead import LookAhead
    from leap_rl.core.parts import GradientPaths
    from leap_rl.core.path import GradientPath
    from leap_rl.core.path_statistics import PathStatistics
    from leap_rl.core.task import Job, Task, TaskFamily, TaskResult
    from leap_rl.core.trainer import MetaTrainer
    from leap_rl.running.checkpoint import CheckpointError
    from leap_rl.running.engines import Engine, InProcess, OnProgress, Report, Workers
    from leap_rl.running.progress import JobsProgress

_WHERE = {
    "CheckpointError": "leap_rl.running.checkpoint",
    "Engine": "leap_rl.running.engines",
    "FOMAML": "leap_rl.core.learners",
    "GradientPath": "leap_rl.core.path",
    "GradientPaths": "leap_rl.core.parts",
    "InProcess": "leap_rl.running.engines",
    "Initialization": "leap_rl.core.initialization",
    "InitializationError": "leap_rl.core.initialization_config",
    "Job": "leap_rl.core.task",
    "JobsProgress": "leap_rl.running.progress",
    "Leap": "leap_rl.core.learners",
    "LearningCurve": "leap_rl.core.curve",
    "LookAhead": "leap_rl.core.lookahead",
    "MAML": "leap_rl.core.learners",
    "MetaCallback": "leap_rl.core.callbacks",
    "MetaLearner": "leap_rl.core.learners",
    "MetaTrainer": "leap_rl.core.trainer",
    "NamedTensors": "leap_rl.core.initialization",
    "NoPretraining": "leap_rl.core.learners",
    "OnProgress": "leap_rl.running.engines",
    "PathStatistics": "leap_rl.core.path_statistics",
    "Report": "leap_rl.running.engines",
    "Reptile": "leap_rl.core.learners",
    "SequentialFinetuning": "leap_rl.core.learners",
    "Task": "leap_rl.core.task",
    "TaskFamily": "leap_rl.core.task",
    "TaskResult": "leap_rl.core.task",
    "Workers": "leap_rl.running.engines",
    "fit_head": "leap_rl.core.initialization",
    "named_tensors": "leap_rl.core.initialization",
}

__getattr__, __dir__ = lazily(__name__, _WHERE)

__all__ = [
    "FOMAML",
    "MAML",
    "CheckpointError",
    "Engine",
    "GradientPath",
    "GradientPaths",
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
