"""Tables of runs: what is compared with what."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import supervised.adaptation.__main__ as adaptation
import supervised.multi_task.command as multi_task
from leap_rl.core import LearningCurve, TaskResult
from supervised.adaptation.generalization import DOMAINS, GeneralizationRun
from supervised.experiments import Found, collect, plot, table
from supervised.multi_task.experiment import TASKS, MultiTaskRun
from supervised.runs import save_runs, test_error

test_error.__test__ = False  # type: ignore[attr-defined]  # it is no test of pytest's


def test_what_is_not_learned_by_default_is_told_apart() -> None:
    default = MultiTaskRun("data", 0, "hard", "equal", TASKS, 1, 10)
    other = replace(default, tasks=("mnist", "gtsrb"))
    assert default.name == "hard-equal-seed0" and other.name == "hard-equal-mnist-gtsrb-seed0"
    held_out = GeneralizationRun("data", 0, "coral", DOMAINS, "mnist", 1, 10)
    assert held_out.name == "coral-mnist-seed0"
    assert replace(held_out, domains=DOMAINS[:3]).name == "coral-mnist-mnist-digits-mnist-m-seed0"
    # As the commands have them, which import neither before they are asked.
    assert inspect.signature(multi_task.learn).parameters["tasks"].default == TASKS
    assert inspect.signature(adaptation.leave_one_out).parameters["domains"].default == DOMAINS


def test_a_diverged_process_has_no_test_error() -> None:
    curve = LearningCurve(np.array([1]), np.array([0.5]), 1, 1, maximize=False)
    result = TaskResult("digits", curve, 1, 0.1, scores={"test_error": 0.5})
    assert test_error(result) == 0.5
    with pytest.raises(RuntimeError, match="the teacher diverged"):
        test_error(replace(result, status="non_finite"), "the teacher")
    with pytest.raises(RuntimeError, match="digits failed: out of memory"):
        test_error(replace(result, status="failed", error="Traceback\nout of memory"))


def runs(method: str, images: int, *errors: float) -> list[Found]:
    cells = {"method": method, "pair": "a to b"}
    return [Found("adaptation", cells, seed, images, {"error": error}) for seed, error in enumerate(errors)]


def test_runs_of_other_settings_are_other_rows(tmp_path: Path) -> None:
    """Not a mean over both, nor one in place of the other."""

    def of(weight: float, *errors: float) -> list[Found]:
        found = runs("mmd", 100, *errors)
        for run in found:
            run.settings = {"weight": weight, "data": {"train": 5}}
        return found

    save_runs(tmp_path / "a.json", of(0.1, 40.0, 42.0))
    save_runs(tmp_path / "b.json", [*of(1.0, 60.0, 62.0), *runs("pooled", 100, 50.0, 50.0)])
    # What has more runs is not replaced, such as by a table of folders that were lost.
    with pytest.raises(ValueError, match=r"b.json has 4 runs, and these are 2: name it beside the folders"):
        save_runs(tmp_path / "b.json", of(1.0, 60.0, 62.0))
    shown = table(collect([tmp_path / "a.json", tmp_path / "b.json"], "adaptation"), "method", "pooled")
    assert "| method | pair | weight | images |" in shown and "train" not in shown
    assert "| mmd | a to b | 0.1 | 100 | 2 | 41.0" in shown and "| mmd | a to b | 1.0 | 100 | 2 | 61.0" in shown
    assert "-9.0" in shown and "+11.0" in shown
    # Files of older versions say no settings: nobody knows whether theirs are the same.
    save_runs(tmp_path / "older.json", runs("mmd", 100, 1.0, 1.0, 45.0))
    for files in (("older", "a"), ("a", "older")):
        shown = table(collect([tmp_path / f"{name}.json" for name in files], "adaptation"), "method")
        assert "| mmd | a to b | unknown | 100 | 3 | 15.7" in shown and "| mmd | a to b |  | 100 | 2 | 41.0" in shown
    # The reference may have settings that others have not, as long as one is theirs.
    reference = [*runs("pooled", 100, 50.0), *runs("pooled", 100, 30.0)]
    for run, filters in zip(reference, (64, 32), strict=True):
        run.settings = {"n_filters": filters}
    (coral,) = runs("coral", 100, 45.0)
    coral.settings = {"n_filters": 64}
    save_runs(tmp_path / "filters.json", [*reference, coral])
    assert "| -5.0" in table(collect([tmp_path / "filters.json"], "adaptation"), "method", "pooled")
    (alone,) = {run.label for run in collect([tmp_path / "a.json"], "adaptation")}
    assert alone == "mmd, a to b"


def test_a_difference_is_to_the_reference_of_the_same_budget(tmp_path) -> None:  # type: ignore[no-untyped-def]
    small = [*runs("pooled", 100, 50.0, 52.0), *runs("coral", 100, 40.0, 41.0)]
    large = [*runs("pooled", 1000, 20.0, 21.0), *runs("coral", 1000, 15.0, 16.0)]
    for found in (small + large, large + small):
        shown = table(found, "method", "pooled")
        assert "| coral | a to b | 100 | 2 | 40.5" in shown and "| -10.5" in shown
        assert "| coral | a to b | 1,000 | 2 | 15.5" in shown and "| -5.0" in shown
    # A method that sees twice the images for the same updates has one reference, as long as there is one budget.
    twice = runs("mmd", 200, 45.0, 46.0)
    assert "| -5.5" in table([*small, *twice], "method", "pooled")
    assert "| of which budget? |" in table([*small, *large, *twice], "method", "pooled")
    lacking = table([*small, *large, *runs("coral", 1000, 1.0, 1.0, 1.0)[2:]], "method", "pooled")
    assert "pooled, a to b, 1,000 images" in lacking and "coral, a to b, 100 images" in lacking
    plot(small + large, tmp_path / "f.png")
