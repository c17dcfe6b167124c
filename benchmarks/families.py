"""
Does an initialization that was meta-learned on a family of tasks shorten learning on its unseen variants?

    python benchmarks/families.py --families cartpole acrobot pendulum     # the gate; hours, goes on where it stopped
    python benchmarks/families.py --families acrobot --split validation --seeds 1 --learners leap reptile     # choosing
    python benchmarks/families.py --settings --families cartpole acrobot   # what decides between Leap and Reptile

Each learner meta-trains on the training variants with budgets and agent of the family's preset, all for the same
total steps. Then the variants of the split are learned from every initialization, from random weights, and by a random
policy. The measure is the mean return over training (the area under the learning curve) above the random policy's, by
that of random weights. The plan is docs/evidence/families/plan.md; settings are chosen on validation variants.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from report import at_least_one

from leap_rl.agents import RandomPolicies
from leap_rl.commands.meta_train import meta_train
from leap_rl.commands.run_folder import RANDOM_POLICY, run_folder
from leap_rl.commands.tasks import make_tasks
from leap_rl.core import Engine, Initialization, InProcess, Workers
from leap_rl.evaluation import compare
from leap_rl.families import FAMILIES, Split
from leap_rl.running.files import write_text
from leap_rl.settings import CompareSettings, MetaTrainSettings, read_preset

RESAMPLES = 10_000
Of = TypeVar("Of")


def read(kind: type[Of], section: Mapping[str, Any]) -> Of:
    """A preset's section as settings."""
    values: dict[str, Any] = {}
    for name, value in section.items():
        field = next(f for f in dataclasses.fields(kind) if f.name == name.replace("-", "_"))  # type: ignore[arg-type]
        if isinstance(value, dict):
            value = read(field.default_factory, value)  # type: ignore[arg-type]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def preset(family: str) -> tuple[MetaTrainSettings, CompareSettings]:
    sections = read_preset(family, {"meta-train", "compare"})
    return read(MetaTrainSettings, sections["meta-train"]), read(CompareSettings, sections["compare"])


Recipe = Callable[[MetaTrainSettings], MetaTrainSettings]
"""From the settings of a preset, which are Leap's, to those of a row of the table."""


def other(learner: str, optimizer: str | None = None, rate: float | None = None) -> Recipe:
    """Another meta-learner, with its own meta optimizer if none is given."""
    changed: dict[str, Any] = {"learner": learner, "meta_optimizer": optimizer, "meta_learning_rate": rate}
    return lambda s: dataclasses.replace(s, **changed)


def finetuning(s: MetaTrainSettings) -> MetaTrainSettings:
    """One variant after the other: as many visits, as many evaluations."""
    batch = s.meta_batch_size or 1
    s = dataclasses.replace(s, meta_steps=s.meta_steps * batch, meta_batch_size=1, eval_freq=s.eval_freq * batch)
    return other("finetuning")(s)


def leap(optimizer: str | None = None, rate: float | None = None, scale: float = 1, **settings: Any) -> Recipe:
    """Leap with something other than in the preset; ``scale`` multiplies its λ."""

    def changed(s: MetaTrainSettings) -> MetaTrainSettings:
        if scale != 1:
            settings["loss_scale"] = scale * float(s.leap.loss_scale)
        changes: dict[str, Any] = {"leap": dataclasses.replace(s.leap, **settings)}
        if optimizer is not None:
            changes |= {"meta_optimizer": optimizer, "meta_learning_rate": rate}
        return dataclasses.replace(s, **changes)

    return changed


def batch(factor: float) -> Recipe:
    """Meta batches of another size, for the same total steps, as far as they divide."""

    def changed(s: MetaTrainSettings) -> MetaTrainSettings:
        size = round((s.meta_batch_size or 1) * factor)
        return dataclasses.replace(s, meta_batch_size=size, meta_steps=round(s.meta_steps / factor))

    return changed


LEARNERS: dict[str, Recipe] = {"leap": lambda s: s, "reptile": other("reptile"), "finetuning": finetuning}
"""Of the gate."""

