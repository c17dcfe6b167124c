"""``python -m supervised.multi_cv distill``"""

from __future__ import annotations

from typing import Literal

from cyclopts import App

from supervised.command_line import MADE, Ints, Made, Names, Positive, add_table

app = App("distill", help="A small network that also learns from a large one.")
add_table(app, "supervised.distillation.experiment:DistillationRun", "student", "alone")

# Passes, and images of a data set at most.
PRESETS: dict[str, tuple[int, int]] = {"quick": (2, 1000), "cpu": (10, 3000)}


@app.default
def learn(
    *,
    made: Made = MADE,
    preset: Literal["quick", "cpu"] = "quick",
    data_sets: Names = ("fashion-mnist",),
    n_filters: Ints = (8,),
    passes: Positive | None = None,
    limit: Positive | None = None,
) -> None:
    """
    Learn each data set with a student alone, and with one that has a teacher of 64 filters. Runs that are there are not
    made again.

    :param made: which runs, and from what
    :param preset: quick or cpu: passes and limit
    :param data_sets: each learned in turn
    :param n_filters: of the student
    :param passes: over the images, in place of the preset's
    :param limit: images of a data set, in place of the preset's
    """
    from leap_rl.core import InProcess
    from supervised.distillation.experiment import DistillationRun
    from supervised.experiments import make_runs
    from supervised.multi_cv.data import check_name, default_data_dir, download

    for name in data_sets:
        check_name(name)
    data = made.data(default_data_dir, lambda data: download(data, data_sets))
    n_passes, most = PRESETS[preset]
    runs = [
        DistillationRun(data, seed, name, student, n, passes or n_passes, limit or most)
        for seed in made.seeds
        for name in data_sets
        for n in n_filters
        for student in ("alone", "distilled")
    ]
    make_runs(runs, made.root, InProcess(), made.dry_run)
