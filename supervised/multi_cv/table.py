"""What the runs of the Multi-CV experiment showed: the paper's table, negative transfer, learning curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from leap_rl.core import LearningCurve
from leap_rl.core.checkpoint import load_result
from supervised.intervals import difference_cell, mean_cell
from supervised.multi_cv.data import DATA_SETS
from supervised.multi_cv.experiment import LEARNERS, SEQUENTIAL, Run
from supervised.runs import missing_runs, read_runs

SMOOTHED_OVER = 20
"""Updates, in the figure: a minibatch alone is mostly noise."""


@dataclass
class Findings:
    """
    What one run found.

    :param learner: its learner
    :param held_out: data set that it was judged on
    :param seed: of the run
    :param meta_steps: its budget; 0 without pretraining
    :param pretraining_images: that it spent, forward and backward; fewer where it stopped early
    :param protocol: what runs must share to be compared
    :param status: of the process that learned what was held out; ``non_finite`` where it diverged
    :param test_error: in per cent, as all that follow
    :param training_error: see ``training_error``
    :param area: under the training error curve
    :param steps: images seen at each point of the curve
    :param curve: training error there
    """

    learner: str
    held_out: str
    seed: int
    meta_steps: int
    pretraining_images: int
    protocol: dict[str, Any]
    status: str
    test_error: float
    training_error: float
    area: float
    steps: list[int]
    curve: list[float]


MEASURES: dict[str, Callable[[Findings], float]] = {
    "Test error, %": lambda run: run.test_error,
    "Training error, %": lambda run: run.training_error,
    "Area under the training error curve, %": lambda run: run.area,
}
HALF_OPEN = ("hat", "hat-sequential")
"""Learners whose training error is in part that of half-open gates: not to be compared with that of others."""
DIFFERENCES: dict[str, tuple[str, Sequence[str]]] = {
    "Test error less that without pretraining, points": ("Test error, %", ()),
    "Area less that without pretraining, points": ("Area under the training error curve, %", HALF_OPEN),
}
"""The measure that each is of, and the learners that are left out."""
ALL = "mean of all"
"""The row of the differences' mean over the held-out data sets, of the seeds that have them all."""