SETTINGS: dict[str, Recipe] = {
    "leap": lambda s: s,
    "leap, λ × 10": leap(scale=10),
    "leap, λ ÷ 10": leap(scale=0.1),
    "leap, Δf within a rollout": leap(loss_delta="within_rollout"),
    "leap, no Δf": leap(loss_delta="none"),
    "leap, no stabilizer": leap(stabilizer=False),
    "leap, Adam 0.02": leap("adam", 0.02),
    "leap, Adam 0.1": leap("adam", 0.1),
    "leap, to displacement, SGD 0.5": leap("sgd", 0.5, scale_to_displacement=True),
    "leap, energy, λ auto, SGD 0.5": leap("sgd", 0.5, metric="energy", loss_scale="auto"),
    "leap, energy, λ auto, SGD 1": leap("sgd", 1.0, metric="energy", loss_scale="auto"),
    "leap, half the batch": batch(1 / 2),
    "leap, twice the batch": batch(2),
    "reptile": other("reptile"),
    "reptile, SGD 1": other("reptile", "sgd", 1.0),
    "reptile, Adam 0.05": other("reptile", "adam", 0.05),
}
"""What may decide between Leap and Reptile, one at a time. ``leap`` is what the preset says."""


def meta_trained(settings: MetaTrainSettings, folder: Path) -> None:
    """As ``leap-rl meta-train`` does it, going on where an interrupted one stood."""
    if not (folder / "initialization").is_dir():
        begun = (folder / "settings.yaml").is_file()
        with run_folder(folder, begun, "meta-train"):
            meta_train(settings, folder, begun)


def estimate(runs: np.ndarray, random: np.ndarray, floor: np.ndarray) -> tuple[float, float, float]:
    """
    Mean area above the random policy's, by that of random weights, and its 95 % interval: a percentile bootstrap that
    draws variants (the same for all three), meta-trainings, and seeds in each of them, of all variants together, since
    what a seed draws of a network they share. Not a number where random weights do not learn more than the random
    policy, and no interval where they don't in a resample.

    :param runs: areas, shape (meta-trainings, seeds, variants)
    :param random: of random weights, shape (1, seeds, variants)
    :param floor: of the random policy, shape (1, seeds, variants)
    """
    rng = np.random.default_rng(0)

    def drawn(of: np.ndarray, variants: np.ndarray) -> float:
        trainings, seeds, _ = of.shape
        training = rng.integers(trainings, size=(trainings, 1, 1))
        return float(of[training, rng.integers(seeds, size=(trainings, seeds, 1)), variants].mean())

    gains = np.empty((RESAMPLES, 2))
    for i in range(RESAMPLES):
        variants: np.ndarray = rng.integers(runs.shape[2], size=(runs.shape[2],))
        none = drawn(floor, variants)
        gains[i] = drawn(runs, variants) - none, drawn(random, variants) - none
    value, of_random = float(runs.mean() - floor.mean()), float(random.mean() - floor.mean())
    if of_random <= 0:
        return math.nan, math.nan, math.nan
    if (gains[:, 1] <= 0).any():
        return value / of_random, math.nan, math.nan
    low, high = np.quantile(gains[:, 0] / gains[:, 1], [0.025, 0.975])
    return value / of_random, float(low), float(high)


def said(value: float, low: float, high: float) -> str:
    """What ``estimate`` found, in a table."""
    if math.isnan(value):
        return "random weights learn nothing"
    return f"{value:.2f} " + ("(no interval)" if math.isnan(low) else f"({low:.2f} to {high:.2f})")


