"""
Which block of a network to fine-tune, when inputs or labels shift (Lee et al., ICLR 2023), on CIFAR-10.

    python benchmarks/surgical.py --json docs/evidence/finetuning/surgical.json    # goes on where it was
    python benchmarks/surgical.py --quick

docs/evidence/finetuning/plan.md is the plan. Rates are chosen on validation, of each strategy, shift and seed. The rows
without training say how much of a gain is that of batch norm alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import parser
from torch import Tensor

from leap_rl.core import Initialization, Job, NoPretraining
from leap_rl.running.engines import learning_process
from leap_rl.running.files import write_rows
from supervised.batch_norm import recompute
from supervised.images import Images, Minibatches
from supervised.multi_cv.data import MultiCVError, default_data_dir, load
from supervised.networks import ConvNet
from supervised.tasks import ClassificationTask

SHIFTS = ("noise", "labels")
NOISE = 0.25
"""Standard deviation, of the range of pixels."""
BLOCKS = ("encoder.0", "encoder.4", "encoder.8", "encoder.12", "head")
STRATEGIES = {"everything": "full", **{b: f"surgical:blocks={b}" for b in BLOCKS}, "relative gradient norm": "rgn"}
UNTRAINED = ("nothing", "nothing; statistics recomputed")
RATES = (0.01, 0.1, 0.5)
SOURCE, LABELS, PASSES, SOURCE_PASSES, BATCH = 6000, 500, 10, 8, 50


@lru_cache(maxsize=4)
def images_of(data_dir: str, seed: int, shift: str, source: int) -> Images:
    """
    :param data_dir: of the data sets; none: noise in their place, for a look at whether it runs
    :param shift: one of ``SHIFTS``, or none for the source
    :param source: images of the source
    """
    if data_dir:
        data = load(data_dir, "cifar10")
        train, y, test, test_y = data.train.float() / 255, data.train_labels, data.test.float() / 255, data.test_labels
    else:
        draw = torch.Generator().manual_seed(0)
        y, test_y = torch.arange(source + 2 * LABELS) % 10, torch.arange(100) % 10
        centers = torch.rand(10, 3, 32, 32, generator=draw)
        train, test = (centers[of] + 0.2 * torch.rand(len(of), 3, 32, 32, generator=draw) for of in (y, test_y))
    rows = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    if not shift:
        return Images(train[rows[:source]] - 0.5, y[rows[:source]], test - 0.5, test_y)
    noise = torch.Generator().manual_seed(seed)

    def shifted(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if shift == "labels":
            return x - 0.5, 9 - labels
        return (x + NOISE * torch.randn(x.shape, generator=noise)).clamp(0, 1) - 0.5, labels

    target, validation = rows[source : source + LABELS], rows[source + LABELS : source + 2 * LABELS]
    return Images(
        *shifted(train[target], y[target]), *shifted(test, test_y), *shifted(train[validation], y[validation])
    )


@dataclass(frozen=True)
class Shifted(ClassificationTask):
    """Ten classes of CIFAR-10, as the source has them or shifted."""

    data_dir: str
    seed: int
    shift: str
    source: int

    def images(self) -> Images:
        return images_of(self.data_dir, self.seed, self.shift, self.source)

    def network(self) -> ConvNet:
        return ConvNet(10, channels=3, image_size=32, n_filters=32)


def run(task: Shifted, start: Initialization) -> tuple[dict[str, float], Initialization]:
    with learning_process():
        result = task.run(Job(task, start, NoPretraining(), task.seed, "cpu", return_final=True), lambda *_: None)
    assert result.final is not None
    return result.scores, result.final


def untrained(task: Shifted, start: Initialization, recomputes: bool) -> float:
    """Test error."""
    network = task.network()
    start.apply_to(network)
    minibatches = Minibatches(task, task.seed, False, torch.device("cpu"))
    if recomputes:
        recompute(network, minibatches.train_images())
    return task.judge(network, *minibatches.test())[1]


def measured(
    data_dir: str, seed: int, source: int, source_passes: int, passes: int, known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """
    :param known: rows that are there already
    :return: the others of a seed
    """
    todo = [
        (shift, name, rate)
        for shift in SHIFTS
        for name, rates in (*((u, (None,)) for u in UNTRAINED), *((s, RATES) for s in STRATEGIES))
        for rate in rates
        if not any(r["seed"] == seed and (r["shift"], r["trained"], r["rate"]) == (shift, name, rate) for r in known)
    ]
    if not todo:
        return
    original = Shifted(
        "source", source_passes * (source // BATCH), BATCH, 0.1, None, data_dir, seed, "", source, annealing=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = Initialization.of(original.network())
    scores, start = run(original, drawn)
    print(f"seed {seed}: the source's test error is {100 * scores['test_error']:.1f} %", flush=True)
    for shift, name, rate in todo:
        target = replace(original, name=shift, shift=shift, updates=passes * (LABELS // BATCH))
        row = {"seed": seed, "shift": shift, "trained": name, "rate": rate, "source_error": scores["test_error"]}
        if rate is None:
            error = untrained(target, start, name == UNTRAINED[1])
            yield row | {"validation_error": None, "test_error": error}
        else:
            found, _ = run(replace(target, learning_rate=rate, finetune=STRATEGIES[name]), start)
            yield row | {"validation_error": found["validation_error"], "test_error": found["test_error"]}


def chosen(rows: list[dict[str, Any]], shift: str, name: str, seed: int) -> dict[str, Any] | None:
    """The row of the rate with the lowest validation error, of equals the smallest."""
    of = [r for r in rows if (r["shift"], r["trained"], r["seed"]) == (shift, name, seed)]
    return min(of, key=lambda r: (r["validation_error"] or 0.0, r["rate"] or 0.0)) if of else None


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--data-dir", type=Path, default=default_data_dir(), help="of the data sets")
    cli.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = cli.parse_args()
    data_dir, source, source_passes, passes = str(args.data_dir.absolute()), SOURCE, SOURCE_PASSES, PASSES
    if args.quick:
        data_dir, source, source_passes, passes, args.seeds = "", 100, 1, 1, [0]
    else:
        try:
            load(data_dir, "cifar10")
        except MultiCVError as error:
            cli.error(str(error))
    rows: list[dict[str, Any]] = []
    if args.json is not None and args.json.is_file():
        rows = json.loads(args.json.read_text())
    for seed in args.seeds:
        for row in measured(data_dir, seed, source, source_passes, passes, list(rows)):
            rows.append(row)
            if args.json is not None:
                write_rows(args.json, rows)
    seeds = sorted({row["seed"] for row in rows})
    for shift in SHIFTS:
        print(f"\nTest error with other {shift}, %\n\n| trained | mean | seeds {', '.join(map(str, seeds))} | rates |")
        print("|---|---|---|---|")
        for name in (*UNTRAINED, *STRATEGIES):
            found = [best for seed in seeds if (best := chosen(rows, shift, name, seed)) is not None]
            errors = [100 * row["test_error"] for row in found]
            if errors:
                rates = ", ".join("-" if row["rate"] is None else f"{row['rate']:g}" for row in found)
                print(f"| {name} | {np.mean(errors):.1f} | {', '.join(f'{e:.1f}' for e in errors)} | {rates} |")


if __name__ == "__main__":
    main()
