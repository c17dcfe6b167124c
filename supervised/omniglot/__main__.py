"""
``python -m supervised.omniglot``: the Omniglot experiment (Flennerhag et al., ICLR 2019, section 4.1 and appendix D).

Exit codes as those of ``leap-rl``: 2 for bad input, 1 for a failure, 130 after Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError
from cyclopts.validators import Number

app = App("supervised.omniglot", help="Omniglot with the learners that the paper compares.", version_flags=())

Preset = Literal["quick", "cpu", "paper"]
# Meta steps, meta batch, updates. Paper: appendix D. cpu: what 2 cores do in some hours. quick: some minutes.
PRESETS: dict[str, tuple[int, int, int]] = {"quick": (2, 2, 20), "cpu": (60, 5, 100), "paper": (1000, 20, 100)}
LEARNERS = ("none", "leap", "reptile", "fomaml", "maml")

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())]
Ints = Annotated[tuple[Positive, ...], Parameter(consume_multiple=True, negative=())]
Seeds = Annotated[
    tuple[Annotated[int, Parameter(validator=Number(gte=0))], ...], Parameter(consume_multiple=True, negative=())
]


@app.command
def train(
    *,
    data_dir: Path | None = None,
    preset: Preset = "quick",
    learners: Names = LEARNERS,
    pretraining: Ints = (20,),
    seeds: Seeds = (0,),
    meta_steps: Positive | None = None,
    meta_batch_size: Positive | None = None,
    updates: Positive | None = None,
    meta_learning_rate: Annotated[float, Parameter(validator=Number(gt=0))] | None = None,
    n_workers: Positive | None = None,
    root: Path = Path("runs/omniglot"),
    dry_run: bool = False,
) -> None:
    """
    Meta-train learners, and learn the held-out alphabets from what they found. Runs that are there go on.

    :param data_dir: of Omniglot; without it $LEAP_RL_DATA/omniglot, or torchvision's download in the user's cache
    :param preset: quick, cpu or paper: meta steps, meta batch and updates
    :param learners: none, leap, reptile, fomaml, maml
    :param pretraining: numbers of pretraining alphabets
    :param seeds: of the runs
    :param meta_steps: in place of the preset's
    :param meta_batch_size: in place of the preset's
    :param updates: of a learning process, in place of the preset's
    :param meta_learning_rate: in place of the paper's
    :param n_workers: processes; without it one per core
    :param root: folder of the runs
    :param dry_run: print what would be run, in images
    """
    from leap_rl.core import InProcess, Workers
    from supervised.omniglot.alphabets import split
    from supervised.omniglot.data import default_data_dir
    from supervised.omniglot.experiment import LEARNERS as known
    from supervised.omniglot.experiment import Run, evaluate, images, meta_train

    for learner in learners:
        if learner not in known:
            raise ValueError(f"no learner {learner!r}: there are {', '.join(known)}")
    data = str((data_dir or default_data_dir()).absolute())
    steps, batch, n_updates = PRESETS[preset]
    runs = [
        Run(
            data,
            learner,  # type: ignore[arg-type]
            n,
            seed,
            meta_steps or steps,
            meta_batch_size or batch,
            updates or n_updates,
            meta_learning_rate if learner != "none" else None,
        )
        for seed in seeds
        for n in pretraining
        for learner in learners
    ]
    for run in runs:
        split(data, run.n_pretraining, run.seed)
    if dry_run:
        for run in runs:
            print(f"{run.name}: {run.meta_steps_of_learner} meta steps × {run.meta_batch_size}, {images(run):,} images")
        print(f"{len(runs)} runs, {sum(map(images, runs)):,} images through forward and backward, the evaluation aside")
        return
    engine = InProcess() if n_workers == 1 else Workers(n_workers)
    for run in runs:
        folder = root / run.name
        print(f"{run.name}: {run.meta_steps_of_learner} meta steps, in {folder}", flush=True)
        start = meta_train(run, folder, engine, progress_bar=True)
        results = evaluate(run, start, folder, engine)
        error = sum(r.scores["test_error"] for r in results.values()) / len(results)
        area = sum(r.curve.area() for r in results.values()) / len(results)
        print(
            f"  {len(results)} held-out alphabets: test error {100 * error:.1f} %, area {100 * area:.1f} %", flush=True
        )


@app.command
def table(*, root: Path = Path("runs/omniglot"), figure: Path | None = None) -> None:
    """
    Print what the runs showed, and what is missing.

    :param root: folder of the runs
    :param figure: PNG to write: area against the number of pretraining alphabets
    """
    from supervised.omniglot.table import plot
    from supervised.omniglot.table import table as markdown

    print(markdown(root))
    if figure is not None:
        plot(root, figure)


def main(arguments: list[str] | None = None) -> int:
    """:return: exit code"""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return 0
    except (CycloptsError, ValueError) as error:
        print(f"supervised.omniglot: {str(error).strip()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on.", file=sys.stderr)
        return 130
    except (OSError, RuntimeError) as error:
        print(f"supervised.omniglot: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    sys.exit(main())