def training_error(curve: LearningCurve) -> float:
    """Of the last tenth of the updates that were made, from 0 to 1."""
    return float(np.mean(curve.values[-max(1, len(curve.values) // 10) :]))


def collect(*roots: Path) -> list[Findings]:
    """
    :param roots: folders of runs, and files that ``save`` wrote; of a run in several, what the last has is taken
    :return: of each run what it found at each budget
    :raises ValueError: if there is no finished run in one of them, one of something else, or they are of several
        protocols
    """
    found = list(chain.from_iterable(map(_read, roots)))
    protocols = {json.dumps(run.protocol, sort_keys=True) for run in found}
    if len(protocols) > 1:
        given = ", ".join(map(str, roots))
        raise ValueError(f"{given}: runs of several protocols, {' and '.join(sorted(protocols))}. Keep them apart")
    return list({(run.learner, run.held_out, run.seed, run.meta_steps): run for run in found}.values())


def _read(root: Path) -> list[Findings]:
    if root.is_file():
        return [Findings(**row) for row in read_runs(root, list(Findings.__dataclass_fields__))]
    found = []
    for file in sorted(root.glob("*/run.json")):
        settings = asdict(Run.read(file.parent, ""))
        constants = read_runs(file, ("learner",))[0].get("constants")
        for folder in sorted(file.parent.glob("[0-9]*")):
            result = load_result(folder / "held-out" / settings["held_out"])
            if result is None:
                continue
            curve = LearningCurve(
                result.curve.steps, result.curve.values, result.curve.budget, SMOOTHED_OVER, maximize=False
            ).moving_average()
            shown = slice(None, None, max(1, len(curve) // 100))
            protocol = {k: settings[k] for k in ("meta_batch_size", "passes", "batch_size", "limit")}
            protocol |= {"data_sets": sorted([settings["held_out"], *settings["pretraining"]]), "constants": constants}
            found.append(
                Findings(
                    learner=settings["learner"],
                    held_out=settings["held_out"],
                    seed=settings["seed"],
                    meta_steps=int(folder.name),
                    pretraining_images=json.loads((folder / "initialization" / "config.json").read_text())["images"],
                    protocol=protocol,
                    status=result.status,
                    test_error=round(100 * result.scores["test_error"], 2),
                    training_error=round(100 * training_error(result.curve), 2),
                    area=round(100 * result.curve.area(), 2),
                    steps=result.curve.steps[shown].tolist(),
                    curve=(100 * curve[shown]).round(2).tolist(),
                )
            )
    if not found:
        raise ValueError(f"{root} has no finished run: python -m supervised.multi_cv train makes some")
    return found


def at_budget(found: Sequence[Findings], meta_steps: int | None = None) -> list[Findings]:
    """
    :param found: runs
    :param meta_steps: their budget; ``None``: the largest that any has
    :return: those of that budget, and those without pretraining
    :raises ValueError: if there is none
    """
    budgets = sorted({run.meta_steps for run in found})
    chosen = budgets[-1] if meta_steps is None else meta_steps
    if chosen not in budgets:
        raise ValueError(f"no run has a budget of {chosen} meta steps: there are {', '.join(map(str, budgets))}")
    return [run for run in found if run.meta_steps in (0, chosen)]


def save(found: Sequence[Findings], file: Path) -> None:
    """One row a run."""
    file.write_text("[\n" + ",\n".join(json.dumps(asdict(run)) for run in found) + "\n]\n")


def _of(found: Sequence[Findings], held_out: str, learner: str) -> dict[int, Findings]:
    """By seed."""
    return {run.seed: run for run in found if (run.held_out, run.learner) == (held_out, learner)}


def table(found: Sequence[Findings]) -> str:
    """
    Markdown: for each measure held-out data sets by learners, mean and 95 % interval over the seeds (Student's); then
    the difference to no pretraining on the same seeds, for each data set and their mean, and what is missing. Of HAT
    only test errors are compared so: its training error is measured with the annealed gates, in part half open.

    :param found: runs of one budget
    """
    learners = [name for name in LEARNERS if any(run.learner == name for run in found)]
    held_out = [name for name in DATA_SETS if any(run.held_out == name for run in found)]
    there = sorted(found[0].protocol["data_sets"], key=list(DATA_SETS).index)
    absent = [name for name in DATA_SETS if name not in there]
    parts = [f"Data sets: {', '.join(there)}; not there: {', '.join(absent) or 'none'}."]

    def rows(title: str, learners: Sequence[str], names: Sequence[str], cell: Callable[[str, str], str]) -> None:
        lines = [f"| held out | {' | '.join(learners)} |", "|---" * (len(learners) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(cell(name, learner) for learner in learners)} |" for name in names]
        parts.append(f"{title}:\n\n" + "\n".join(lines))

    for title, measure in MEASURES.items():

        def mean(name: str, learner: str, measure: Callable[[Findings], float] = measure) -> str:
            return mean_cell([measure(run) for run in _of(found, name, learner).values()])

        rows(title, learners, held_out, mean)

    for title, (quantity, left_out) in DIFFERENCES.items():
        compared = [name for name in learners if name not in ("none", *left_out)]

        def difference(name: str, learner: str, measure: Callable[[Findings], float] = MEASURES[quantity]) -> str:
            by_seed: dict[int, list[float]] = {}
            over = held_out if name == ALL else [name]
            for one in over:
                ours, none = _of(found, one, learner), _of(found, one, "none")
                for seed in ours.keys() & none.keys():
                    by_seed.setdefault(seed, []).append(measure(ours[seed]) - measure(none[seed]))
            return difference_cell([float(np.mean(d)) for _, d in sorted(by_seed.items()) if len(d) == len(over)])

        if "none" in learners and compared:
            rows(title, compared, [*held_out, ALL], difference)
    diverged = [f"{run.learner} on {run.held_out}, seed {run.seed}" for run in found if run.status != "ok"]
    if diverged:
        parts.append(f"Diverged, and counted with the errors that they had: {'; '.join(diverged)}")
    spent = {name: [run.pretraining_images for run in found if run.learner == name] for name in learners}
    parts.append("Images in pretraining, mean: " + ", ".join(f"{n} {np.mean(i):,.0f}" for n, i in spent.items()))
    # Whatever is there can be held out, by the experiment's own learners; those of one visit are extras.
    own = [learner for learner in LEARNERS if learner not in SEQUENTIAL or learner in learners]
    seeds_of = {f"{learner} on {name}": _of(found, name, learner) for name in there for learner in own}
    return "\n\n".join(parts) + missing_runs(seeds_of, sorted({run.seed for run in found}))


def plot(found: Sequence[Findings], file: Path) -> None:
    """
    Training error on each held-out data set, mean and range over the seeds.

    :param found: runs
    :param file: PNG to write
    """
    from matplotlib.figure import Figure

    held_out = [name for name in DATA_SETS if any(run.held_out == name for run in found)]
    n_rows = (len(held_out) + 2) // 3
    figure = Figure(figsize=(12, 3.4 * n_rows), layout="constrained")
    axes = list(figure.subplots(n_rows, min(3, len(held_out)), squeeze=False).flat)
    for ax, name in zip(axes, held_out, strict=False):
        for i, learner in enumerate(LEARNERS):
            runs = list(_of(found, name, learner).values())
            if not runs:
                continue
            shortest = min((run.steps for run in runs), key=len)
            curves = np.array([np.interp(shortest, run.steps, run.curve) for run in runs])
            ax.plot(shortest, curves.mean(axis=0), color=f"C{i}", label=f"{learner} ({len(runs)})")
            ax.fill_between(shortest, curves.min(axis=0), curves.max(axis=0), color=f"C{i}", alpha=0.15, lw=0)
        ax.set(title=DATA_SETS[name].title, xlabel="images", ylabel="training error, %")
        ax.grid(alpha=0.25)
        ax.legend(frameon=False, title="learner (seeds)", fontsize="small")
    for ax in axes[len(held_out) :]:
        ax.set_axis_off()
    figure.savefig(file, dpi=130)
