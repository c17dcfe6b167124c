"""``python -m supervised.adaptation``: learn a labelled source, be tested on a target whose labels were never seen."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from leap_rl.ending import run_program
from supervised.command_line import IN_PROCESS, MADE, Here, Made, Names, Positive, Rates, add_table, run_command

if TYPE_CHECKING:
    from supervised.adaptation.experiment import AdaptationRun

app = App("supervised.adaptation", help="Adaptation to a domain without labels.", version_flags=())
add_table(app, "supervised.adaptation.experiment:AdaptationRun", "method", "source-only")

Preset = Literal["quick", "cpu"]
# Updates of 64 images of each domain, and images of each domain at most.
PRESETS: dict[Preset, tuple[int, int]] = {"quick": (60, 1000), "cpu": (200, 3000)}
METHODS = ("source-only", "batch-norm", "coral", "mmd", "transport", "dann", "self-training")
Weight = Annotated[float, Parameter(validator=Number(gt=0))]


@app.command
def train(
    *,
    made: Made = MADE,
    preset: Preset = "quick",
    source: str = "mnist",
    targets: Names = ("digits", "mnist-m"),
    methods: Names = METHODS,
    weight: Weight = 1.0,
    updates: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
    where: Here = IN_PROCESS,
) -> None:
    """
    Learn the source with each method, and test on the targets. Runs that are there are not made again.

    :param made: which runs, and from what
    :param preset: quick or cpu: updates, and images of each domain
    :param source: mnist, digits (UCI's, of scikit-learn), mnist-m, rotated, corrupted, usps, svhn, fashion-mnist or
        notmnist
    :param targets: domains with the same classes
    :param methods: source-only, batch-norm, coral, mmd, transport, dann, self-training; and target-labels, the ceiling
    :param weight: of the methods' penalties
    :param updates: in place of the preset's
    :param limit: images of each domain, in place of the preset's
    :param n_filters: of each convolution
    :param where: it runs
    """
    from supervised.adaptation.experiment import KNOWN, AdaptationRun
    from supervised.experiments import check_choices, make_runs

    check_choices("method", methods, KNOWN)
    chosen = where.chosen()
    data = _data(made, source, *targets)
    runs = _runs(
        AdaptationRun, data, preset, source, targets, methods, made.seeds, (weight,), updates, limit, n_filters
    )
    make_runs(runs, made.root, chosen, made.dry_run)


choose = App("choose", help="Weights by reverse validation, which needs no label of a target.")
app.command(choose)
add_table(choose, "supervised.adaptation.experiment:ReverseValidation", "weight")


@choose.default
def by_reverse_validation(
    *,
    made: Made = MADE,
    preset: Preset = "quick",
    source: str = "mnist",
    targets: Names = ("rotated",),
    methods: Names = METHODS[2:],
    weights: Rates = (0.1, 1.0, 10.0),
    updates: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
    where: Here = IN_PROCESS,
) -> None:
    """
    Compare weights by reverse validation, which needs no label of a target, and print how to learn with the weights of
    the least reverse error.

    :param made: which runs, and from what
    :param preset: as of train
    :param source: as of train
    :param targets: as of train; without it another one than those of train
    :param methods: as of train
    :param weights: of the penalties
    :param updates: as of train
    :param limit: as of train
    :param n_filters: as of train
    :param where: it runs
    """
    from supervised.adaptation.experiment import WEIGHTED, ReverseValidation, chosen_weights
    from supervised.experiments import check_choices, collect, make_runs, root_of, show

    check_choices("method with a weight", methods, WEIGHTED)
    chosen = where.chosen()
    data = _data(made, source, *targets)
    runs = _runs(
        ReverseValidation, data, preset, source, targets, methods, made.seeds, weights, updates, limit, n_filters
    )
    make_runs(runs, made.root, chosen, made.dry_run)
    if made.dry_run:
        return
    root = made.root or root_of(ReverseValidation)
    show([root], ReverseValidation, "weight", "", None, None)
    asked = [(run.cells, run.seed) for run in runs]
    these = [found for found in collect([root], ReverseValidation.experiment) if (found.cells, found.seed) in asked]
    given: dict[str, object] = {"data-dir": made.data_dir, "updates": updates, "limit": limit, "n-filters": n_filters}
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    print("\nTo learn with the weight of each method's least reverse error, and the --seeds of your choice:\n")
    for weight, of_methods in chosen_weights(these).items():
        words = ["train", "--preset", preset, "--source", source, *options, "--methods", *of_methods]
        print(f"  {shlex.join(['python', '-m', 'supervised.adaptation', *words, '--weight', str(weight)])}")


generalize = App("generalize", help="Domain generalization: nothing is seen of the domain that is the test.")
app.command(generalize)
add_table(generalize, "supervised.adaptation.generalization:GeneralizationRun", "method", "pooled")


@generalize.default
def leave_one_out(
    *,
    made: Made = MADE,
    preset: Preset = "quick",
    domains: Names = ("mnist", "digits", "mnist-m", "rotated"),
    methods: Names = ("pooled", "coral", "mmd"),
    weight: Weight = 1.0,
    updates: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
    where: Here = IN_PROCESS,
) -> None:
    """
    Hold each domain out in turn: learn the others, and test on it. Runs that are there are not made again.

    :param made: which runs, and from what
    :param preset: quick or cpu: updates of 32 images of each domain, and images of each domain
    :param domains: three or more, with the same classes
    :param methods: pooled, which has no penalty; coral, mmd
    :param weight: of the penalties; one set of runs has one
    :param updates: in place of the preset's
    :param limit: images of each domain, in place of the preset's
    :param n_filters: of each convolution
    :param where: it runs
    """
    from supervised.adaptation.generalization import METHODS as PENALTIES
    from supervised.adaptation.generalization import POOLED, GeneralizationRun
    from supervised.experiments import check_choices, make_runs

    check_choices("method", methods, (POOLED, *PENALTIES))
    chosen = where.chosen()
    data = _data(made, *domains)
    n_updates, most = PRESETS[preset]
    shape = (updates or n_updates, limit or most, weight, n_filters)
    runs = [
        GeneralizationRun(data, seed, method, domains, held_out, *shape)
        for seed in made.seeds
        for held_out in domains
        for method in methods
    ]
    make_runs(runs, made.root, chosen, made.dry_run)


def _data(made: Made, *domains: str) -> str:
    from supervised.adaptation.domains import DOMAINS, download
    from supervised.experiments import check_choices
    from supervised.multi_cv.data import default_data_dir

    def fetch(data: str) -> None:
        check_choices("domain", domains, DOMAINS)
        download(data, domains)

    return made.data(default_data_dir, fetch)


def _runs(
    kind: type[AdaptationRun],
    data: str,
    preset: Preset,
    source: str,
    targets: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    weights: tuple[float, ...],
    updates: int | None,
    limit: int | None,
    n_filters: int,
) -> list[AdaptationRun]:
    from supervised.adaptation.experiment import WEIGHTED

    n_updates, most = PRESETS[preset]
    return [
        kind(data, seed, method, source, target, updates or n_updates, limit or most, weight, n_filters)
        for seed in seeds
        for target in targets
        for method in methods
        for weight in (weights if method in WEIGHTED else (1.0,))  # without a penalty they are one run
    ]


def main(arguments: list[str] | None = None) -> int:
    """:return: exit code"""
    return run_command(app, arguments)


if __name__ == "__main__":
    run_program(main, "%(levelname)s: %(message)s")
