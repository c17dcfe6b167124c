"""
Images per second of the three ways to run a meta batch of the Omniglot experiment, beside a plain loop.

    python benchmarks/omniglot.py                       # some minutes
    python benchmarks/omniglot.py --device cuda

A meta batch of five alphabets, Leap with the length. The plain loop is what one would write without this library: the
network as its paper draws it, PyTorch's default layout, one task after the other, one thread, nothing observed. The
ways alternate and medians are compared; where the hardware multiplies bfloat16, in fast arithmetic, too. Leap's own
share is the CPU time inside the observer's hooks, of the whole visit's.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from report import at_least_one
from torch import Tensor, nn

from leap_rl.core import Engine, GradientPath, InProcess, Job, Leap, Workers
from leap_rl.core.arithmetic import Arithmetic, multiplies_bfloat16
from supervised.omniglot.alphabets import AUGMENTATION, BATCH_SIZE, CLASSES, LEARNING_RATE, Alphabets, split
from supervised.omniglot.data import default_data_dir
from supervised.together import Together

TASKS = 5


def plain_loop(tasks: Alphabets, device: str) -> None:
    torch.set_num_threads(1)
    for task in tasks.tasks:
        blocks: list[nn.Module] = []
        for i in range(4):
            blocks += [nn.Conv2d(64 if i else 1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
        model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, CLASSES)).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        images, generator = task.images(), torch.Generator().manual_seed(0)
        for _ in range(task.updates):
            rows = torch.randint(len(images.train), (BATCH_SIZE,), generator=generator)
            x, y = AUGMENTATION(images.train[rows], generator).to(device), images.train_labels[rows].to(device)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class MetaBatch:
    """A meta batch on one engine."""

    engine: Engine
    threads: int
    arithmetic: Arithmetic = "exact"

    def __call__(self, tasks: Alphabets, device: str) -> None:
        torch.set_num_threads(self.threads)
        tasks = copy.copy(tasks)
        tasks.tasks = [dataclasses.replace(task, arithmetic=self.arithmetic) for task in tasks.tasks]
        theta = tasks.draw_initialization(None, 0)
        learner = Leap(metric="length", loss_scale=1.0, skip_updates=0)
        jobs = [Job(task, theta, learner, i, device) for i, task in enumerate(tasks)]
        for _, result in self.engine.run(jobs, lambda *_: None):
            result.raise_for_status()


class Timed(Leap):
    """Leap whose hooks are timed."""

    spent = 0.0

    def observe(self, parameters: dict[str, Tensor]) -> GradientPath:  # type: ignore[override]
        path = super().observe(parameters)

        def timed(hook: Callable[..., None], *args: object) -> None:
            started = time.process_time()
            hook(*args)
            Timed.spent += time.process_time() - started

        for name in ("before_update", "after_update"):
            setattr(path, name, partial(timed, getattr(path, name)))
        return path


def own_share(tasks: Alphabets) -> float:
    torch.set_num_threads(1)
    learner = Timed(metric="length", loss_scale=1.0, skip_updates=0)
    Timed.spent = 0.0
    started = time.process_time()
    task = tasks.tasks[0]
    task.run(Job(task, tasks.draw_initialization(None, 0), learner, 0, "cpu"), lambda *_: None)
    return Timed.spent / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=str(default_data_dir()), help="of Omniglot")
    parser.add_argument("--updates", type=at_least_one, default=50, help="of each task, per measurement")
    parser.add_argument("--repeats", type=at_least_one, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    cores = torch.get_num_threads()
    try:
        tasks = Alphabets(args.data_dir, split(args.data_dir, TASKS, 0)[0], 0, args.updates)
    except ValueError as error:
        parser.error(str(error))
    ways: dict[str, Callable[[Alphabets, str], None]] = {
        "plain loop, 1 thread": plain_loop,
        "one task after the other, 1 thread": MetaBatch(InProcess(), 1),
        f"one process per core, {cores} processes": MetaBatch(Workers(cores), 1),
        f"all tasks together, {cores} threads": MetaBatch(Together(), cores),
    }
    if multiplies_bfloat16(torch.device(args.device)):
        ways |= {
            f"{name}, fast": dataclasses.replace(way, arithmetic="fast")
            for name, way in ways.items()
            if isinstance(way, MetaBatch)
        }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    warm_up = Alphabets(args.data_dir, split(args.data_dir, TASKS, 0)[0], 0, 3)
    for way in ways.values():
        way(warm_up, args.device)
    for _ in range(args.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way(tasks, args.device)
            rates[name].append(TASKS * args.updates * BATCH_SIZE / (time.perf_counter() - started))
    plain = statistics.median(rates["plain loop, 1 thread"])
    print(f"{TASKS} alphabets, {args.updates} updates of {BATCH_SIZE} images, {args.device}, medians of {args.repeats}")
    print(f"{'':48}{'images/s':>10}{'x plain':>9}")
    for name, values in rates.items():
        print(f"{name:48}{statistics.median(values):10,.0f}{statistics.median(values) / plain:9.2f}")
    shares = [own_share(tasks) for _ in range(args.repeats)]
    print(f"Leap's own share of a visit: {100 * np.median(shares):.2f} %")


if __name__ == "__main__":
    main()
