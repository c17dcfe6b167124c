"""Logging to TensorBoard, with the two methods that a trainer needs of a logger."""

from __future__ import annotations

import json
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

_EVENTS = "events.out.tfevents."


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
    :param last_step: go on after this step: what an interrupted process wrote of later ones is withdrawn
    """

    def __init__(self, folder: Path, last_step: int | None = None) -> None:
        put_in_order(folder)
        self.writer = SummaryWriter(str(folder), purge_step=None if last_step is None else last_step + 1)
        weakref.finalize(self, _close, self.writer)  # it has a thread
        self.values: dict[str, float] = {}

    def record(self, key: str, value: float) -> None:
        self.values[key] = value

    def dump(self, step: int) -> None:
        for key, value in self.values.items():
            self.writer.add_scalar(key, value, step)
        self.values = {}
        self.writer.flush()

    def write(self, log: Sequence[tuple[int, Mapping[str, float]]], steps_before: int = 0) -> None:
        """
        What a learning process logged.

        :param log: (step, {key: value}), as ``TaskResult`` has it
        :param steps_before: what its steps are counted from
        """
        for step, values in log:
            for key, value in values.items():
                self.record(key, value)
            self.dump(steps_before + step)

    def describe(self, settings: Mapping[str, Any], tasks: Sequence[str]) -> None:
        """
        What a run is, once: its settings as text and as hyperparameters, beside the figures it ends with, and one page
        (CUSTOM SCALARS) with the curves over the meta steps: of the means first, then of every task.

        :param settings: JSON
        :param tasks: their names
        """
        self.writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```", 0)
        flat = {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in settings.items()}
        for summary in hparams(flat, {"area/mean": 0.0, "final_score/mean": 0.0, "eval/gain": 0.0}):
            self.writer.file_writer.add_summary(summary, 0)  # type: ignore[attr-defined]
        means = {
            "gain over each task's first visit": "area/gain",
            "mean area": "area/mean",
            "gain on the evaluation tasks": "eval/gain",
        }
        layout = {
            "all tasks together, by meta step": {title: ["Multiline", [rf"^{tag}\Z"]] for title, tag in means.items()}
        }
        layout |= {
            title: {task: ["Multiline", [rf"^{key}/{re.escape(task)}\Z"]] for task in tasks}
            for title, key in (
                ("area under the learning curve, by meta step", "area/task"),
                ("final score, by meta step", "final_score/task"),
                ("length of the gradient path, by meta step", "path/length"),
            )
        }
        self.writer.add_custom_scalars(layout)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _close(writer: SummaryWriter) -> None:
    with suppress(OSError):  # that there was no room was said when it was written
        writer.close()


def write_whole(folder: Path, log: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """
    A TensorBoard run, all at once, in place of what an interrupted process wrote of it.

    :param folder: of the run
    :param log: as of ``TensorBoardLogger.write``
    """
    logger = TensorBoardLogger(folder, last_step=-1)
    logger.write(log)
    logger.close()


def put_in_order(folder: Path) -> None:
    """
    TensorBoard reads the files of a run in the order of their names, which begin with the second in which each was
    made. Where a new one would not be the last, in the same second as another or after the clock was set back, those
    that are there are given earlier seconds.

    :param folder: of the run
    """
    files = sorted(folder.glob(f"{_EVENTS}*"))
    stamps = [file.name.removeprefix(_EVENTS).partition(".")[0] for file in files]
    now = int(time.time())
    if not any(stamp.isdecimal() and int(stamp) >= now for stamp in stamps):
        return
    for earlier, file, stamp in zip(range(now - len(files), now), files, stamps, strict=True):
        rest = file.name.removeprefix(f"{_EVENTS}{stamp}")
        file.rename(file.with_name(f"{_EVENTS}{earlier:010d}{rest}"))
