"""How a data set is learned from an initialization."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from supervised.batch_norm import BatchNorm
from supervised.multi_cv.tasks import LEARNING_RATE
from supervised.tasks import ClassificationTask

Task = TypeVar("Task", bound=ClassificationTask)


@dataclass(frozen=True)
class Way:
    """
    How a data set is learned from an initialization.

    :param finetune: strategies, by their names
    :param batch_norm: what batch norm does
    :param learning_rate: of SGD
    :param transfer_layers: blocks of the initialization that are taken, or what these begin with; none: all
    """

    finetune: str = ""
    batch_norm: BatchNorm = "update"
    learning_rate: float = LEARNING_RATE
    transfer_layers: tuple[str, ...] = ()

    def of(self, task: Task) -> Task:
        """A task that is learned so."""
        return replace(
            task,
            finetune=self.finetune,
            batch_norm=self.batch_norm,
            learning_rate=self.learning_rate,
            transfer_layers=self.transfer_layers,
        )

    @property
    def name(self) -> str:
        """What tells its results from plain ones; of the plain way nothing."""
        said = [self.finetune] if self.finetune else []
        if self.batch_norm != "update":
            said.append(f"batch norm {self.batch_norm}")
        if self.learning_rate != LEARNING_RATE:
            said.append(f"rate {self.learning_rate:g}")
        if self.transfer_layers:
            said.append(f"layers {' '.join(self.transfer_layers)}")
        return ", ".join(said)

    def command(self, folder: Path, data_dir: Path | None = None) -> str:
        """
        That learns so.

        :param folder: of the run that found what it starts from
        :param data_dir: of the images, where it is not the usual one
        """
        words = ["python", "-m", "supervised.multi_cv", "evaluate", str(folder), "--finetune", self.finetune]
        words += ["--batch-norm", self.batch_norm, "--learning-rate", f"{self.learning_rate:g}"]
        words += ["--transfer-layers", *self.transfer_layers] if self.transfer_layers else []
        words += ["--data-dir", str(data_dir)] if data_dir is not None else []
        return shlex.join(words)


PLAIN = Way()
"""As the experiment has it."""
