"""What a person watches while learning processes run."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as Row
from rich.text import Text


def mean_of(values: Sequence[float]) -> str:
    """
    In words: the mean of what was measured, and how much was not.

    :param values: NaN where there is none
    """
    known = [value for value in values if not math.isnan(value)]
    missing = f"{len(values) - len(known)} of {len(values)} not measured"
    if not known:
        return missing
    mean = sum(known) / len(known)
    return f"{mean:{return_spec(mean)}}" + (f" ({missing})" if len(known) < len(values) else "")


def return_spec(value: float) -> str:
    """Format of a return: those of games go from 2 to 20,000."""
    return ",.1f" if abs(value) >= 10 else ",.2f"


class _RateOrScore(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Row) -> Text:
        if "last" in task.fields:
            return Text(task.fields["last"])
        speed = task.finished_speed or task.speed
        return Text(f"{speed:{',.0f' if speed >= 10 else '.1f'}} {self.unit}/s" if speed else "")


class JobsProgress:
    """
    Nested bars: an outer one over all jobs, and one per job that runs, with the score that the last job of
    its name ended with, or its own once there is one. Draws nothing when the output is no terminal.

    :param enabled: whether to draw at all
    :param unit: what is counted
    """

    def __init__(self, enabled: bool = True, unit: str = "steps") -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # names are no markup
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _RateOrScore(unit),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file stays out of the terminal
            disable=not (enabled and console.is_terminal),
        )
        self._outer: TaskID | None = None
        self._outer_before = 0  # steps of jobs that are gone
        self._counted = True
        self._rows: list[TaskID] = []
        self._done: list[int] = []
        self._steps: list[int] = []
        self._names: list[str] = []
        self._last: dict[str, str] = {}

    def __enter__(self) -> JobsProgress:
        self._progress.start()
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._progress.disable:  # older releases of rich end a bar they never drew, too
            self._progress.stop()

    def outer(self, description: str, steps: int | None = None) -> None:
        """
        :param description: of what runs now
        :param steps: of all jobs to come; begins the outer bar
        """
        if steps is not None:
            self._outer = self._progress.add_task(description, total=steps)
        elif self._outer is not None:
            self._progress.update(self._outer, description=description)

    def jobs(self, names: Sequence[str], steps: Sequence[int], counted: bool = True) -> None:
        """
        The next jobs; each shows its bar while it runs.

        :param names: of the jobs
        :param steps: their budgets
        :param counted: whether the outer bar counts them
        """
        if self._counted:
            self._outer_before += sum(self._done)
        self._counted = counted
        for row in self._rows:
            self._progress.remove_task(row)
        self._rows = [
            self._progress.add_task(f"  {name}", total=total, visible=False, last=self._last.get(name, ""))
            for name, total in zip(names, steps, strict=True)
        ]
        self._names, self._steps, self._done = list(names), list(steps), [0] * len(steps)

    def job_at(self, index: int, steps: int, score: float = math.nan) -> None:
        """
        :param steps: that job ``index`` has done
        :param score: of it so far; NaN: none is known
        """
        done = min(steps, self._steps[index])
        if done == self._done[index]:
            return
        if not self._done[index]:
            self._progress.reset(self._rows[index])  # its clock starts when it does
        self._done[index] = done
        self._progress.update(self._rows[index], completed=done, visible=done < self._steps[index])
        if not math.isnan(score):
            self._progress.update(self._rows[index], last=f"now {score:{return_spec(score)}}")
        if self._outer is not None and self._counted:
            self._progress.update(self._outer, completed=self._outer_before + sum(self._done))

    def ended_with(self, index: int, score: float) -> None:
        """
        The next job of this name shows it beside its bar.

        :param index: of a job that has ended
        :param score: its last one; NaN: none is known
        """
        if not math.isnan(score):
            self._last[self._names[index]] = f"last {score:{return_spec(score)}}"
