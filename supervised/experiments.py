"""The shape that experiments share: runs in folders, a dry run, one table of what they found, and one figure."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from leap_rl.core import Engine
from leap_rl.running.files import replacing_file, write_text
from leap_rl.running.record import typed
from leap_rl.running.run_file import run_settings
from supervised.command_line import run_all
from supervised.intervals import difference_cell, mean_cell, t_interval
from supervised.runs import check_folder, missing_runs, open_folder, read_runs, save_runs

FOUND = "found.json"
"""In the folder of a run that is over: what its line of a table needs."""


@dataclass(frozen=True)
class Run(ABC):
    """
    The settings of a run.

    :param data_dir: of its images; no setting that tells runs apart
    :param seed: of everything
    """

    experiment: ClassVar[str]
    """Name of it."""
    reference: ClassVar[Mapping[str, str]] = {}
    """Cells of what others are compared with by default, whatever these say there."""

    data_dir: str
    seed: int

    @property
    @abstractmethod
    def cells(self) -> dict[str, str]:
        """What a table says of it before its scores, by column. Other settings are told where they differ."""

    @property
    def name(self) -> str:
        """Of its folder."""
        words = [word.replace(" ", "-") for word in self.cells.values() if word]
        return "-".join([*words, f"seed{self.seed}"])

    def settings(self) -> dict[str, Any]:
        """What must not change when a run goes on, the sizes of its data included."""
        settings = asdict(self) | {"data": self.data()}
        del settings["data_dir"]
        return {"experiment": self.experiment, "learner": self.name.removesuffix(f"-seed{self.seed}"), **settings}

    @abstractmethod
    def data(self) -> dict[str, Any]:
        """
        How many of what there are in its folder of data, by name; and what else tells it from another.

        :raises ValueError: if the run can't be
        """

    @abstractmethod
    def images(self) -> int:
        """Through forward and backward, where it learns."""

    @abstractmethod
    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        """
        Learn, and test; what is in the folder already is gone on with.

        :param folder: of the run
        :param engine: where tasks run
        :param progress_bar: draw one, if the output is a terminal
        :return: errors in per cent, by name; the first one is what runs are compared by
        :raises RuntimeError: if it diverged
        """


@dataclass
class Found:
    """
    What a run found.

    :param experiment: name of it
    :param cells: as of ``Run``
    :param seed: of the run
    :param images: that it learned from
    :param scores: as ``Run.learn`` gives them
    :param settings: of the run, all but the seed
    """

    experiment: str
    cells: dict[str, str]
    seed: int
    images: int
    scores: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.apart: dict[str, str] = {}
        """Settings that tell it from runs with the same cells, see ``tell_apart``."""

    @property
    def label(self) -> str:
        return ", ".join([*filter(None, self.cells.values()), *(f"{k} {v}" for k, v in self.apart.items())])


def root_of(kind: type[Run]) -> Path:
    """Where runs are made and looked for if nothing else is said."""
    return Path("runs") / kind.experiment


def make_runs(runs: Sequence[Run], root: Path | None, engine: Engine, dry_run: bool = False) -> None:
    """
    Make runs, those that are there already go on, or say what would be made.

    :param runs: to make
    :param root: folder of their folders; ``None``: that of the experiment in runs
    :param engine: where tasks run
    :param dry_run: only say
    :raises ValueError: before any of them begins, if one can't be
    :raises RuntimeError: when all are over, if any failed
    """
    runs = list(dict.fromkeys(runs))
    if not runs:
        raise ValueError("nothing to run: an option that takes several was given none")
    root = root or root_of(type(runs[0]))
    images = [run.images() for run in runs]
    for run in runs:
        check_folder(root / run.name, run.settings())
    if dry_run:
        for run, n in zip(runs, images, strict=True):
            print(f"{run.name}: {n:,} images")
        print(f"{len(runs)} runs, {sum(images):,} images through forward and backward")
    else:
        run_all({run.name: partial(_make, run, root / run.name, engine) for run in runs})


def _make(run: Run, folder: Path, engine: Engine) -> None:
    with open_folder(folder, run.settings()):
        if (folder / FOUND).is_file():
            (found,) = read(folder / FOUND, run.experiment)
        else:
            print(f"{run.name}: {run.images():,} images, in {folder}", flush=True)
            scores = {name: round(error, 3) for name, error in run.learn(folder, engine, True).items()}
            found = Found(run.experiment, run.cells, run.seed, run.images(), scores, _settings(run.settings()))
            write_text(folder / FOUND, json.dumps(asdict(found)) + "\n")
    print(f"{run.name}: " + ", ".join(f"{name} {error:.1f} %" for name, error in found.scores.items()), flush=True)


def read(file: Path, experiment: str) -> list[Found]:
    """
    :param file: of a run that is over, or that ``save_runs`` wrote
    :param experiment: that it must be of
    :raises ValueError: if it can't be read, or is of another experiment
    """
    known = [name for name in Found.__dataclass_fields__ if name != "settings"]
    rows = read_runs(file, known)
    of_folder = run_settings(file.parent) if file.name == FOUND else {}
    found = []
    for row in rows:
        found.append(typed(Found, {**row, "settings": _settings(row.get("settings") or of_folder)}, str(file)))
    if any(f.experiment != experiment for f in found):
        raise ValueError(f"{file} is of {found[0].experiment}, not of {experiment}")
    return found


def _settings(of_run: Mapping[str, Any]) -> dict[str, Any]:
    """Those that tell runs apart; what ``Run.settings`` adds to find a run by its name does not."""
    return {name: value for name, value in of_run.items() if name not in ("experiment", "learner", "seed")}


def tell_apart(found: Sequence[Found]) -> None:
    """Give runs that have the same cells, and differ in more than their seed, the settings that they differ in."""
    alike: dict[str, list[Found]] = {}
    for run in found:
        run.apart = {}
        alike.setdefault(run.label, []).append(run)
    for runs in alike.values():
        known = [run.settings for run in runs if run.settings]
        names = dict.fromkeys(name for settings in known for name in settings)
        differ = [name for name in names if any(s.get(name) != known[0].get(name) for s in known)]
        for run in runs:
            run.apart = {name: _shown(run.settings.get(name)) for name in differ if run.settings}
            if known and not run.settings:  # files that were saved by older versions have none
                run.apart = {"settings": "unknown"}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def collect(roots: Sequence[Path], experiment: str) -> list[Found]:
    """
    :param roots: folders of runs, and files that ``save_runs`` wrote; of a run in several the last one's is taken
    :param experiment: that they are of
    :raises ValueError: if there is no run that is over in one of them, or one of something else
    """
    found: dict[str, Found] = {}
    for root in roots:
        files = [root] if root.is_file() else sorted(root.glob(f"*/{FOUND}"))
        if not files:
            raise ValueError(f"no run of {experiment} in {root} is over: make some first, or name their folder")
        for run in (run for file in files for run in read(file, experiment)):
            found[json.dumps([run.cells, run.images, run.seed, run.settings], sort_keys=True)] = run
    runs = list(found.values())
    tell_apart(runs)
    return runs


def grouped(found: Sequence[Found]) -> dict[tuple[str, int], list[Found]]:
    """Runs that differ in their seed alone, by label and images."""
    groups: dict[tuple[str, int], list[Found]] = {}
    for run in found:
        groups.setdefault((run.label, run.images), []).append(run)
    return groups


def _named(groups: Mapping[tuple[str, int], list[Found]]) -> dict[str, list[Found]]:
    """By label, with the images where there are groups that differ in them alone."""
    labels = [label for label, _ in groups]
    return {
        f"{label}, {images:,} images" if labels.count(label) > 1 else label: runs
        for (label, images), runs in groups.items()
    }


def table(
    found: Sequence[Found], column: str, reference: str | None = None, always: Mapping[str, str] | None = None
) -> str:
    """
    Markdown: mean errors with Student's 95 % interval over the seeds, and the difference of the first to a reference,
    on the same seeds and with all else in the cells the same.

    :param found: runs
    :param column: of the cells, in which runs are compared
    :param reference: what it says of those that others are compared with; ``None``: no difference
    :param always: other cells of these, whatever those that are compared say there
    :raises ValueError: if nothing is the reference
    """
    there = sorted({run.cells[column] for run in found})
    if reference is not None and reference not in there:
        raise ValueError(
            f"{reference!r} is not one of those compared: name one of {', '.join(there)}, or '' for no difference"
        )
    columns = list(dict.fromkeys(name for run in found for name in run.cells))
    scores = list(dict.fromkeys(name for run in found for name in run.scores))
    apart = list(dict.fromkeys(name for run in found for name in run.apart))
    header = [*columns, *apart, "images", "seeds", *(f"{name}, %" for name in scores)]
    if reference is not None:
        header.insert(len(columns) + len(apart) + 3, f"difference to {reference}")
    rows = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    groups = grouped(found)
    for (_, images), runs in groups.items():
        cells = [runs[0].cells.get(name, "") for name in columns] + [runs[0].apart.get(name, "") for name in apart]
        cells += [f"{images:,}", str(len(runs))]
        cells += [mean_cell([run.scores[name] for run in runs if name in run.scores]) for name in scores]
        if reference is not None:
            of_reference = {**runs[0].cells, **(always or {}), column: reference}
            cells.insert(len(columns) + len(apart) + 3, _difference(runs, found, of_reference))
        rows.append(f"| {' | '.join(cells)} |")
    seeds = sorted({run.seed for run in found})
    lacking = missing_runs({name: {run.seed for run in runs} for name, runs in _named(groups).items()}, seeds)
    return "\n".join(rows) + lacking


def _difference(runs: Sequence[Found], found: Sequence[Found], of_reference: Mapping[str, str]) -> str:
    if runs[0].cells == of_reference:
        return ""
    theirs = [run for run in found if run.cells == of_reference]
    ours = {run.images for run in found if run.cells == runs[0].cells}
    # Of several budgets the one that is as large. A method that sees more images for each update has one of its own.
    if len(ours) > 1 or len({run.images for run in theirs}) > 1:
        theirs = [run for run in theirs if run.images == runs[0].images]
        if not theirs:
            return "of which budget?"
    if len({str(run.apart) for run in theirs}) > 1:
        theirs = [r for r in theirs if all(_shown(runs[0].settings.get(k)) == v for k, v in r.apart.items())]
        if not theirs:
            return "of which settings?"
    compared = {run.seed: next(iter(run.scores.values())) for run in theirs}
    pairs = [(next(iter(run.scores.values())), compared[run.seed]) for run in runs if run.seed in compared]
    return difference_cell([a - b for a, b in pairs])


def plot(found: Sequence[Found], file: Path) -> None:
    """
    The first error of each group, with Student's interval over its seeds, and each seed as a point.

    :param found: runs
    :param file: PNG to write
    """
    from matplotlib.figure import Figure

    named = _named(grouped(found))
    groups = {name: [next(iter(run.scores.values())) for run in runs] for name, runs in named.items()}
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(groups)), layout="constrained")
    ax = figure.subplots()
    for i, values in enumerate(groups.values()):
        ax.plot(values, np.full(len(values), i), "o", color="tab:blue", alpha=0.4, clip_on=False)
        ax.plot([np.mean(values)], [i], "|", color="black", markersize=14)
        if len(values) > 1:
            ax.plot(t_interval(values), [i, i], color="black")
    ax.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel=f"{next(iter(found[0].scores))}, %")
    ax.set_xlim(left=min(0.0, *ax.get_xlim()))
    ax.invert_yaxis()
    ax.grid(alpha=0.25, axis="x")
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=130)


def show(
    roots: Sequence[Path],
    run: type[Run],
    column: str,
    less: str | None,
    figure: Path | None,
    save_to: Path | None,
    usual: str = "",
) -> None:
    """
    What the command ``table`` of an experiment does.

    :param roots: folders of runs, and files that it saved before; none: that of the experiment in runs
    :param run: of the experiment
    :param column: as of ``table``
    :param less: the reference of ``table``; ``""``: none; ``None``: the usual one, if it is among the runs
    :param figure: PNG to write, if any
    :param save_to: JSON to write, if any
    :param usual: reference
    """
    found = collect(roots or (root_of(run),), run.experiment)
    if less is None:
        less = usual if any(each.cells[column] == usual for each in found) else ""
    always = run.reference if less == run.reference.get(column) else None
    printed = table(found, column, less or None, always)
    if figure is not None:
        plot(found, figure)
    if save_to is not None:
        save_runs(save_to, found)
    print(printed)


def check_choices(what: str, given: Sequence[str], known: Mapping[str, object] | Sequence[str]) -> None:
    """
    :param what: is chosen
    :param given: names
    :param known: that there are
    :raises ValueError: naming the first that is unknown
    """
    for name in given:
        if name not in known:
            raise ValueError(f"no {what} {name!r}: there are {', '.join(known)}")
