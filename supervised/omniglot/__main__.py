"""
``python -m supervised.omniglot``: the Omniglot experiment (Flennerhag et al., ICLR 2019, section 4.1 and appendix D).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import App

from leap_rl.ending import run_program
from supervised.command_line import (
    ANYWHERE,
    MADE,
    Ints,
    Made,
    Names,
    Positive,
    Rates,
    WhereTogether,
    run_all,
    run_command,
)
from supervised.few_shot.command import app as few_shot

if TYPE_CHECKING:
    from leap_rl.core import Engine
    from supervised.omniglot.experiment import Run

app = App("supervised.omniglot", help="Omniglot with the learners that the paper compares.", version_flags=())

Preset = Literal["quick", "cpu", "paper"]
# Meta steps, meta batch, updates. Paper: appendix D. cpu: what 2 cores do in some hours. quick: some minutes.
PRESETS: dict[str, tuple[int, int, int]] = {"quick": (4, 4, 50), "cpu": (60, 5, 100), "paper": (1000, 20, 100)}
ROOT = Path("runs/omniglot")
LEARNERS = ("none", "leap", "reptile", "fomaml", "maml", "multihead")


@app.command
def train(
    *,
    made: Made = MADE,
    preset: Preset = "quick",
    learners: Names = LEARNERS,
    pretraining: Ints = (20,),
    meta_steps: Positive | None = None,
    meta_batch_size: Positive | None = None,
    updates: Positive | None = None,
    meta_learning_rates: Rates = (),
    validation: bool = False,
    arithmetic: Literal["exact", "fast"] = "exact",
    where: WhereTogether = ANYWHERE,
) -> None:
    """
    Meta-train learners, and learn the held-out alphabets from what they found. Runs that are there go on.

    :param made: which runs, and from what
    :param preset: quick, cpu or paper: meta steps, meta batch and updates
    :param learners: none, leap, reptile, fomaml, maml, multihead; leap-encoder, reptile-encoder: heads are not
        meta-learned
    :param pretraining: numbers of pretraining alphabets
    :param meta_steps: in place of the preset's
    :param meta_batch_size: in place of the preset's
    :param updates: of a learning process, in place of the preset's
    :param meta_learning_rates: in place of the paper's; of each one run
    :param validation: hold out a part of the pretraining alphabets instead, to choose the meta learning rate by
    :param arithmetic: exact, or fast: bfloat16 where the hardware multiplies it; other bits
    :param where: it runs
    """
    from supervised.experiments import check_choices
    from supervised.omniglot.data import absent_sets, default_data_dir, download
    from supervised.omniglot.experiment import KNOWN, Run
    from supervised.runs import check_folder

    check_choices("learner", learners, KNOWN)
    data = made.data(default_data_dir, download)
    steps, batch, n_updates = PRESETS[preset]
    runs = dict.fromkeys(
        Run(
            data,
            learner,
            n,
            seed,
            meta_steps or steps,
            meta_batch_size or batch,
            updates or n_updates,
            rate,
            validation,
            arithmetic,
        )
        for seed in made.seeds
        for n in pretraining
        for learner in learners
        for rate in (meta_learning_rates if meta_learning_rates and learner != "none" else (None,))
    )
    if not runs:
        raise ValueError(
            "nothing to run: give at least one of --learners, --pretraining and --seeds, or leave them out"
        )
    root = made.root or ROOT
    for run in runs:
        check_folder(root / run.name, run.settings(), run.budget(run.meta_steps))
    chosen = where.chosen()
    for name in absent_sets(data):
        print(f"{data} has no {name}: the split is not that of all of Omniglot")
    if made.dry_run:
        images = [run.images() for run in runs]
        for run, (pretraining_images, evaluation) in zip(runs, images, strict=True):
            print(f"{run.name}: {pretraining_images:,} images in pretraining, {evaluation:,} on held-out alphabets")
        print(f"{len(runs)} runs, {sum(map(sum, images)):,} images through forward and backward")
    else:
        run_all({run.name: partial(_train, run, root / run.name, chosen) for run in runs})


@app.command
def ablation(
    *,
    made: Made = MADE,
    preset: Preset = "quick",
    pretraining: Positive = 20,
    meta_learning_rates: Rates = (),
    where: WhereTogether = ANYWHERE,
) -> None:
    """
    Train the six variants of Leap of the paper's appendix C: length or energy, without the loss in the manifold, with
    it, and with it but without the stabilizer.

    :param made: which runs, and from what
    :param preset: as of train
    :param pretraining: number of pretraining alphabets
    :param meta_learning_rates: as of train
    :param where: it runs
    """
    from supervised.omniglot.experiment import ABLATION

    train(
        made=made,
        preset=preset,
        learners=tuple(ABLATION),
        pretraining=(pretraining,),
        meta_learning_rates=meta_learning_rates,
        where=where,
    )


@app.command
def evaluate(
    run: Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    where: WhereTogether = ANYWHERE,
) -> None:
    """
    Print how each held-out alphabet was learned from what a run found, at the last meta step that was evaluated.

    :param run: folder of a run; what its evaluation lacks is made up
    :param data_dir: as of train
    :param download: as of train
    :param where: it runs
    """
    from supervised.omniglot.data import default_data_dir
    from supervised.omniglot.data import download as fetch
    from supervised.omniglot.experiment import Run, evaluate_run

    chosen = where.chosen()
    data = Made(data_dir=data_dir, download=download).data(default_data_dir, fetch)
    results, meta_steps = evaluate_run(Run.read(run, data), run, chosen)
    print(f"{run.name} after {meta_steps} meta steps\n\n| alphabet | test error, % | area, % |\n|---|---|---|")
    for name, result in sorted(results.items()):
        print(f"| {name} | {100 * result.scores['test_error']:.1f} | {100 * result.curve.area():.1f} |")


@app.command
def table(
    *roots: Path,
    meta_steps: Positive | None = None,
    less: str = "none",
    figure: Path | None = None,
    save: Path | None = None,
    validation: bool = False,
) -> None:
    """
    Print what the runs showed, and what is missing.

    :param roots: folders of runs, and files that --save wrote, together; without one runs/omniglot
    :param meta_steps: after which the runs are compared; without it the last that any was evaluated after
    :param less: the learner to which differences are taken, on the same seeds; with its rate where there are several
        ("leap, β 0.2")
    :param figure: PNG to write: area against the number of pretraining alphabets, learning curves on held-out
        alphabets, test error over the meta steps, and training curves getting shorter
    :param save: JSON to write, with all that table and figure need
    :param validation: of the runs that choose a meta learning rate
    """
    from supervised.omniglot.table import collect, plot
    from supervised.omniglot.table import table as markdown
    from supervised.runs import save_runs

    roots = roots or (ROOT,)
    found = collect(*roots)
    shown = [run for run in found if run.validation == validation]
    if not shown:
        raise ValueError(f"{', '.join(map(str, roots))}: only runs {'without' if validation else 'with'} --validation")
    printed = markdown(shown, meta_steps, less)  # says what can't be shown, before a file is replaced
    if figure is not None:
        plot(shown, figure, meta_steps)
    if save is not None:
        save_runs(save, found)
    print(printed)


app.command(few_shot)


def _train(run: Run, folder: Path, engine: Engine) -> None:
    from supervised.omniglot.experiment import train as learn

    print(f"{run.name}: {run.images()[0]:,} images, in {folder}", flush=True)
    for meta_steps, results in learn(run, folder, engine, progress_bar=True):
        error = sum(r.scores["test_error"] for r in results.values()) / len(results)
        area = sum(r.curve.area() for r in results.values()) / len(results)
        print(
            f"  after {meta_steps} meta steps, {len(results)} held-out alphabets: "
            f"test error {100 * error:.1f} %, area {100 * area:.1f} %",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> int:
    """:return: exit code"""
    return run_command(app, arguments)


if __name__ == "__main__":
    run_program(main, "%(levelname)s: %(message)s")
