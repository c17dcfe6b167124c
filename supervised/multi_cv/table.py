"""What the runs of the Multi-CV experiment showed: the paper's table, negative transfer, learning curves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from leap_rl.core import LearningCurve
from leap_rl.core.kept_results import load_result
from leap_rl.running.file_name import file_name
from leap_rl.running.files import replacing_file
from leap_rl.running.record import typed
from supervised.intervals import difference_cell, mean_cell, negative_transfer
from supervised.multi_cv.data import DATA_SETS
from supervised.multi_cv.experiment import LEARNERS, SEQUENTIAL
from supervised.runs import missing_runs, read_run, read_runs

SHARED = ("meta_batch_size", "passes", "batch_size", "limit")
KEPT = ("learner", "held_out", "pretraining", "seed", *SHARED, "constants", "learner_constants")
"""Of a run's settings, what this needs."""
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
    :param learner_protocol: what runs of one learner must share besides
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
    learner_protocol: dict[str, Any]
    status: str
    test_error: float
    training_error: float
    area: float
    steps: list[int]
    curve: list[float]

    @property
    def name(self) -> str:
        return f"{self.learner}-{self.held_out}-seed{self.seed}"


AREA = "Area under the training error curve"
HATS = ("hat", "hat-sequential")
MEASURES: dict[str, Callable[[Findings], float]] = {
    "Test error, %": lambda run: run.test_error,
    "Training error, %": lambda run: run.training_error,
    AREA + ", %": lambda run: run.area,
}
DIFFERENCES = [
    ("Test error less that without pretraining, points", "Test error, %", "none", LEARNERS),
    (AREA + " less that without pretraining, points", AREA + ", %", "none", LEARNERS),
    ("Test error less that of HAT's network without pretraining, points", "Test error, %", "hat-none", HATS),
    (AREA + " less that of HAT's network without pretraining, points", AREA + ", %", "hat-none", HATS),
]
"""Title; the measure, the learner that is taken from, and those from which it is taken."""
ALL = "mean of all"
"""The row of the differences' mean over the held-out data sets, of the seeds that have them all."""


