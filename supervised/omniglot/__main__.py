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
    IN_PROCESS,
    Here,
    Ints,
    Names,
    Positive,
    Rates,
    Seeds,
    WhereTogether,
    run_all,
    run_command,
)

if TYPE_CHECKING:
    from leap_rl.core import Engine
    from supervised.omniglot.experiment import Run

app = App("supervised.omniglot", help="Omniglot with the learners that the paper compares.", version_flags=())

Preset = Literal["quick", "cpu", "paper"]
# Meta steps, meta batch, updates. Paper: appendix D. cpu: what 2 cores do in some hours. quick: some minutes.
PRESETS: dict[str, tuple[int, int, int]] = {"quick": (4, 4, 50), "cpu": (60, 5, 100), "paper": (1000, 20, 100)}
LEARNERS = ("none", "leap", "reptile", "fomaml", "maml", "multihead")


@app.command
def train(
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preset: Preset = "quick",
    learners: Names = LEARNERS,
    pretraining: Ints = (20,),
    seeds: Seeds = (0,),
    meta_steps: Positive | None = None,
    meta_batch_size: Positive | None = None,
    updates: Positive | None = None,
    meta_learning_rates: Rates = (),
    validation: bool = False,
    arithmetic: Literal["exact", "fast"] = "exact",
    where: WhereTogether = ANYWHERE,
    root: Path = Path("runs/omniglot"),
    dry_run: bool = False,
) -> None:
    """
    Meta-train learners, and learn the held-out alphabets from what they found. Runs that are there go on.

    :param data_dir: of Omniglot; without it $LEAP_RL_DATA/omniglot, or leap_rl's folder in the user's cache
    :param download: what is not in the folder of Omniglot, with torchvision
    :param preset: quick, cpu or paper: meta steps, meta batch and updates
    :param learners: none, leap, reptile, fomaml, maml, multihead; leap-encoder, reptile-encoder: heads are not
        meta-learned
    :param pretraining: numbers of pretraining alphabets
    :param seeds: of the runs
    :param meta_steps: in place of the preset's
    :param meta_batch_size: in place of the preset's
    :param updates: of a learning process, in place of the preset's
    :param meta_learning_rates: in place of the paper's; of each one run
    :param validation: hold out a part of the pretraining alphabets instead, to choose the meta learning rate by
    :param arithmetic: exact, or fast: bfloat16 where the hardware multiplies it; other bits
    :param where: it runs
    :param root: folder of the runs
    :param dry_run: print what would be run, in images
    """
    from supervised.omniglot.data import absent_sets
    from supervised.omniglot.experiment import KNOWN, Run
    from supervised.runs import check_folder

    for learner in learners:
        if learner not in KNOWN:
            raise ValueError(f"no learner {learner!r}: there are {', '.join(KNOWN)}")
    data = _data(data_dir, download)
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
        for seed in seeds
        for n in pretraining
        for learner in learners
        for rate in (meta_learning_rates if meta_learning_rates and learner != "none" else (None,))
    )
    if not runs:
        raise ValueError(
            "nothing to run: give at least one of --learners, --pretraining and --seeds, or leave them out"
        )
    for run in runs:
        check_folder(root / run.name, run.settings(), run.budget(run.meta_steps))
    chosen = where.chosen()
    for name in absent_sets(data):
        print(f"{data} has no {name}: the split is not that of all of Omniglot")
    if dry_run:
        images = [run.images() for run in runs]
        for run, (pretraining_images, evaluation) in zip(runs, images, strict=True):
            print(f"{run.name}: {pretraining_images:,} images in pretraining, {evaluation:,} on held-out alphabets")
        print(f"{len(runs)} runs, {sum(map(sum, images)):,} images through forward and backward")
    else:
        run_all({run.name: partial(_train, run, root / run.name, chosen) for run in runs})


