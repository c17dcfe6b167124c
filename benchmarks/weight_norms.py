"""
How much of what an initialization does is done by the norms of its weights?

    python benchmarks/weight_norms.py runs/multi_cv --json docs/evidence/multi-cv-norms.json  # 2 minutes a run; goes on

Batch norm undoes the scale of a convolution, but the larger its weights are, the less a step of SGD turns them: of
twice the norm, by a quarter. So each convolution that Leap found is given the norm that the same one has in the random
weights of the run without pretraining, and the other way round. Both compute what they did before, and learn the
held-out data set as in the runs of ``python -m supervised.multi_cv`` that are there. Differences are to random weights,
of the same seeds, with Student's interval of 95 %. Rows that the JSON file has already stay, of runs that are gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import parser

from leap_rl.core import Initialization, InProcess, Job, NoPretraining
from leap_rl.core.kept_results import load_result
from leap_rl.running.files import write_rows
from supervised.intervals import difference_cell
from supervised.multi_cv.data import DATA_SETS, default_data_dir
from supervised.multi_cv.experiment import Run
from supervised.runs import evaluate, read_runs

STARTS = ("leap", "leap, norms of none", "none, norms of leap")
MEASURES = ("test error", "area")


def with_norms_of(start: Initialization, other: Initialization) -> Initialization:
    """The start, with each convolution scaled to the norm that the same one has in the other."""
    scaled = start.clone()
    for name, weight in scaled.parameters.items():
        if weight.ndim == 4:
            weight *= other.parameters[name].norm() / weight.norm()
    return scaled


def compare(run: Run, leap: Path, none: Path, folder: Path) -> list[dict[str, Any]]:
    """
    :param run: of Leap
    :param leap: what was evaluated of it
    :param none: of the run without pretraining
    :param folder: where results are kept
    :return: a row for each start
    """
    found, drawn = (Initialization.load(evaluated / "initialization") for evaluated in (leap, none))
    results = {start: load_result(of / "held-out" / run.held_out) for start, of in (("none", none), ("leap", leap))}
    task = run.data_sets()[1][0]
    for name, start in ((STARTS[1], with_norms_of(found, drawn)), (STARTS[2], with_norms_of(drawn, found))):
        job = Job(task, start, NoPretraining(), run.seed)
        results[name] = evaluate([job], f"{name}, {run.held_out}", folder / name, InProcess())[run.held_out]
    rows = []
    for name, result in results.items():
        assert result is not None
        row: dict[str, Any] = {"held_out": run.held_out, "seed": run.seed, "start": name}
        row["test error"] = round(100 * result.scores["test_error"], 2)
        rows.append(row | {"area": round(100 * result.curve.area(), 2)})
    return rows


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("runs", type=Path, help="folder of the runs, some of leap and of none")
    cli.add_argument("--data-dir", type=Path, default=default_data_dir(), help="of the data sets")
    cli.add_argument("--kept", type=Path, default=Path("runs/weight_norms"), help="folder of the results")
    args = cli.parse_args()
    rows: list[dict[str, Any]] = []
    if args.json is not None and args.json.is_file():
        try:
            rows = read_runs(args.json, ("held_out", "seed", "start", *MEASURES))
        except ValueError as error:
            cli.error(str(error))
    for folder in sorted(args.runs.glob("leap-*-seed*")):
        run = Run.read(folder, str(args.data_dir.absolute()))
        none = args.runs / f"none-{run.held_out}-seed{run.seed}"
        evaluated = [[f.parents[1] for f in of.glob(f"[0-9]*/held-out/{run.held_out}")] for of in (folder, none)]
        if run.learner == "leap" and all(evaluated):
            leap_at, none_at = (max(folders, key=lambda folder: int(folder.name)) for folders in evaluated)
            rows += compare(run, leap_at, none_at, args.kept / run.name)
            if args.quick:
                break
    if not rows:
        cli.error(f"{args.runs} has no run of leap that is finished, with one of none on the same data set and seed")
    found = {(row["held_out"], row["seed"], row["start"]): row for row in rows}  # the latest of each
    for measure in MEASURES:
        print(f"\n{measure} less that of random weights, points\n\n| held out | {' | '.join(STARTS)} |")
        print("|---" * (len(STARTS) + 1) + "|")
        for name in [name for name in DATA_SETS if any(held_out == name for held_out, _, _ in found)]:
            seeds = sorted({seed for held_out, seed, _ in found if held_out == name})
            cells = [
                difference_cell([found[name, s, start][measure] - found[name, s, "none"][measure] for s in seeds])
                for start in STARTS
            ]
            print(f"| {name} | {' | '.join(cells)} |")
    if args.json is not None:
        write_rows(args.json, list(found.values()))


if __name__ == "__main__":
    main()
