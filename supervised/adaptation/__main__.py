"""``python -m supervised.adaptation``: learn a labelled source, be tested on a target whose labels were never seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from leap_rl.ending import run_program
from supervised.command_line import IN_PROCESS, Here, Names, Positive, Rates, Seeds, run_command

if TYPE_CHECKING:
    from supervised.adaptation.experiment import AdaptationRun

app = App("supervised.adaptation", help="Adaptation to a domain without labels.", version_flags=())

Preset = Literal["quick", "cpu"]
# Updates of 64 images of each domain, and images of each domain at most.
PRESETS: dict[Preset, tuple[int, int]] = {"quick": (60, 1000), "cpu": (200, 3000)}
METHODS = ("source-only", "batch-norm", "coral", "mmd", "transport", "dann", "self-training")
ROOT = Path("runs/adaptation")
Weight = Annotated[float, Parameter(validator=Number(gt=0))]


@app.command
def train(
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preset: Preset = "quick",
    source: str = "mnist",
    targets: Names = ("digits", "mnist-m"),
    methods: Names = METHODS,
    seeds: Seeds = (0,),
    weight: Weight | None = None,
    updates: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
    where: Here = IN_PROCESS,
    root: Path = ROOT,
    dry_run: bool = False,
) -> None:
    """
    Learn the source with each method, and test on the targets. Runs that are there are not made again.

    :param data_dir: of the data sets, as of supervised.multi_cv; without it $LEAP_RL_DATA, or leap_rl's folder in the
        user's cache
    :param download: what is not there of the domains' data sets, by torchvision
    :param preset: quick or cpu: updates, and images of each domain
    :param source: mnist, digits (UCI's, of scikit-learn), mnist-m, rotated, corrupted, usps, svhn, fashion-mnist or
        notmnist
    :param targets: domains with the same classes
    :param methods: source-only, batch-norm, coral, mmd, transport, dann, self-training; and target-labels, the ceiling
    :param seeds: of the runs
    :param weight: of the methods' penalties, in place of theirs; one set of runs has one
    :param updates: in place of the preset's
    :param limit: images of each domain, in place of the preset's
    :param n_filters: of each convolution
    :param where: it runs
    :param root: folder of the runs
    :param dry_run: print what would be run, in images
    """
    from supervised.adaptation.experiment import KNOWN, AdaptationRun
    from supervised.experiments import check_choices, make_runs

    check_choices("method", methods, KNOWN)
    chosen = where.chosen()
    data = _data(data_dir, download, source, *targets)
    runs = _runs(AdaptationRun, data, preset, source, targets, methods, seeds, (weight,), updates, limit, n_filters)
    make_runs(runs, root, chosen, dry_run)


choose = App("choose", help="Weights by reverse validation, which needs no label of a target.")
app.command(choose)

WEIGHTS_ROOT = Path("runs/adaptation-weights")


@choose.default
def by_reverse_validation(
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preset: Preset = "quick",
    source: str = "mnist",
    targets: Names = ("rotated",),
    methods: Names = METHODS[2:],
    weights: Rates = (0.1, 1.0, 10.0),
    seeds: Seeds = (0,),
    updates: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
    where: Here = IN_PROCESS,
    root: Path = WEIGHTS_ROOT,
    dry_run: bool = False,
) -> None:
    """
    Compare weights by reverse validation, which needs no label of a target: the least reverse error is to be taken.

    :param data_dir: as of train
    :param download: as of train
    :param preset: as of train
    :param source: as of train
    :param targets: as of train; without it another one than those of train
    :param methods: as of train
    :param weights: of the penalties
    :param seeds: of the runs
    :param updates: as of train
    :param limit: as of train
    :param n_filters: as of train
    :param where: it runs
    :param root: as of train
    :param dry_run: as of train
    """
    from supervised.adaptation.experiment import ReverseValidation
    from supervised.adaptation.methods import METHODS as ADAPTING
    from supervised.experiments import check_choices, make_runs, show

    check_choices("method with a weight", methods, [name for name in ADAPTING if name != "batch-norm"])
    chosen = where.chosen()
    data = _data(data_dir, download, source, *targets)
    runs = _runs(ReverseValidation, data, preset, source, targets, methods, seeds, weights, updates, limit, n_filters)
    make_runs(runs, root, chosen, dry_run)
    if not dry_run:
        show((root,), ReverseValidation, "weight", "", None, None)


@choose.command(name="table")
def weights_table(*roots: Path, save: Path | None = None) -> None:
    """
    Print the reverse errors, and what is missing.

    :param roots: folders of runs, and files that --save wrote, together; without one runs/adaptation-weights
    :param save: JSON to write, with all that the table needs
    """
    from supervised.adaptation.experiment import ReverseValidation
    from supervised.experiments import show

    show(roots or (WEIGHTS_ROOT,), ReverseValidation, "weight", "", None, save)


@app.command
def table(
    *roots: Path,
    less: str = "source-only",
    figure: Path | None = None,
    save: Path | None = None,
) -> None:
    """
    Print what the runs showed, and what is missing.

    :param roots: folders of runs, and files that --save wrote, together; without one runs/adaptation
    :param less: the method to which differences are taken, on the same pairs and seeds
    :param figure: PNG to write: the error of each method on each pair
    :param save: JSON to write, with all that table and figure need
    """
    from supervised.adaptation.experiment import AdaptationRun
    from supervised.experiments import show

    show(roots or (ROOT,), AdaptationRun, "method", less, figure, save)


generalize = App("generalize", help="Domain generalization: nothing is seen of the domain that is the test.")
app.command(generalize)

GENERALIZATION_ROOT = Path("runs/generalization")


@generalize.default
def leave_one_out(
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preset: Preset = "quick",
    domains: Names = ("mnist", "digits", "mnist-m", "rotated"),
    methods: Names = ("pooled", "coral", "mmd"),
    seeds: Seeds = (0,),
    weight: Weight = 1.0,
    updates: Positive | None = None,
    limit: Positive | None = None,
    n_filters: Positive = 32,
    where: Here = IN_PROCESS,
    root: Path = GENERALIZATION_ROOT,
    dry_run: bool = False,
) -> None:
    """
    Hold each domain out in turn: learn the others, and test on it. Runs that are there are not made again.

    :param data_dir: as of train
    :param download: as of train
    :param preset: quick or cpu: updates of 32 images of each domain, and images of each domain
    :param domains: three or more, with the same classes
    :param methods: pooled, which has no penalty; coral, mmd
    :param seeds: of the runs
    :param weight: of the penalties; one set of runs has one
    :param updates: in place of the preset's
    :param limit: images of each domain, in place of the preset's
    :param n_filters: of each convolution
    :param where: it runs
    :param root: folder of the runs
    :param dry_run: print what would be run, in images
    """
    from supervised.adaptation.generalization import METHODS as PENALTIES
    from supervised.adaptation.generalization import POOLED, runs_of
    from supervised.experiments import check_choices, make_runs

    check_choices("method", methods, (POOLED, *PENALTIES))
    chosen = where.chosen()
    data = _data(data_dir, download, *domains)
    n_updates, most = PRESETS[preset]
    runs = runs_of(data, domains, methods, seeds, updates or n_updates, limit or most, weight, n_filters)
    make_runs(runs, root, chosen, dry_run)


@generalize.command(name="table")
def generalization_table(
    *roots: Path, less: str = "pooled", figure: Path | None = None, save: Path | None = None
) -> None:
    """
    Print what the runs showed, and what is missing.

    :param roots: folders of runs, and files that --save wrote, together; without one runs/generalization
    :param less: the method to which differences are taken, on the same domains and seeds
    :param figure: PNG to write: the error of each method on each domain
    :param save: JSON to write, with all that table and figure need
    """
    from supervised.adaptation.generalization import GeneralizationRun
    from supervised.experiments import show

    show(roots or (GENERALIZATION_ROOT,), GeneralizationRun, "method", less, figure, save)


def _data(data_dir: Path | None, download: bool, *domains: str) -> str:
    """The folder of the data sets; what is not there of these domains is fetched first, if that is asked for."""
    from supervised.adaptation.domains import DOMAINS
    from supervised.adaptation.domains import download as fetch
    from supervised.experiments import check_choices
    from supervised.multi_cv.data import default_data_dir

    data = str((data_dir or default_data_dir()).absolute())
    if download:
        check_choices("domain", domains, DOMAINS)
        fetch(data, domains)
    return data


def _runs(
    kind: type[AdaptationRun],
    data: str,
    preset: Preset,
    source: str,
    targets: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    weights: tuple[float | None, ...],
    updates: int | None,
    limit: int | None,
    n_filters: int,
) -> list[AdaptationRun]:
    n_updates, most = PRESETS[preset]
    return [
        kind(data, seed, method, source, target, updates or n_updates, limit or most, weight, n_filters)
        for seed in seeds
        for target in targets
        for method in methods
        for weight in weights
    ]


def main(arguments: list[str] | None = None) -> int:
    """:return: exit code"""
    return run_command(app, arguments)


if __name__ == "__main__":
    run_program(main, "%(levelname)s: %(message)s")
