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

__getattr__, __dir__ = lazily(__name__, __file__)

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