@app.command
def ablation(
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preset: Preset = "quick",
    pretraining: Positive = 20,
    seeds: Seeds = (0,),
    meta_learning_rates: Rates = (),
    where: WhereTogether = ANYWHERE,
    root: Path = Path("runs/omniglot"),
    dry_run: bool = False,
) -> None:
    """
    Train the six variants of Leap of the paper's appendix C: length or energy, without the loss in the manifold, with
    it, and with it but without the stabilizer.

    :param data_dir: as of train
    :param download: as of train
    :param preset: as of train
    :param pretraining: number of pretraining alphabets
    :param seeds: of the runs
    :param meta_learning_rates: as of train
    :param where: it runs
    :param root: as of train
    :param dry_run: as of train
    """
    from supervised.omniglot.experiment import ABLATION

    train(
        data_dir=data_dir,
        download=download,
        preset=preset,
        learners=tuple(ABLATION),
        pretraining=(pretraining,),
        seeds=seeds,
        meta_learning_rates=meta_learning_rates,
        where=where,
        root=root,
        dry_run=dry_run,
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
    from supervised.omniglot.experiment import Run, evaluate_run

    chosen = where.chosen()
    results, meta_steps = evaluate_run(Run.read(run, _data(data_dir, download)), run, chosen)
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
    from supervised.omniglot.table import save as write
    from supervised.omniglot.table import table as markdown

    roots = roots or (Path("runs/omniglot"),)
    found = collect(*roots)
    shown = [run for run in found if run.validation == validation]
    if not shown:
        raise ValueError(f"{', '.join(map(str, roots))}: only runs {'without' if validation else 'with'} --validation")
    if figure is not None:
        plot(shown, figure, meta_steps)
    if save is not None:
        write(found, save)
    print(markdown(shown, meta_steps, less))


few_shot = App("few-shot", help="Few-shot episodes of N ways and K shots, on Omniglot or on folders of images.")
app.command(few_shot)

FEW_SHOT_ROOT = Path("runs/few-shot")
# Images to meta-learn from, and test episodes. paper: those that Snell et al. train Prototypical Networks with are not
# published as a number; ten times cpu is ours.
FEW_SHOT_PRESETS: dict[str, tuple[int, int]] = {
    "quick": (20_000, 100),
    "cpu": (300_000, 600),
    "paper": (3_000_000, 1000),
}


@few_shot.default
def episodes(
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preset: Preset = "quick",
    learner: Names = ("protonet",),
    ways: Ints = (5,),
    shots: Ints = (1,),
    seeds: Seeds = (0,),
    images: Positive | None = None,
    test_episodes: Positive | None = None,
    n_filters: Positive = 64,
    where: Here = IN_PROCESS,
    root: Path = FEW_SHOT_ROOT,
    dry_run: bool = False,
) -> None:
    """
    Meta-learn from episodes, and test on episodes of classes that were never seen. Runs that are there go on.

    :param data_dir: of Omniglot, as of train; or a folder with train/CLASS and test/CLASS, folders of images in colour
    :param download: as of train
    :param preset: quick, cpu or paper: images to meta-learn from, and test episodes
    :param learner: protonet, matching, relation, which compare; maml, fomaml, reptile, leap, which make updates; none
    :param ways: classes of a test episode
    :param shots: images of each in its support
    :param seeds: of the runs
    :param images: in place of the preset's
    :param test_episodes: in place of the preset's
    :param n_filters: of each convolution
    :param where: it runs
    :param root: folder of the runs
    :param dry_run: print what would be run, in images
    """
    from supervised.experiments import check_choices, make_runs
    from supervised.few_shot.classes import described
    from supervised.few_shot.experiment import LEARNERS as KNOWN
    from supervised.few_shot.experiment import FewShotRun

    check_choices("learner", learner, KNOWN)
    data = _data(data_dir, download)
    budget, n_episodes = FEW_SHOT_PRESETS[preset]
    runs = [
        FewShotRun(data, seed, name, n, k, images or budget, test_episodes or n_episodes, n_filters)
        for seed in seeds
        for n in ways
        for k in shots
        for name in learner
    ]
    chosen = where.chosen()
    print(described(data))
    make_runs(runs, root, chosen, dry_run)


@few_shot.command(name="table")
def few_shot_table(*roots: Path, less: str = "", figure: Path | None = None, save: Path | None = None) -> None:
    """
    Print what the runs showed, and what is missing.

    :param roots: folders of runs, and files that --save wrote, together; without one runs/few-shot
    :param less: the learner to which differences are taken, on the same seeds and episodes
    :param figure: PNG to write: the error of each learner
    :param save: JSON to write, with all that table and figure need
    """
    from supervised.experiments import show
    from supervised.few_shot.experiment import FewShotRun

    show(roots or (FEW_SHOT_ROOT,), FewShotRun, "learner", less, figure, save)


def _data(data_dir: Path | None, download: bool) -> str:
    from supervised.omniglot.data import default_data_dir
    from supervised.omniglot.data import download as fetch

    data = str((data_dir or default_data_dir()).absolute())
    if download:
        fetch(data)
    return data


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
