"""
What a GPU gives: everything that is to be measured on a machine that has one, by one command, in its first minutes.

    python benchmarks/gpu.py --json gpu.json                    # some 20 minutes
    python benchmarks/gpu.py --quick                            # does all of it run? on the CPU, too, if without rows

Atari: SB3's A2C on the GPU with SubprocVecEnv; LeapA2C there, exact and fast; a meta batch of one learning process per
core, all on that GPU, and the same on the cores alone. Omniglot: a meta batch of 20 alphabets in one model of stacked
parameters, exact and fast, beside a plain loop on the GPU, and how long the paper's 40 million images would take. All
ways alternate, and medians are compared. Targets are of 16 cores and an H100.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from omniglot import MetaBatch, plain_loop
from report import Row, alternate, at_least_one, keep, parser, publish, seconds
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import SubprocVecEnv
from throughput import GAME, Ways, in_own_process, learning, meta_batch_rate, ours, sb3

from leap_rl import AtariTasks, LeapA2C
from leap_rl.core import Workers
from leap_rl.core.arithmetic import Arithmetic
from leap_rl.threads import sleep_when_idle
from supervised.omniglot.alphabets import BATCH_SIZE, Alphabets, split
from supervised.omniglot.data import default_data_dir
from supervised.together import Together

PAPER_IMAGES = 40_000_000
ARITHMETICS: tuple[Arithmetic, ...] = ("exact", "fast")


def atari(device: str, steps: int, visit: int, processes: int) -> tuple[dict[str, partial], Ways]:
    """
    :param steps: of one measurement of one game
    :param visit: steps on each game of a meta batch
    :param processes: that learn at once in a meta batch
    :return: those that need a process of their own, and the meta batches; all give steps per second
    """
    alone = {"SB3 A2C, SubprocVecEnv": partial(sb3, A2C, SubprocVecEnv, 16, device=device)}
    batches: Ways = {}
    for arithmetic in ARITHMETICS:
        kwargs = {"arithmetic": arithmetic}
        alone[f"LeapA2C, {arithmetic}"] = partial(ours, LeapA2C, 16, device=device, **kwargs)
        tasks = AtariTasks(LeapA2C, "CnnPolicy", [GAME], visit, n_envs=16, algorithm_kwargs=kwargs)
        for where in dict.fromkeys((device, "cpu")):
            batches[f"meta batch on {where}, {arithmetic}"] = partial(
                meta_batch_rate, tasks, Workers(processes), processes, where
            )
    return {name: partial(learning, name, make, steps) for name, make in alone.items()}, batches


def omniglot(data_dir: str, device: str, updates: int, n_tasks: int = 20) -> Ways:
    """
    :param updates: of each learning process
    :return: images per second
    """
    tasks = Alphabets(data_dir, split(data_dir, n_tasks, 0)[0], 0, updates)
    images = n_tasks * updates * BATCH_SIZE

    def per_second(what: Callable[[], object]) -> float:
        return images / seconds(what)

    ways: Ways = {"Omniglot, plain loop": partial(per_second, partial(plain_loop, tasks, device))}
    for arithmetic in ARITHMETICS:
        batch = MetaBatch(Together(), os.cpu_count() or 1, arithmetic)
        ways[f"Omniglot together, {arithmetic}"] = partial(per_second, partial(batch, tasks, device))
    for way in ways.values():
        way()  # kernels are chosen and loaded
    return ways


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    cli.add_argument("--data-dir", default=str(default_data_dir()), help="of Omniglot")
    cli.add_argument("--steps", type=at_least_one, default=16_000, help="per measurement of one game")
    cli.add_argument("--visit", type=at_least_one, default=32_000, help="steps on each game of a meta batch")
    cli.add_argument("--updates", type=at_least_one, default=100, help="of each Omniglot task, per measurement")
    cli.add_argument("--processes", type=at_least_one, default=os.cpu_count(), help="of a meta batch")
    cli.add_argument("--repeats", type=at_least_one, default=3)
    args = cli.parse_args()
    on_gpu = args.device != "cpu"
    if not on_gpu and not args.quick:
        cli.error("torch sees no GPU here: --quick looks whether all of it runs, on the CPU")
    if args.quick:
        args.steps, args.visit, args.updates, args.processes, args.repeats = 80, 80, 1, 1, 1
    sleep_when_idle()
    alone, batches = atari(args.device, args.steps, args.visit, args.processes)
    with ExitStack() as processes:
        ways = dict(batches)
        for make in alone.values():
            ways |= in_own_process(make, processes)
        figures = alternate(ways, args.repeats)
    rival = figures["SB3 A2C, SubprocVecEnv"]
    best = max(batches, key=figures.__getitem__)
    rows = [
        Row("gpu-one-game", figures["LeapA2C, fast"], rival, "steps/s", 1.0, args.device),
        Row("gpu-meta-batch", figures[best], rival, "steps/s", 5.0, f"{best}, {args.processes} processes"),
        Row("gpu-meta-batch-rate", figures[best], 20_000, "steps/s", 1.0, "beside the target itself"),
    ]
    try:
        images = alternate(omniglot(args.data_dir, args.device, args.updates, 2 if args.quick else 20), args.repeats)
    except ValueError as error:  # without the data
        images = {}
        print(f"Omniglot is not measured: {error}")
    if images:
        fastest = max((name for name in images if "together" in name), key=images.__getitem__)
        per_hour = 3600 * images[fastest]
        rows += [
            Row("gpu-omniglot", images[fastest], images["Omniglot, plain loop"], "images/s", 5.0, fastest),
            Row("gpu-omniglot-rate", per_hour, PAPER_IMAGES, "images/h", 1.0, "beside the target itself"),
        ]
    notes = {name: f"{figure:,.0f} steps/s" for name, figure in figures.items()}
    notes |= {name: f"{figure:,.0f} images/s" for name, figure in images.items()}
    if on_gpu:
        publish(rows, args.json, notes)
        return
    for name, figure in notes.items():
        print(f"{name}, on the CPU: {figure}")
    keep({"device": args.device, **figures, **images}, args.json)
    print(f"{', '.join(row.name for row in rows)}: not measured, for want of a GPU")


if __name__ == "__main__":
    main()
