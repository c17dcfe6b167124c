"""A kept result is taken for that of its own visit alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leap_rl.core import (
    FOMAML,
    CheckpointError,
    Initialization,
    InProcess,
    Job,
    LearningCurve,
    Reptile,
    Task,
    TaskResult,
)
from leap_rl.core.kept_results import run_kept


@dataclass(frozen=True)
class Still(Task):
    """Learns nothing, in no time."""

    name: str = "still"
    steps: int = 4

    def run(self, job: Job, report: object) -> TaskResult:
        curve = LearningCurve(np.arange(self.steps), np.zeros(self.steps), self.steps)
        gradient = {name: torch.zeros_like(t) for name, t in job.initialization.parameters.items()}
        return TaskResult(self.name, curve, self.steps, 0.5, gradient)


def theta(value: float, size: int = 2) -> Initialization:
    return Initialization({"w": torch.full((size,), value)}, "all")


JOB = Job(Still(), theta(1.0), Reptile(), seed=3)


def kept(job: Job, folder: Path, run: str = "this run", drawn: tuple[int, ...] = ()) -> bool:
    """Whether it was run before."""
    ((_, _, ran_now),) = run_kept(InProcess(), [job], [folder], lambda *_: None, run, drawn)
    return not ran_now


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda job: replace(job, task=Still("other")), "its task is 'still', not 'other'"),
        (lambda job: replace(job, task=Still(steps=5)), "its steps is 4, not 5"),
        (lambda job: replace(job, seed=4), "its seed is 3, not 4"),
        (lambda job: replace(job, learner=FOMAML()), "its learner is {'name': 'Reptile'}, not {'name': 'FOMAML'}"),
        (
            lambda job: replace(job, initialization=theta(1.0 + 2**-20)),
            "its start is '[0-9a-f]{64}', not '[0-9a-f]{64}'",
        ),
    ],
)
def test_a_result_of_another_visit_is_refused(tmp_path: Path, other: Callable[[Job], Job], message: str) -> None:
    folder = tmp_path / "task-000000-000"
    assert not kept(JOB, folder) and kept(JOB, folder)
    with pytest.raises(
        CheckpointError, match=f"{folder} is of another visit: {message}. Remove {folder}, and it is run"
    ):
        kept(other(JOB), folder)
    with pytest.raises(CheckpointError, match=f"{folder} is of another run. Remove"):
        kept(JOB, folder, "another run")
    assert kept(JOB, folder)


def test_a_random_start_is_known_by_its_seed(tmp_path: Path) -> None:
    """Its last bits are those of the machine that drew it."""
    assert not kept(JOB, tmp_path / "x", drawn=(0,))
    assert kept(replace(JOB, initialization=theta(1.5)), tmp_path / "x", drawn=(0,))
    with pytest.raises(CheckpointError, match="its seed is 3, not 4"):
        kept(replace(JOB, seed=4), tmp_path / "x", drawn=(0,))
    with pytest.raises(CheckpointError, match="its start is None, not"):
        kept(JOB, tmp_path / "x")
    with pytest.raises(CheckpointError, match="holds the ∇F of other parameters"):
        kept(replace(JOB, initialization=theta(1.0, size=3)), tmp_path / "x", drawn=(0,))
