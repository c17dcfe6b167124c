"""``python -m supervised.omniglot few-shot``"""

from __future__ import annotations

from typing import Literal

from cyclopts import App

from supervised.command_line import IN_PROCESS, MADE, Here, Ints, Made, Names, Positive, add_table

app = App(
    "few-shot",
    help="Few-shot episodes of N ways and K shots, on Omniglot; or on folders of images in colour: --data-dir with "
    "train/CLASS and test/CLASS.",
)
add_table(app, "supervised.few_shot.experiment:FewShotRun", "learner", "none")

# Images to meta-learn from, and test episodes. paper: those that Snell et al. train Prototypical Networks with are not
# published as a number; ten times cpu is ours.
PRESETS: dict[str, tuple[int, int]] = {"quick": (20_000, 100), "cpu": (300_000, 600), "paper": (3_000_000, 1000)}


@app.default
def learn(
    *,
    made: Made = MADE,
    preset: Literal["quick", "cpu", "paper"] = "quick",
    learner: Names = ("protonet",),
    ways: Ints = (5,),
    shots: Ints = (1,),
    images: Positive | None = None,
    test_episodes: Positive | None = None,
    n_filters: Positive = 64,
    where: Here = IN_PROCESS,
) -> None:
    """
    Meta-learn from episodes, and test on episodes of classes that were never seen. Runs that are there go on.

    :param made: which runs, and from what
    :param preset: quick, cpu or paper: images to meta-learn from, and test episodes
    :param learner: protonet, matching, relation, which compare; maml, fomaml, reptile, leap, which make updates; none
    :param ways: classes of a test episode
    :param shots: images of each in its support
    :param images: in place of the preset's
    :param test_episodes: in place of the preset's
    :param n_filters: of each convolution
    :param where: it runs
    """
    from supervised.experiments import check_choices, make_runs
    from supervised.few_shot.classes import described
    from supervised.few_shot.experiment import LEARNERS, FewShotRun
    from supervised.omniglot.data import default_data_dir, download

    check_choices("learner", learner, LEARNERS)
    data = made.data(default_data_dir, download)
    budget, n_episodes = PRESETS[preset]
    runs = [
        FewShotRun(data, seed, name, n, k, images or budget, test_episodes or n_episodes, n_filters)
        for seed in made.seeds
        for n in ways
        for k in shots
        for name in learner
    ]
    chosen = where.chosen()
    print(described(data))
    make_runs(runs, made.root, chosen, made.dry_run)
