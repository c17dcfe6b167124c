"""What the runs of the Omniglot experiment showed: tables, a figure, and one file that holds all they need."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from leap_rl.core import LearningCurve
from leap_rl.core.kept_results import load_result
from leap_rl.core.meta_state import MetaState
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.running.files import replacing_file
from leap_rl.running.record import typed
from supervised.intervals import bootstrap_interval, difference_cell, negative_transfer
from supervised.omniglot.alphabets import held_out_alphabets
from supervised.omniglot.experiment import LEARNERS
from supervised.runs import missing_runs, read_run, read_runs

Score = tuple[float, float]
"""Test error, and area under the training error curve, in per cent."""


@dataclass
class Findings:
    """
    What one run found.

    :param learner: its learner
    :param n_pretraining: alphabets that it learned from
    :param seed: of the run
    :param meta_learning_rate: β, where it was given
    :param validation: whether part of the pretraining alphabets was held out
    :param updates: of a learning process
    :param meta_batch_size: alphabets per meta step
    :param scores: by meta step and held-out alphabet; only where all of them were learned
    :param curves: error on the minibatches of the held-out alphabets, by meta step and update, mean over them
    :param training_curves: the same of the pretraining alphabets, by meta step
    :param visits: test error of the pretraining alphabets at the end of their visits, by meta step, mean over the meta
        steps since the evaluation before
    :param arithmetic: as of ``ClassificationTask``
    """

    learner: str
    n_pretraining: int
    seed: int
    meta_learning_rate: float | None
    validation: bool
    updates: int
    meta_batch_size: int
    scores: dict[int, dict[str, Score]] = field(default_factory=dict)
    curves: dict[int, list[float]] = field(default_factory=dict)
    training_curves: dict[int, list[float]] = field(default_factory=dict)
    visits: dict[int, float] = field(default_factory=dict)
    arithmetic: str = "exact"

    @property
    def label(self) -> str:
        rate = "" if self.meta_learning_rate is None else f", β {self.meta_learning_rate:g}"
        return f"{self.learner}{rate}{', fast' * (self.arithmetic == 'fast')}"

    @property
    def n_held_out(self) -> int:
        return held_out_alphabets(self.n_pretraining, self.validation)

    def at(self, meta_step: int) -> dict[str, Score]:
        """Scores by alphabet after a meta step; without pretraining it is the same for all."""
        return self.scores.get(0 if self.learner == "none" else meta_step, {})

    def curve_at(self, meta_step: int) -> list[float]:
        """As ``at``."""
        return self.curves.get(0 if self.learner == "none" else meta_step, [])


SETTINGS = [field.name for field in fields(Findings) if field.default is field.default_factory is MISSING]
"""What tells runs apart, and each run says; of its arithmetic nothing is said if it is exact."""
MEASURED = [field.name for field in fields(Findings) if field.name not in (*SETTINGS, "arithmetic")]


def collect(*roots: Path) -> list[Findings]:
    """
    :param roots: folders of runs, and files that ``save_runs`` wrote; of a run in several, what the last has is taken,
        and from those before what the last lacks
    :raises ValueError: if there is no run in one of them, or one of something else
    """
    found: dict[tuple[Any, ...], Findings] = {}
    for run in chain.from_iterable(map(_read, roots)):
        key = tuple(getattr(run, name) for name in (*SETTINGS, "arithmetic"))
        if key in found:
            for name in MEASURED:
                setattr(run, name, getattr(found[key], name) | getattr(run, name))
        found[key] = run
    return list(found.values())


def _read(root: Path) -> list[Findings]:
    if root.is_file():
        found: list[Findings] = [typed(Findings, row, str(root)) for row in read_runs(root, [*SETTINGS, "scores"])]
        for run in found:
            run.scores = {int(step): {n: (e, a) for n, (e, a) in s.items()} for step, s in run.scores.items()}
            run.curves = {int(step): curve for step, curve in run.curves.items()}
            run.training_curves = {int(step): curve for step, curve in run.training_curves.items()}
            run.visits = {int(step): error for step, error in run.visits.items()}
        return found
    found = []
    for file in sorted(root.glob("*/run.json")):
        settings = read_run(file.parent, SETTINGS)
        arithmetic = settings.get("arithmetic", "exact")
        run = Findings(arithmetic=arithmetic, **{name: settings[name] for name in SETTINGS})
        for folder in sorted(file.parent.glob("[0-9]*")):
            results = [load_result(path) for path in sorted((folder / "held-out").glob("[!.]*"))]
            scored = [r for r in results if r is not None]
            if len(scored) == run.n_held_out:
                scores = {r.name: (100 * r.scores["test_error"], 100 * r.curve.area()) for r in scored}
                run.scores[int(folder.name)] = {n: (round(e, 2), round(a, 2)) for n, (e, a) in scores.items()}
                curve = np.mean([100 * r.curve.values for r in scored], axis=0)
                run.curves[int(folder.name)] = curve.round(2).tolist()
        curves = file.parent / "training_curves.json"
        if curves.is_file():
            run.training_curves = {int(step): curve for step, curve in json.loads(curves.read_text()).items()}
        if run.learner != "multihead":
            run.visits = _visits(file.parent, sorted(run.scores))
        if run.scores:
            found.append(run)
    if not found:
        how = f"python -m supervised.omniglot train --root {shlex.quote(str(root))}"
        raise ValueError(f"no evaluated runs in {root}: {how} makes some")
    return found


def _visits(folder: Path, evaluated: Sequence[int]) -> dict[int, float]:
    """As in ``Findings``; nothing where visits end without a test."""
    checkpoints = Checkpoints(folder)
    if not checkpoints.steps():
        return {}
    errors = [[t.get("test_error") for t in step["tasks"]] for step in checkpoints.state(MetaState).history]
    visits = {}
    for first, last in pairwise([0, *evaluated]):
        of_window = [error for step in errors[first:last] for error in step]
        if of_window and None not in of_window:
            visits[last] = round(100 * float(np.mean(of_window)), 2)
    return visits


def table(found: Sequence[Findings], meta_step: int | None = None, reference: str = "none") -> str:
    """
    Markdown: means over seeds and held-out alphabets with 95 % bootstrap intervals over both, and the differences to a
    reference on the same seeds and alphabets, with Student's interval over the seeds; the test error by meta step;
    and what is missing.

    :param found: runs
    :param meta_step: after which they are compared; ``None``: the last that any was evaluated after
    :param reference: learner, or its label, as in ``"leap, β 0.2"``
    :raises ValueError: if the runs are of several kinds, none was evaluated after that meta step, or the reference is
        not one of them
    """
    kinds = sorted({(run.updates, run.meta_batch_size) for run in found})
    if len(kinds) > 1:
        raise ValueError(
            "the runs are not of one kind: "
            + ", ".join(f"{updates} updates and meta batches of {size}" for updates, size in kinds)
            + "; give each preset a --root of its own"
        )
    steps = sorted({step for run in found for step in run.scores})
    if meta_step is None:
        meta_step = steps[-1]
    if meta_step not in steps:
        raise ValueError(f"no run was evaluated after {meta_step} meta steps: there are {', '.join(map(str, steps))}")
    reference = _label(found, reference)
    rows = [
        f"After {meta_step} meta steps; differences are to {reference}, in points:\n",
        "| learner | pretraining alphabets | seeds | test error, % | difference | area, % | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for (n, label), runs in _grouped(found):
        scored = [run for run in runs if run.at(meta_step)]
        if scored:
            error, area = (_cell(scored, meta_step, which) for which in (0, 1))
            less, less_area = (_difference(scored, found, reference, meta_step, which) for which in (0, 1))
            rows.append(f"| {label} | {n} | {len(scored)} | {error} | {less} | {area} | {less_area} |")
    trends = {"Test error, %, by meta steps, of the seeds that got furthest:": False} if len(steps) > 2 else {}
    if any(run.visits for run in found):
        trends["The same of the pretraining alphabets themselves, mean over the visits of the meta steps before:"] = (
            True
        )
    for heading, of_visits in trends.items():
        rows += [
            f"\n{heading}\n",
            "| learner | pretraining alphabets | seeds |" + "".join(f" {s} |" for s in steps),
            "|---|---|---|" + "---|" * len(steps),
        ]
        for (n, label), runs in _grouped(found):
            n_seeds, errors = _trend(runs, of_visits)
            if errors:
                cells = [f" {errors[step]:.1f} |" if step in errors else " |" for step in steps]
                rows.append(f"| {label} | {n} | {n_seeds} |{''.join(cells)}")
    behind = "".join(f"\n\n{line}" for line in _negative_transfer(found, meta_step))
    return "\n".join(rows) + behind + _missing(found, meta_step)


def _label(found: Sequence[Findings], reference: str) -> str:
    labels = {run.label for run in found}
    if reference in labels:
        return reference
    meant = {run.label for run in found if run.learner == reference}
    if not meant and reference == "none":  # which may not have been run yet
        return reference
    if len(meant) != 1:
        there = "; ".join(sorted(meant or labels))
        raise ValueError(f"{reference!r} is not one of those compared: name one of {there}")
    return meant.pop()


def _grouped(found: Sequence[Findings]) -> list[tuple[tuple[int, str], list[Findings]]]:
    """Runs that differ in their seed alone, by number of alphabets and label."""
    groups: dict[tuple[int, str], list[Findings]] = {}
    for run in found:
        groups.setdefault((run.n_pretraining, run.label), []).append(run)
    return sorted(groups.items())


def _mean(scores: dict[str, Score], which: int) -> float:
    return float(np.mean([score[which] for score in scores.values()]))


def _cell(runs: Sequence[Findings], meta_step: int, which: int) -> str:
    low, high = bootstrap_interval([np.array([s[which] for s in run.at(meta_step).values()]) for run in runs])
    mean = np.mean([_mean(run.at(meta_step), which) for run in runs])
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _difference(runs: Sequence[Findings], found: Sequence[Findings], reference: str, meta_step: int, which: int) -> str:
    """To the runs with that label on the same seeds and held-out alphabets, learned from as many alphabets or none."""
    n, label = runs[0].n_pretraining, runs[0].label
    if label == reference:
        return ""
    theirs = [run for run in found if run.label == reference and (run.n_pretraining == n or run.learner == "none")]
    mean_of, compared = (
        {(run.seed, frozenset(run.at(meta_step))): _mean(run.at(meta_step), which) for run in of if run.at(meta_step)}
        for of in (runs, theirs)
    )
    return difference_cell([mean_of[key] - compared[key] for key in mean_of if key in compared])


def _negative_transfer(found: Sequence[Findings], meta_step: int) -> list[str]:
    """Of learners whose mean area over the held-out alphabets lies clearly behind that without pretraining."""
    said: list[str] = []
    for (n, label), runs in _grouped(found):
        scored = [run for run in runs if run.at(meta_step)]
        if runs[0].learner == "none" or not scored:
            continue
        of = (runs[0].n_held_out, runs[0].arithmetic)  # each seed holds out other alphabets
        none = {r.seed: r.at(0) for r in found if r.learner == "none" and (r.n_held_out, r.arithmetic) == of}
        own, random = ([_mean(s, 1) for s in each] for each in ([r.at(meta_step) for r in scored], none.values()))
        said += negative_transfer(f"from {n} alphabets {label}", own, "none", random)
    return said


def _trend(runs: Sequence[Findings], visits: bool = False) -> tuple[int, dict[int, float]]:
    """
    How many seeds got furthest, and their test error at each meta step that all of them were evaluated after.

    :param visits: not of the held-out alphabets, but of the pretraining ones in their visits
    """
    last = max(step for run in runs for step in run.scores)
    same = [run for run in runs if last in run.scores]
    errors = [run.visits if visits else {s: _mean(scores, 0) for s, scores in run.scores.items()} for run in same]
    steps = sorted(set.intersection(*(set(of_run) for of_run in errors)))
    return len(same), {step: float(np.mean([of_run[step] for of_run in errors])) for step in steps}


def _missing(found: Sequence[Findings], meta_step: int) -> str:
    """
    Of the experiment's own learners for each number of alphabets, of others where they were run. Without pretraining
    the number of alphabets changes nothing.
    """
    labels = {run.label: run.learner for run in found}
    labels |= {learner: learner for learner in LEARNERS if learner not in labels.values()}
    groups = dict(_grouped(found))
    there = {
        f"{label}, {n} alphabets": {run.seed for run in groups.get((n, label), []) if run.at(meta_step)}
        for n in sorted({n for n, _ in groups})
        for label, learner in sorted(labels.items())
        if learner != "none" and (learner in LEARNERS or (n, label) in groups)
    }
    there["none"] = {run.seed for run in found if run.learner == "none" and run.at(0)}
    return missing_runs(there, sorted({run.seed for run in found}))


def plot(found: Sequence[Findings], file: Path, meta_step: int | None = None) -> None:
    """
    Area against the number of pretraining alphabets (figure 2, right, of the paper), learning curves on held-out
    alphabets, test error over the meta steps, and training curves getting shorter (figure 2, left).

    :param found: runs
    :param file: PNG to write
    :param meta_step: as of ``table``
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    meta_step = max(step for run in found for step in run.scores) if meta_step is None else meta_step
    of_count = Counter(run.n_pretraining for run in found)
    most = max(of_count, key=lambda n: (of_count[n], n))  # where most were compared
    labels = sorted({run.label for run in found})
    distinct = colormaps["tab10" if len(labels) <= 10 else "tab20"]
    colors = {label: distinct(i % distinct.N) for i, label in enumerate(labels)}
    figure = Figure(figsize=(11, 8), layout="constrained")
    ((by_count, by_update), (by_step, shorter)) = figure.subplots(2, 2)

    for label, color in colors.items():
        counts = []
        for (n, other), runs in _grouped(found):
            values = [np.array([s[1] for s in run.at(meta_step).values()]) for run in runs if run.at(meta_step)]
            if other == label and values:
                counts.append((n, float(np.mean([v.mean() for v in values])), *bootstrap_interval(values)))
        if counts:
            n, mean, low, high = np.array(counts).T
            by_count.errorbar(n, mean, [mean - low, high - mean], color=color, marker="o", capsize=3, label=label)
        runs = [run for run in found if run.label == label and run.n_pretraining == most]
        curves = [run.curve_at(meta_step) for run in runs if run.curve_at(meta_step)]
        if curves:
            by_update.plot(*_smooth(np.mean(curves, axis=0)), color=color, label=label)
        if runs:
            n_seeds, errors = _trend(runs)
            if list(errors) == [0]:
                by_step.axhline(errors[0], color=color, linestyle="--", label=f"{label} ({n_seeds})")
            else:
                by_step.plot(*zip(*errors.items(), strict=True), color=color, marker="o", label=f"{label} ({n_seeds})")
    leaps = (run for run in found if run.learner == "leap" and run.n_pretraining == most and run.training_curves)
    leap = next(leaps, None)
    if leap is not None:
        shown = sorted(leap.training_curves)
        for i, step in enumerate(shown):
            curve = 100 * np.array(leap.training_curves[step])
            shorter.plot(*_smooth(curve), color=colormaps["viridis"](i / len(shown)), label=f"{step}")
        shorter.legend(frameon=False, title="meta step", loc="center left", bbox_to_anchor=(1, 0.5))
    for ax, x, y, title in (
        (by_count, "pretraining alphabets", "area under the error curve, %", f"after {meta_step} meta steps"),
        (by_update, "update", "error on a minibatch, %", f"held-out alphabets, {most} pretraining alphabets"),
        (by_step, "meta step", "test error, %", f"held-out alphabets, {most} pretraining alphabets"),
        (shorter, "update", "error on a minibatch, %", f"Leap, its {most} pretraining alphabets"),
    ):
        ax.set(xlabel=x, ylabel=y, title=title)
        ax.grid(alpha=0.25)
    by_count.set_xticks(sorted({run.n_pretraining for run in found}))
    lines, names = by_step.get_legend_handles_labels()
    figure.legend(
        lines, names, loc="outside lower left", ncols=4, title="learner (seeds of its test errors over the meta steps)"
    )
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=130)


def _smooth(curve: np.ndarray, window: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Updates and errors, as means over the last few updates: a minibatch of 20 images alone is mostly noise."""
    errors = LearningCurve(np.arange(1, len(curve) + 1), curve, len(curve), window).moving_average()
    return np.arange(1, len(curve) + 1), errors
