"""
Leap itself: gradient paths, initializations, meta-learners, tasks and the trainer.

What running them takes is in ``leap_rl.running``. Knows no environment, no Stable-Baselines3 and no data set.
"""

from typing import TYPE_CHECKING

from leap_rl.lazy import lazily

if TYPE_CHECKING:
    from leap_rl.core.callbacks import MetaCallback
    from leap_rl.core.curve import LearningCurve
    from leap_rl.core.finetuning import FineTuning, Strategy, blocks_of
    from leap_rl.core.initialization import Initialization, NamedTensors, fit_head, named_tensors
    from leap_rl.core.initialization_config import InitializationError
    from leap_rl.core.learners import FOMAML, MAML, Leap, MetaLearner, NoPretraining, Reptile, SequentialFinetuning
    from leap_rl.core.lookahead import LookAhead
    from leap_rl.core.parts import GradientPaths
    from leap_rl.core.path import GradientPath
    from leap_rl.core.path_statistics import PathStatistics
    from leap_rl.core.process import LearnedTask, LearningProcess
    from leap_rl.core.strategies import (
        LPFT,
        Discriminative,
        GradualUnfreezing,
        LinearProbe,
        RelativeGradientNorm,
        ShrinkPerturb,
        Slow,
        SoftShrinkPerturb,
        Surgical,
        TowardsStart,
        read_strategies,
    )
    from leap_rl.core.task import Job, Task, TaskFamily, TaskResult
    from leap_rl.core.trainer import MetaTrainer
    from leap_rl.running.checkpoint import CheckpointError
    from leap_rl.running.engines import Engine, InProcess, OnProgress, Report, Workers
    from leap_rl.running.progress import JobsProgress

_WHERE = {
    "CheckpointError": "leap_rl.running.checkpoint",
    "Discriminative": "leap_rl.core.strategies",
    "Engine": "leap_rl.running.engines",
    "FOMAML": "leap_rl.core.learners",
    "FineTuning": "leap_rl.core.finetuning",
    "GradientPath": "leap_rl.core.path",
    "GradientPaths": "leap_rl.core.parts",
    "GradualUnfreezing": "leap_rl.core.strategies",
    "InProcess": "leap_rl.running.engines",
    "Initialization": "leap_rl.core.initialization",
    "InitializationError": "leap_rl.core.initialization_config",
    "Job": "leap_rl.core.task",
    "JobsProgress": "leap_rl.running.progress",
    "LPFT": "leap_rl.core.strategies",
    "Leap": "leap_rl.core.learners",
    "LearnedTask": "leap_rl.core.process",
    "LearningCurve": "leap_rl.core.curve",
    "LearningProcess": "leap_rl.core.process",
    "LinearProbe": "leap_rl.core.strategies",
    "LookAhead": "leap_rl.core.lookahead",
    "MAML": "leap_rl.core.learners",
    "MetaCallback": "leap_rl.core.callbacks",
    "MetaLearner": "leap_rl.core.learners",
    "MetaTrainer": "leap_rl.core.trainer",
    "NamedTensors": "leap_rl.core.initialization",
    "NoPretraining": "leap_rl.core.learners",
    "OnProgress": "leap_rl.running.engines",
    "PathStatistics": "leap_rl.core.path_statistics",
    "RelativeGradientNorm": "leap_rl.core.strategies",
    "Report": "leap_rl.running.engines",
    "Reptile": "leap_rl.core.learners",
    "SequentialFinetuning": "leap_rl.core.learners",
    "ShrinkPerturb": "leap_rl.core.strategies",
    "Slow": "leap_rl.core.strategies",
    "SoftShrinkPerturb": "leap_rl.core.strategies",
    "Strategy": "leap_rl.core.finetuning",
    "Surgical": "leap_rl.core.strategies",
    "Task": "leap_rl.core.task",
    "TaskFamily": "leap_rl.core.task",
    "TaskResult": "leap_rl.core.task",
    "TowardsStart": "leap_rl.core.strategies",
    "Workers": "leap_rl.running.engines",
    "blocks_of": "leap_rl.core.finetuning",
    "fit_head": "leap_rl.core.initialization",
    "named_tensors": "leap_rl.core.initialization",
    "read_strategies": "leap_rl.core.strategies",
}

__getattr__, __dir__ = lazily(__name__, _WHERE)

__all__ = [
    "FOMAML",
    "LPFT",
    "MAML",
    "CheckpointError",
    "Discriminative",
    "Engine",
    "FineTuning",
    "GradientPath",
    "GradientPaths",
    "GradualUnfreezing",
    "InProcess",
    "Initialization",
    "InitializationError",
    "Job",
    "JobsProgress",
    "Leap",
    "LearnedTask",
    "LearningCurve",
    "LearningProcess",
    "LinearProbe",
    "LookAhead",
    "MetaCallback",
    "MetaLearner",
    "MetaTrainer",
    "NamedTensors",
    "NoPretraining",
    "OnProgress",
    "PathStatistics",
    "RelativeGradientNorm",
    "Report",
    "Reptile",
    "SequentialFinetuning",
    "ShrinkPerturb",
    "Slow",
    "SoftShrinkPerturb",
    "Strategy",
    "Surgical",
    "Task",
    "TaskFamily",
    "TaskResult",
    "TowardsStart",
    "Workers",
    "blocks_of",
    "fit_head",
    "named_tensors",
    "read_strategies",
]