def training_error(curve: LearningCurve) -> float:
    """Of the last tenth of the updates that were made, from 0 to 1."""
    return float(np.mean(curve.values[-max(1, len(curve.values) // 10) :]))


def collect(*roots: Path) -> list[Findings]:
    """
    :param roots: folders of runs, and files that ``save_runs`` wrote; of a run in several, what the last has is taken
    :return: of each run what it found at each budget
    :raises ValueError: if there is no finished run in one of them, one of something else, or they are of several
        protocols
    """
    found = list(chain.from_iterable(map(_read, roots)))
    for run in found:
        same = next(other for other in found if other.learner == run.learner)
        _check_same(run.name, run.protocol, found[0].name, found[0].protocol)
        _check_same(run.name, run.learner_protocol, same.name, same.learner_protocol)
    return list({(run.learner, run.held_out, run.seed, run.meta_steps): run for run in found}.values())


def _check_same(name: str, protocol: dict[str, Any], other: str, others: dict[str, Any]) -> None:
    differ = [key for key in sorted({*protocol, *others}) if protocol.get(key) != others.get(key)]
    if differ:
        what = "; ".join(f"{key} is {others.get(key)} in {other}, {protocol.get(key)} in {name}" for key in differ)
        raise ValueError(f"these are runs of several protocols: {what}. Keep them apart")


def _read(root: Path) -> list[Findings]:
    if root.is_file():
        return [typed(Findings, row, str(root)) for row in read_runs(root, list(Findings.__dataclass_fields__))]
    found = []
    for file in sorted(root.glob("*/run.json")):
        settings = read_run(file.parent, KEPT)
        protocol = {name: settings[name] for name in SHARED} | settings["constants"]
        protocol["data_sets"] = sorted([settings["held_out"], *settings["pretraining"]])
        for folder in sorted(file.parent.glob("[0-9]*")):
            result = load_result(folder / "held-out" / file_name(settings["held_out"]))
            if result is None:
                continue
            curve = LearningCurve(
                result.curve.steps, result.curve.values, result.curve.budget, SMOOTHED_OVER, maximize=False
            ).moving_average()
            shown = slice(None, None, max(1, len(curve) // 100))
            found.append(
                Findings(
                    learner=settings["learner"],
                    held_out=settings["held_out"],
                    seed=settings["seed"],
                    meta_steps=int(folder.name),
                    pretraining_images=json.loads((folder / "initialization" / "config.json").read_text())["images"],
                    protocol=protocol,
                    learner_protocol=settings["learner_constants"],
                    status=result.status,
                    test_error=round(100 * result.scores["test_error"], 2),
                    training_error=round(100 * training_error(result.curve), 2),
                    area=round(100 * result.curve.area(), 2),
                    steps=result.curve.steps[shown].tolist(),
                    curve=(100 * curve[shown]).round(2).tolist(),
                )
            )
    if not found:
        how = f"python -m supervised.multi_cv train --root {shlex.quote(str(root))}"
        raise ValueError(f"{root} has no finished run: {how} makes some")
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


def table(found: Sequence[Findings]) -> str:
    """
    Markdown: for each measure held-out data sets by learners, mean and 95 % interval over the seeds (Student's); then
    the differences to no pretraining on the same seeds, for each data set and their mean, and what is missing.

    :param found: runs of one budget
    """
    learners = [name for name in LEARNERS if any(run.learner == name for run in found)]
    held_out = [name for name in DATA_SETS if any(run.held_out == name for run in found)]
    there = sorted(found[0].protocol["data_sets"], key=list(DATA_SETS).index)
    absent = [name for name in DATA_SETS if name not in there]
    parts = [f"Data sets: {', '.join(there)}; not there: {', '.join(absent) or 'none'}."]
    for title, measure in MEASURES.items():
        cells = {
            name: [mean_cell([*_by_seed(found, name, learner, measure).values()]) for learner in learners]
            for name in held_out
        }
        parts.append(f"{title}:\n\n{_rows(learners, cells)}")
    for title, measured, reference, those in DIFFERENCES:
        compared = [name for name in learners if name in those and name != reference]
        if reference not in learners or not compared:
            continue
        cells = {}
        for name, over in [*((name, [name]) for name in held_out), (ALL, held_out)]:
            differences = [_differences(found, over, learner, reference, MEASURES[measured]) for learner in compared]
            cells[name] = [difference_cell(those_of_one) for those_of_one in differences]
        parts.append(f"{title}:\n\n{_rows(compared, cells)}")
    parts += _negative_transfer(found, learners, held_out)
    diverged = [f"{run.learner} on {run.held_out}, seed {run.seed}" for run in found if run.status != "ok"]
    if diverged:
        parts.append(f"Diverged, and counted with the errors that they had: {'; '.join(diverged)}")
    spent = {name: [run.pretraining_images for run in found if run.learner == name] for name in learners}
    parts.append("Images in pretraining, mean: " + ", ".join(f"{n} {np.mean(i):,.0f}" for n, i in spent.items()))
    # Whatever is there can be held out, by the experiment's own learners; those of one visit are extras.
    own = [learner for learner in LEARNERS if learner not in SEQUENTIAL or learner in learners]
    seeds_of = {f"{learner} on {name}": _of(found, name, learner) for name in there for learner in own}
    return "\n\n".join(parts) + missing_runs(seeds_of, sorted({run.seed for run in found}))


def _negative_transfer(found: Sequence[Findings], learners: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """What is to be said where the area of a learner lies clearly behind that of its network without pretraining."""
    said: list[str] = []
    for _, measured, reference, those in DIFFERENCES:
        if not measured.startswith(AREA):
            continue
        for name in held_out:
            random = list(_by_seed(found, name, reference, MEASURES[measured]).values())
            for learner in learners:
                if learner in those and learner != reference:
                    own = list(_by_seed(found, name, learner, MEASURES[measured]).values())
                    said += negative_transfer(f"on {name} {learner}", own, reference, random)
    return said


def _of(found: Sequence[Findings], held_out: str, learner: str) -> dict[int, Findings]:
    """By seed."""
    return {run.seed: run for run in found if (run.held_out, run.learner) == (held_out, learner)}


def _by_seed(
    found: Sequence[Findings], held_out: str, learner: str, measure: Callable[[Findings], float]
) -> dict[int, float]:
    return {seed: measure(run) for seed, run in _of(found, held_out, learner).items()}


def _differences(
    found: Sequence[Findings], over: Sequence[str], learner: str, reference: str, measure: Callable[[Findings], float]
) -> list[float]:
    """Mean over the held-out data sets, of each seed that has both learners on all of them."""
    pairs = [(_by_seed(found, name, learner, measure), _by_seed(found, name, reference, measure)) for name in over]
    seeds = set.intersection(*(ours.keys() & theirs.keys() for ours, theirs in pairs))
    return [float(np.mean([ours[seed] - theirs[seed] for ours, theirs in pairs])) for seed in sorted(seeds)]


def _rows(columns: Sequence[str], cells: dict[str, list[str]]) -> str:
    head = [f"| held out | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(of_name)} |" for name, of_name in cells.items())])


def plot(found: Sequence[Findings], file: Path) -> None:
    """
    Training error on each held-out data set, mean and range over the seeds.

    :param found: runs
    :param file: PNG to write
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    learners = [name for name in LEARNERS if any(run.learner == name for run in found)]
    held_out = [name for name in DATA_SETS if any(run.held_out == name for run in found)]
    n_rows = (len(held_out) + 2) // 3
    figure = Figure(figsize=(12, 3.4 * n_rows + 0.6), layout="constrained")
    axes = list(figure.subplots(n_rows, min(3, len(held_out)), squeeze=False).flat)
    drawn: dict[str, Line2D] = {}
    for ax, name in zip(axes, held_out, strict=False):
        runs_of = {learner: list(_of(found, name, learner).values()) for learner in learners}
        for learner, runs in runs_of.items():
            if not runs:
                continue
            color = f"C{LEARNERS.index(learner)}"
            shortest = min((run.steps for run in runs), key=len)
            curves = np.array([np.interp(shortest, run.steps, run.curve) for run in runs])
            (drawn[learner],) = ax.plot(shortest, curves.mean(axis=0), color=color)
            ax.fill_between(shortest, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.15, lw=0)
        counts = sorted(len(runs) for runs in runs_of.values())
        seeds = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
        ax.set(title=f"{DATA_SETS[name].title}, seeds: {seeds}", xlabel="images", ylabel="training error, %")
        ax.grid(alpha=0.25)
    for ax in axes[len(held_out) :]:
        ax.set_axis_off()
    names, lines = zip(*((name, drawn[name]) for name in learners), strict=True)
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=130)
