"""A training of many tasks in one network, which is kept on disk as it goes and gone on with from there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from leap_rl.running.checkpoint import CheckpointError, Checkpoints, Step, check_tensors
from leap_rl.running.logger import LoggerLike, NoLogger, TensorBoardLogger
from leap_rl.running.progress import JobsProgress
from leap_rl.running.record import shown


class KeptTraining(ABC):
    """
    What trainers of many tasks share: checkpoints, of which the last one stays until the next is whole, a TensorBoard
    run, and the bar.

    :param run_dir: folder of the checkpoints; training goes on from the last of those that are there, to the same bits
    :param tensorboard_log: folder of the TensorBoard run
    """

    form: ClassVar[type[Any]]
    """What a checkpoint holds besides the tensors, a dataclass: where the training stands, and what it must be to go on
    from there."""

    def __init__(self, run_dir: str | os.PathLike[str] | None, tensorboard_log: str | os.PathLike[str] | None) -> None:
        self.checkpoints = None if run_dir is None else Checkpoints(Path(run_dir), keep=1)
        self.tensorboard_log = None if tensorboard_log is None else Path(tensorboard_log)

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """All that a checkpoint holds."""

    @abstractmethod
    def state(self) -> Step:
        """As ``form`` says."""

    @abstractmethod
    def stand_at(self, state: Any) -> None:
        """
        :param state: of the last checkpoint
        """

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_state_dict(tensors)

    def resume(self) -> None:
        """
        Go on from the last checkpoint, if there is one.

        :raises CheckpointError: if it can't be read, or is of another training
        """
        if self.checkpoints is None or not self.checkpoints.steps():
            return
        tensors, found = self.checkpoints.load(self.form, self._statistics())
        self.stand_at(found)
        for name, now in vars(self.state()).items():
            before = getattr(found, name)
            if before != now:
                raise CheckpointError(
                    f"{self.checkpoints.folder} was trained with {name} {shown(before)}, not {shown(now)}"
                )
        try:
            check_tensors(tensors, self.trained.state_dict())
        except ValueError as error:
            raise self.checkpoints.refused(error, self.form) from None
        self.load_tensors(tensors)

    def save(self) -> None:
        """
        Write a checkpoint, if there is a ``run_dir``; the last one stays until the new one is whole.

        :raises RuntimeError: if it diverged; the last one stays then, too
        """
        if self.checkpoints is not None:
            self.checkpoints.save(self.trained.state_dict(), self.state(), self._statistics())

    def _statistics(self) -> set[str]:
        """Names of buffers: where each task has a batch norm of its own, that of one may diverge alone."""
        return {name for name, _ in self.trained.named_buffers()}

    @contextmanager
    def going_on(
        self, what: str, names: Sequence[str], images: Sequence[int], progress_bar: bool
    ) -> Iterator[tuple[LoggerLike, JobsProgress]]:
        """
        Nobody else goes on with the run meanwhile, nor touches its TensorBoard run.

        :param what: is done, for the bar
        :param names: of its parts
        :param images: of each
        :param progress_bar: draw one, if the output is a terminal
        :return: where to log and report to
        :raises ValueError: if another process goes on with the run in ``run_dir``
        """
        step = self.state().step
        alone = nullcontext() if self.checkpoints is None else self.checkpoints.alone(step)
        with alone, JobsProgress(enabled=progress_bar) as progress:
            progress.outer(what, sum(images))
            progress.jobs(names, images)
            logger: LoggerLike = NoLogger()
            if self.tensorboard_log is not None:
                logger = TensorBoardLogger(self.tensorboard_log, step)
            yield logger, progress