class Gate:
    """
    The runs of one family.

    :param family: its name
    :param folder: of the runs
    :param split: whose variants are learned
    :param evaluated: whether the validation variants are learned during meta-training, too
    :param best: whether the best initialization by those is taken, or the last
    :param engine: where the runs take place
    """

    def __init__(self, family: str, folder: Path, split: Split, evaluated: bool, best: bool, engine: Engine) -> None:
        self.family, self.split, self.evaluated, self.best, self.engine = family, split, evaluated, best, engine
        self.folder = folder / family
        self.name = f"{split}-{'best' if best else 'last'}"
        self.meta_train, self.compare = preset(family)
        s = self.compare
        self.tasks = make_tasks((), (), s.timesteps, s.agent, s.atari, family, split)
        self.starts: dict[str, Initialization | None] = {"random": None}

    def add(self, name: str, recipe: Recipe, seed: int) -> None:
        """Meta-train one more, and learn the variants from it."""
        settings = dataclasses.replace(recipe(self.meta_train), seed=seed, n_workers=self.workers)
        settings = dataclasses.replace(settings, eval_family=self.evaluated)
        folder = self.folder / "meta-trained" / name / str(seed)
        meta_trained(settings, folder)
        start = Initialization.load(folder / ("best_initialization" if self.best else "initialization"))
        self.starts[f"{name}/{seed}"] = start

    @property
    def workers(self) -> int:
        return self.engine.n_workers if isinstance(self.engine, Workers) else 1

    def measured(self) -> dict[str, np.ndarray]:
        """Areas by learner, shape (meta-trainings, seeds, variants). What is kept is not run again."""
        run_dir = self.folder / self.name
        run_dir.mkdir(parents=True, exist_ok=True)
        seeds, areas = self.compare.seeds, {}
        for tasks, starts in ((RandomPolicies(self.tasks), {RANDOM_POLICY: None}), (self.tasks, self.starts)):
            comparison = compare(tasks, starts, seeds, self.engine, device="cpu", run_dir=run_dir, progress_bar=True)
            for learner, trainings in comparison.learners().items():
                each = [[comparison.areas(start, task.name) for task in self.tasks] for start in trainings]
                areas[learner] = np.array(each).swapaxes(1, 2)
        floor = areas[RANDOM_POLICY].mean(axis=(0, 1))
        return {name: np.where(np.isnan(of), floor, of) for name, of in areas.items()}  # what diverges gains nothing

    def table(self) -> str:
        areas = self.measured()
        rows = [
            f"{self.family}: {len(self.tasks)} {self.split} variants × {len(self.compare.seeds)} seeds, "
            f"{self.compare.timesteps:,} steps each; {'best' if self.best else 'last'} initializations\n",
            "| start | mean return over training | by meta-training seed | above a random policy's, × random |",
            "|---|---|---|---|",
        ]
        results: dict[str, Any] = {}
        for name, of in areas.items():
            each = of.mean(axis=(1, 2))
            cell = ""
            if name not in (RANDOM_POLICY, "random"):
                value, low, high = estimate(of, areas["random"], areas[RANDOM_POLICY])
                cell = said(value, low, high)
                results[name] = {"ratio": value, "low": low, "high": high}
            rows.append(f"| {name} | {each.mean():,.1f} | {', '.join(f'{a:,.1f}' for a in each)} | {cell} |")
            results.setdefault(name, {})["areas"] = of.tolist()
        write_text(self.folder / f"{self.name}.json", json.dumps(results) + "\n")
        write_text(self.folder / f"{self.name}.md", "\n".join(rows) + "\n")
        return "\n".join(rows)


def together(folder: Path, families: Sequence[str], name: str) -> str:
    """One table of all families: a row for each learner."""
    found = {f: json.loads((folder / f / f"{name}.json").read_text()) for f in families}
    rows = [f"| | {' | '.join(families)} |", "|---|" + "---|" * len(families)]
    for learner in next(iter(found.values())):
        of = [found[f].get(learner, {}) for f in families]
        if any("ratio" in r for r in of):
            cells = [said(r["ratio"], r["low"], r["high"]) if "ratio" in r else "" for r in of]
            rows.append(f"| {learner} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--settings", action="store_true", help="all settings in place of the learners, by validation")
    parser.add_argument("--seeds", type=at_least_one, default=None, help="meta-training seeds: 3, of --settings 1")
    parser.add_argument("--split", choices=get_args(Split), default="test")
    parser.add_argument("--last", action="store_true", help="take the last initialization, not the best")
    parser.add_argument("--folder", type=Path, default=Path("runs/families"))
    parser.add_argument("--workers", type=at_least_one, default=1, help="processes; 1 runs in this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine: Engine = InProcess() if args.workers == 1 else Workers(args.workers)
    recipes = SETTINGS if args.settings else {name: LEARNERS[name] for name in args.learners}
    # The variants that settings are chosen by can't choose among the meta steps of each as well.
    split: Split = "validation" if args.settings else args.split
    best = not (args.settings or args.last)
    folder = args.folder / ("settings" if args.settings else "gate")
    for family in args.families:
        gate = Gate(family, folder, split, not args.settings, best, engine)
        print(gate.table(), flush=True)
        for seed in range(args.seeds or (1 if args.settings else 3)):
            for name, recipe in recipes.items():
                gate.add(name, recipe, seed)
                print(f"\n{gate.table()}", flush=True)
    table = together(folder, args.families, gate.name)
    write_text(folder / f"{gate.name}.md", table + "\n")
    print(f"\n{table}")


if __name__ == "__main__":
    main()
