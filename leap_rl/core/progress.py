"""What a person watches while learning processes run."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as Row
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Row) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed or task.fields.get("outer") else f"{speed:,.0f} steps/s")


class JobsProgress:
    """
    Nested bars: an outer one (meta steps, say) and one per running job. Draws nothing when the output is no
    terminal.

    :param enabled: whether to draw at all
    """

    def __init__(self, enabled: bool = True) -> None:
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not (enabled and console.is_terminal),
        )
        self._outer: TaskID | None = None
        self._jobs: list[TaskID] = []

    def __enter__(self) -> JobsProgress:
        self.progress.start()
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def outer(self, description: str, total: float) -> None:
        """Begin the outer bar."""
        self._outer = self.progress.add_task(description, total=total, outer=True)

    def advance_outer(self) -> None:
        if self._outer is not None:
            self.progress.advance(self._outer)

    def jobs(self, names: Sequence[str], steps: Sequence[int]) -> None:
        """Exchange the jobs' bars; one shows itself once its job has begun."""
        for row in self._jobs:
            self.progress.remove_task(row)
        self._jobs = [
            self.progress.add_task(f"  {name}", total=total, visible=False)
            for name, total in zip(names, steps, strict=True)
        ]

    def job_at(self, index: int, steps: int) -> None:
        """:param steps: that job ``index`` has done"""
        if steps:
            total = self.progress.tasks[self.progress.task_ids.index(self._jobs[index])].total or 0
            self.progress.update(self._jobs[index], completed=min(steps, total), visible=steps < total)
