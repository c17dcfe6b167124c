"""Logging to TensorBoard, with the two methods that a trainer needs of a logger."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter


class LoggerLike(Protocol):
    """What the trainer logs to; SB3's ``Logger`` is one."""

    def record(self, key: str, value: Any) -> None: ...
    def dump(self, step: int) -> None: ...


class NoLogger:
    """Logs nowhere."""

    def record(self, key: str, value: Any) -> None:
        pass

    def dump(self, step: int) -> None:
        pass


class TensorBoardLogger:
    """
    One TensorBoard run.

    :param folder: of the run
    """

    def __init__(self, folder: Path) -> None:
        self.writer = SummaryWriter(str(folder))
        self.values: dict[str, float] = {}

    def record(self, key: str, value: float) -> None:
        self.values[key] = value

    def dump(self, step: int) -> None:
        for key, value in self.values.items():
            self.writer.add_scalar(key, value, step)
        self.values = {}
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def next_run_folder(root: Path, name: str) -> Path:
    """``root/name_1``, or the next number that is free, as SB3 counts its runs."""
    taken = [int(p.name.rpartition("_")[2]) for p in root.glob(f"{name}_*") if p.name.rpartition("_")[2].isdigit()]
    return root / f"{name}_{max(taken, default=0) + 1}"
