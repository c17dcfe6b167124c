"""``python -m supervised.multi_cv multi-task``"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from supervised.command_line import MADE, Made, Names, Positive, add_table

app = App("multi-task", help="Several data sets at once in one network: what they share, and how.")
add_table(app, "supervised.multi_task.experiment:MultiTaskRun", "sharing", "single")

# Passes of 20 updates, and images of a data set at most.
PRESETS: dict[str, tuple[int, int]] = {"quick": (3, 400), "cpu": (25, 3000)}


@app.default
def learn(
    *,
    made: Made = MADE,
    preset: Literal["quick", "cpu"] = "quick",
    tasks: Names = ("mnist", "fashion-mnist", "gtsrb"),
    sharing: Names = ("single", "hard", "soft", "cross-stitch"),
    balancing: Names = ("equal",),
    large: str | None = None,
    factor: Annotated[float, Parameter(validator=Number(gt=0))] = 100.0,
    passes: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
) -> None:
    """
    Learn all tasks in every update. Runs that are there go on.

    :param made: which runs, and from what
    :param preset: quick or cpu: passes and limit
    :param tasks: data sets
    :param sharing: single, hard, soft, cross-stitch
    :param balancing: equal, scale, uncertainty, imtl-l, dynamic, pcgrad, mgda
    :param large: data set whose loss is multiplied with the factor, as another unit of it would, but for single;
        without it none
    :param factor: of the large loss
    :param passes: of 20 updates, in place of the preset's
    :param limit: images of a data set, in place of the preset's
    :param n_filters: of each convolution
    """
    from leap_rl.core import InProcess
    from supervised.balancing import BALANCING
    from supervised.experiments import check_choices, make_runs
    from supervised.multi_cv.data import check_name, default_data_dir, download
    from supervised.multi_task.experiment import SHARING, MultiTaskRun

    check_choices("sharing", sharing, SHARING)
    check_choices("balancing", balancing, BALANCING)
    for name in tasks:
        check_name(name)
    if large is not None and large not in tasks:
        raise ValueError(f"--large {large} is not one of the tasks {', '.join(tasks)}")
    data = made.data(default_data_dir, lambda data: download(data, tasks))
    n_passes, most = PRESETS[preset]
    shape = (passes or n_passes, limit or most, n_filters)
    loss = (None, 1.0) if large is None else (large, factor)
    # Alone no task has anything to be balanced with, nor to be larger than.
    runs = [
        MultiTaskRun(data, seed, shared, balanced, tuple(tasks), *shape, *of_loss)
        for seed in made.seeds
        for shared in sharing
        for balanced, of_loss in (
            [("equal", (None, 1.0))] if shared == "single" else [(balanced, loss) for balanced in balancing]
        )
    ]
    make_runs(runs, made.root, InProcess(), made.dry_run)
