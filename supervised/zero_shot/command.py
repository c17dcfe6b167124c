"""``python -m supervised.multi_cv zero-shot``"""

from __future__ import annotations

from typing import Literal

from cyclopts import App

from supervised.command_line import MADE, Made, Positive, add_table

app = App("zero-shot", help="Traffic signs that were never seen, told by their attributes.")
add_table(app, "supervised.zero_shot.experiment:ZeroShotRun", "unseen")

# Updates of 64 images.
PRESETS: dict[str, int] = {"quick": 60, "cpu": 600}


@app.default
def learn(
    *,
    made: Made = MADE,
    preset: Literal["quick", "cpu"] = "quick",
    unseen: Positive = 8,
    updates: Positive | None = None,
    n_filters: Positive = 32,
) -> None:
    """
    Learn GTSRB's signs but some, and tell these by their attributes. Each seed holds other signs out. Runs that are
    there are not made again.

    :param made: which runs, and from what
    :param preset: quick or cpu: updates of 64 images
    :param unseen: signs that are held out
    :param updates: in place of the preset's
    :param n_filters: of each convolution
    """
    from leap_rl.core import InProcess
    from supervised.experiments import make_runs
    from supervised.multi_cv.data import default_data_dir, download
    from supervised.zero_shot.experiment import ZeroShotRun

    data = made.data(default_data_dir, lambda data: download(data, ["gtsrb"]))
    runs = [ZeroShotRun(data, seed, updates or PRESETS[preset], unseen, n_filters) for seed in made.seeds]
    make_runs(runs, made.root, InProcess(), made.dry_run)
