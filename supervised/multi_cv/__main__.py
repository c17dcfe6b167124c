"""
``python -m supervised.multi_cv``: the Multi-CV experiment (Flennerhag et al., ICLR 2019, section 4.2 and appendix E).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from leap_rl.ending import run_program
from supervised.command_line import IN_WORKERS, MADE, Made, Names, Positive, Where, run_all, run_command
from supervised.distillation.command import app as distillation
from supervised.multi_task.command import app as multi_task
from supervised.zero_shot.command import app as zero_shot

if TYPE_CHECKING:
    from leap_rl.core import Engine
    from supervised.multi_cv.experiment import Run

app = App("supervised.multi_cv", help="Multi-CV with the learners that the paper compares.", version_flags=())

Preset = Literal["quick", "cpu", "paper"]
# Paper: appendix E has meta batches of 10 and early stopping; meta steps, passes and batch are ours. cpu: what 2 cores
# do in a night. quick: some minutes.
PRESETS: dict[str, dict[str, int | None]] = {
    "quick": {"meta_steps": 2, "meta_batch_size": 2, "passes": 2, "batch_size": 32, "limit": 400},
    "cpu": {"meta_steps": 10, "meta_batch_size": 5, "passes": 10, "batch_size": 64, "limit": 3000},
    "paper": {"meta_steps": 200, "meta_batch_size": 10, "passes": 100, "batch_size": 64, "limit": None},
}
ROOT = Path("runs/multi_cv")
LEARNERS = ("none", "leap", "leap-sgd", "reptile", "multihead", "hat-none", "hat", "progressive")
BatchNorm = Literal["update", "freeze", "recompute"]


@app.command
def train(
    *,
    made: Made = MADE,
    preset: Preset = "quick",
    learners: Names = LEARNERS,
    held_out: Names = (),
    meta_steps: Positive | None = None,
    meta_batch_size: Positive | None = None,
    passes: Positive | None = None,
    batch_size: Positive | None = None,
    limit: Positive | None = None,
    where: Where = IN_WORKERS,
) -> None:
    """
    Learn from all data sets that are there but one, and then the one that is held out. Runs that are there go on.

    Torchvision can download all data sets but notmnist and facescrub.

    :param made: which runs, and from what
    :param preset: quick, cpu or paper: meta steps, meta batch, passes, batch, limit
    :param learners: none, leap, leap-sgd, reptile, multihead, hat-none, hat, progressive, and hat-sequential and
        progressive-sequential
    :param held_out: data sets, each held out in turn; without it all that are there, of the preset quick the first
    :param meta_steps: in place of the preset's
    :param meta_batch_size: in place of the preset's
    :param passes: over the held-out data set, in place of the preset's
    :param batch_size: in place of the preset's
    :param limit: images of a data set, in place of the preset's
    :param where: it runs
    """
    from supervised.experiments import check_choices
    from supervised.multi_cv.data import DATA_SETS, available, check_name, default_data_dir, download, load
    from supervised.multi_cv.experiment import LEARNERS as KNOWN
    from supervised.multi_cv.experiment import Run
    from supervised.runs import check_folder

    check_choices("learner", learners, KNOWN)
    for name in held_out:
        check_name(name)
    wanted = [*held_out, *(name for name, d in DATA_SETS.items() if d.torchvision is not None)]
    data = Path(made.data(default_data_dir, lambda data: download(data, wanted)))
    if made.data_dir is not None and not data.is_dir():
        raise ValueError(f"there is no folder {data}: --data-dir names that of the data sets")
    there = available(str(data))
    for name in held_out:
        load(str(data), name)  # says what is wrong with it
    if len(there) < 2:
        raise ValueError(
            f"{data} holds {', '.join(there) or 'none'} of the data sets, at least two are needed: "
            + "; ".join(f"{name}: {d.how_to_get(data)}" for name, d in DATA_SETS.items() if name not in there)
        )
    given = {"meta_steps": meta_steps, "meta_batch_size": meta_batch_size, "passes": passes}
    given |= {"batch_size": batch_size, "limit": limit}
    budget: dict[str, Any] = PRESETS[preset] | {setting: value for setting, value in given.items() if value is not None}
    runs = dict.fromkeys(
        Run(
            data_dir=str(data),
            learner=learner,
            held_out=name,
            pretraining=tuple(other for other in there if other != name),
            seed=seed,
            **budget,
        )
        for seed in made.seeds
        for name in held_out or (there[:1] if preset == "quick" else there)
        for learner in learners
    )
    if not runs:
        raise ValueError("nothing to run: give at least one of --learners and --seeds, or leave them out")
    root = made.root or ROOT
    for run in runs:
        run.data_sets()  # says what is wrong with the data
        check_folder(root / run.name, run.settings(), run.budget())
    chosen = where.chosen()
    print(f"Data sets: {', '.join(there)}")
    for name in DATA_SETS:
        if name not in there:
            print(f"Not there: {name}. To have it: {DATA_SETS[name].how_to_get(data)}")
    if made.dry_run:
        images = [run.images() for run in runs]
        for run, (pretraining, evaluation) in zip(runs, images, strict=True):
            print(f"{run.name}: {pretraining:,} images in pretraining, {evaluation:,} on {run.held_out}")
        print(f"{len(runs)} runs, {sum(map(sum, images)):,} images through forward and backward, at most")
    else:
        run_all({run.name: partial(_train, run, root / run.name, chosen) for run in runs})


@app.command
def evaluate(
    run: Path,
    *,
    finetune: str = "",
    batch_norm: BatchNorm = "update",
    learning_rate: Annotated[float, Parameter(validator=Number(gt=0))] | None = None,
    transfer_layers: Names = (),
    data_dir: Path | None = None,
    download: bool = False,
    where: Where = IN_WORKERS,
) -> None:
    """
    Print how the held-out data set was learned from what a run found.

    :param run: folder of a run; an evaluation that is missing is made up
    :param finetune: strategies to learn it by, such as lp-ft or gradual:over=0.3; with + between several
    :param batch_norm: update its statistics with every minibatch, freeze those that the run found, or recompute them on
        the held-out data set's training images first
    :param learning_rate: of SGD; without it that of the experiment
    :param transfer_layers: blocks that are taken, such as encoder.0, or what these begin with; without it all
    :param data_dir: as of train
    :param download: those of its data sets that are not there, as of train
    :param where: it runs
    """
    from supervised.multi_cv.data import default_data_dir
    from supervised.multi_cv.data import download as fetch
    from supervised.multi_cv.experiment import Run, evaluate_run
    from supervised.multi_cv.table import training_error
    from supervised.multi_cv.tasks import LEARNING_RATE
    from supervised.multi_cv.way import Way

    chosen = where.chosen()
    settings = Run.read(run, str((data_dir or default_data_dir()).absolute()))
    if download:
        fetch(settings.data_dir, [settings.held_out, *settings.pretraining])
    way = Way(finetune, batch_norm, learning_rate or LEARNING_RATE, tuple(transfer_layers))
    result = evaluate_run(settings, run, chosen, way)
    print("| | test error, % | training error, % | area, % | images |\n|---|---|---|---|---|")
    figures = (result.scores["test_error"], training_error(result.curve), result.curve.area())
    print(f"| {run.name} | {' | '.join(f'{100 * figure:.1f}' for figure in figures)} | {result.steps:,} |")


@app.command
def tune(
    run: Path,
    *,
    trials: Positive = 20,
    folds: Annotated[int, Parameter(validator=Number(gte=2))] = 3,
    data_dir: Path | None = None,
    where: Where = IN_WORKERS,
) -> None:
    """
    Search strategy, batch norm, learning rate and blocks that are taken, by folds of the held-out data set's training
    images. It goes on where it is.

    :param run: folder of a run that is finished
    :param trials: in all
    :param folds: of the training images; each is judged by what is learned from the others
    :param data_dir: as of train
    :param where: it runs
    """
    from supervised.multi_cv.data import default_data_dir
    from supervised.multi_cv.experiment import Run
    from supervised.multi_cv.tune import tune as search

    chosen = where.chosen()
    settings = Run.read(run, str((data_dir or default_data_dir()).absolute()))
    best, error, plain = search(settings, run, chosen, trials, folds)
    print(f"\nMean error on {folds} folds: best {100 * error:.1f} %, plain {100 * plain:.1f} %. Test images were not")
    print("looked at; to learn by the best settings and be tested:\n")
    print(f"  {best.command(run, data_dir)}")


@app.command
def table(
    *roots: Path,
    meta_steps: Positive | None = None,
    figure: Path | None = None,
    save: Path | None = None,
) -> None:
    """
    Print the table of the paper from the runs found, negative transfer, and what is missing.

    :param roots: folders of runs, and files that --save wrote, together; without one runs/multi_cv
    :param meta_steps: the budget that runs are compared at; without it the largest that any has
    :param figure: PNG to write: learning curves on each held-out data set
    :param save: JSON to write, with all that table and figure need
    """
    from supervised.multi_cv.table import at_budget, collect, plot
    from supervised.multi_cv.table import table as markdown
    from supervised.runs import save_runs

    found = collect(*(roots or (ROOT,)))
    shown = at_budget(found, meta_steps)
    printed = markdown(shown)
    if figure is not None:
        plot(shown, figure)
    if save is not None:
        save_runs(save, found)
    print(printed)


for experiment in (multi_task, distillation, zero_shot):
    app.command(experiment)


def _train(run: Run, folder: Path, engine: Engine) -> None:
    from supervised.multi_cv.experiment import train as learn

    print(f"{run.name}, in {folder}", flush=True)
    result = learn(run, folder, engine, progress_bar=True)
    error, area = result.scores["test_error"], result.curve.area()
    print(f"  {run.held_out}: test error {100 * error:.1f} %, area {100 * area:.1f} %", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """:return: exit code"""
    return run_command(app, arguments)


if __name__ == "__main__":
    run_program(main, "%(levelname)s: %(message)s")
