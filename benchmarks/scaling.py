"""
How steps per second, memory and the cost of observing grow.

    python benchmarks/scaling.py --json scaling.json --table scaling.md --figure scaling.png     # an hour on 2 cores
    python benchmarks/scaling.py --quick

LeapA2C on Breakout, observed with the energy, in exact arithmetic and, on a CPU that multiplies bfloat16, in fast:

- steps per second against the number of environments, and the seconds that it takes to make them
- against the number of games in a meta batch, with one and with two processes of one thread; all are the same game with
  other seeds, since others cost more or less, and making environments counts
- against the number of parameters: of the Nature network with fewer or more features, and with its channels halved,
  doubled and four times as many
- memory of a worker at its largest, and what of it other processes share (/proc/PID/smaps_rollup)
- what observing costs in each update of a long path, at K updates: the median over those from K/2 to K of a small
  network, whose hooks are all fixed cost; it must not grow

Points of a line alternate, each in a process of its own, and medians are drawn.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator
from report import Row, about, alternate, at_least_one, machine, parser, publish, seconds
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import NatureCNN
from throughput import ENERGY, GAME, Ways, in_own_process, learning, meta_batch_rate, ours
from torch import nn

from leap_rl import AtariTasks, GradientPath, LeapA2C, make_atari_env
from leap_rl.core import Job, Workers
from leap_rl.core.arithmetic import multiplies_bfloat16
from leap_rl.core.path_statistics import Metric
from leap_rl.running.files import replacing_file, write_text
from leap_rl.threads import sleep_when_idle

SLACK = 1.2
"""By how much an update of a long path may cost more than one of a short path: timing is no finer."""


class Nature(NatureCNN):
    """
    SB3's ``NatureCNN``, with as many channels as asked for.

    :param width: times as many channels
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 512, width: float = 1.0) -> None:
        super().__init__(observation_space, features_dim)  # fast arithmetic knows it by its class
        first, second = round(32 * width), round(64 * width)
        self.cnn = nn.Sequential(
            nn.Conv2d(observation_space.shape[0], first, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(second, second, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.linear = nn.Sequential(nn.Linear(second * 7 * 7, features_dim), nn.ReLU())


def parameters(**sizes: Any) -> int:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    return sum(p.numel() for p in Nature(space, **sizes).parameters())


@dataclass
class Line:
    """
    One line of a panel.

    :param panel: title of it
    :param name: of the line
    :param x: what is varied
    :param unit: of what is measured
    :param points: both
    """

    panel: str
    name: str
    x: str
    unit: str
    points: dict[int, float] = field(default_factory=dict)


@dataclass
class Sizes:
    environments: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    games: Sequence[int] = (1, 2, 4, 8, 16)
    processes: Sequence[int] = (1, 2)
    features: Sequence[int] = (128, 256, 512, 1024)
    widths: Sequence[float] = (0.5, 1.0, 2.0, 4.0)
    memory: Sequence[int] = (1, 16, 64)
    updates: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)


def rates(makes: Mapping[int, Callable[[], BaseAlgorithm]], steps: int, repeats: int, apart: bool) -> dict[int, float]:
    """
    Steps per second of models.

    :param makes: a model, by its place on the x axis
    :param apart: each in a process of its own
    """
    with ExitStack() as processes:
        ways: Ways = {}
        for x, make in makes.items():
            made = partial(learning, str(x), make, steps)
            ways |= in_own_process(made, processes) if apart else made()
        figures = alternate(ways, repeats)
    return {x: figures[str(x)] for x in makes}


def making(n_envs: int) -> float:
    """Seconds until that many environments play."""

    def make() -> None:
        env = make_atari_env(GAME, n_envs, seed=0)
        env.reset()
        env.close()

    return seconds(make)


# -- memory --------------------------------------------------------------------------------------------------------


def workers_of(pid: int) -> list[int]:
    children = [int(p) for f in Path(f"/proc/{pid}/task").glob("*/children") for p in f.read_text().split()]
    return [child for child in children if b"LokyProcess" in Path(f"/proc/{child}/cmdline").read_bytes()]


def memory_of(pid: int) -> dict[str, float]:
    """MB of a process: resident, its share of it (PSS), and what nobody shares (USS)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in text.splitlines()[1:])}
    return {
        "resident": kb["Rss"] / 1e3,
        "PSS": kb["Pss"] / 1e3,
        "USS": (kb["Private_Clean"] + kb["Private_Dirty"]) / 1e3,
    }


def worker_memory(n_envs: int, steps: int, n_workers: int) -> dict[str, float]:
    """The mean over the workers, each at its largest, while every worker learns one game."""
    tasks = AtariTasks(LeapA2C, "CnnPolicy", [GAME], steps, n_envs)
    theta = tasks.draw_initialization("encoder", 0)
    jobs = [Job(tasks[0], theta, ENERGY, seed, "cpu") for seed in range(n_workers)]
    largest: dict[int, dict[str, float]] = {}

    def look(*_: float) -> None:
        for pid in workers_of(os.getpid()):
            found = memory_of(pid)
            if pid not in largest or found["resident"] > largest[pid]["resident"]:
                largest[pid] = found

    for _, result in Workers(n_workers).run(jobs, look):
        if result.status != "ok":
            raise RuntimeError(f"a learning process ended as {result.status}: {result.error or ''}")
    return {name: statistics.mean(found[name] for found in largest.values()) for name in ("resident", "PSS", "USS")}


# -- observing -----------------------------------------------------------------------------------------------------


def observing(metric: Metric, updates: Sequence[int]) -> dict[int, float]:
    """Microseconds of CPU time that a path's hooks take per update, at each of these numbers of updates."""
    block = 250
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(32, 32, generator=generator, requires_grad=True), torch.zeros(32, requires_grad=True)]
    path = GradientPath({str(i): w for i, w in enumerate(weights)}, metric=metric, skip_updates=0)
    losses = torch.rand(block, generator=generator)
    steps = [1e-3 * torch.randn(w.shape, generator=generator) for w in weights]
    for weight, step in zip(weights, steps, strict=True):
        weight.grad = step.clone()
    costs: list[float] = []
    for _ in range(max(updates) // block):
        spent = 0.0
        for loss in losses:
            started = time.thread_time()
            path.before_update(loss)
            between = time.thread_time()
            with torch.no_grad():
                torch._foreach_sub_(weights, steps)
            moved = time.thread_time()
            path.after_update()
            spent += time.thread_time() - moved + between - started
        torch._foreach_neg_(steps)  # to and fro, so that weights stay near where they began
        costs.append(1e6 * spent / block)
    return {k: statistics.median(costs[k // 2 // block : k // block]) for k in updates}


# -- what is shown -------------------------------------------------------------------------------------------------


def label(x: float) -> str:
    return f"{x:,.0f}" if x >= 1 else f"{x:g}"


def number(y: float) -> str:
    return f"{y:,.0f}" if y >= 100 else f"{y:.3g}"


def table(lines: Iterable[Line]) -> str:
    """Markdown, a row for each line."""
    text = ["| what | against | |", "|---|---|---|"]
    for line in lines:
        points = ", ".join(f"{label(x)}: **{number(y)}**" for x, y in line.points.items())
        text.append(f"| {line.panel}; {line.name}; {line.unit} | {line.x} | {points} |")
    return "\n".join(text) + "\n"


def draw(lines: Sequence[Line], file: Path) -> None:
    """:param file: PNG to write"""
    panels = list(dict.fromkeys(line.panel for line in lines))
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(12, 3.6 * rows), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(rows, 3, squeeze=False).flat, strict=False):
        draw_panel(axes, [line for line in lines if line.panel == panel])
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    with replacing_file(file) as unfinished:
        figure.savefig(unfinished, dpi=150)


def draw_panel(axes: Axes, lines: Sequence[Line]) -> None:
    xs = sorted({x for line in lines for x in line.points})
    for line in lines:
        axes.plot(list(line.points), list(line.points.values()), "o-", label=line.name)
    axes.set(title=lines[0].panel, xlabel=lines[0].x, ylabel=lines[0].unit)
    if xs[-1] <= 100:  # counts that double
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, map(label, xs))
    else:
        axes.set_xscale("log")
        if xs[-1] < 100 * xs[0]:
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter("")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--steps", type=at_least_one, default=2_560, help="per measurement of one game")
    cli.add_argument("--visit", type=at_least_one, default=4_096, help="steps on each game of a meta batch")
    cli.add_argument("--repeats", type=at_least_one, default=3)
    cli.add_argument("--figure", type=Path, metavar="FILE", help="draw it there")
    cli.add_argument("--table", type=Path, metavar="FILE", help="write the table there, as Markdown")
    args = cli.parse_args()
    sleep_when_idle()
    sizes = Sizes()
    if args.quick:
        args.steps, args.visit, args.repeats = 160, 160, 1
        sizes = Sizes((1, 4), (1, 2), (1,), (512,), (0.5,), (1,), (1_000, 10_000))
    threads = torch.get_num_threads()
    kinds: dict[str, dict[str, Any]] = {"exact": {}}
    if multiplies_bfloat16(torch.device("cpu")) and not args.quick:
        kinds["fast"] = {"arithmetic": "fast"}
    measure = partial(rates, steps=args.steps, repeats=args.repeats, apart=not args.quick)
    lines: list[Line] = []

    def add(panel: str, name: str, x: str, unit: str, points: dict[int, float]) -> None:
        lines.append(Line(panel, name, x, unit, points))
        print(f"{panel}: {name}: " + ", ".join(f"{label(x)}: {number(y)}" for x, y in points.items()), flush=True)

    # First, since a worker keeps what it once had.
    n_workers = max(sizes.processes)
    memory = {n: worker_memory(n, max(args.visit // 2, 160), n_workers) for n in sizes.memory}
    for kind in ("resident", "PSS", "USS"):
        points = {n: found[kind] for n, found in memory.items()}
        add(f"Memory of a worker, {n_workers} at work", kind, "environments", "MB", points)
    for metric in ("energy", "length"):
        points = observing(metric, sizes.updates)
        add("Observing", metric, "updates of the path", "µs per update", points)
    made = alternate({str(n): partial(making, n) for n in sizes.environments}, args.repeats)
    add("Making environments", "one process", "environments", "s", {n: made[str(n)] for n in sizes.environments})
    for kind, kwargs in kinds.items():
        makes = {n: partial(ours, LeapA2C, n, **kwargs) for n in sizes.environments}
        add(f"One game, {threads} threads", kind, "environments", "steps/s", measure(makes))
    for kind, kwargs in kinds.items():
        for n_processes in sizes.processes:
            tasks = AtariTasks(LeapA2C, "CnnPolicy", [GAME], args.visit, n_envs=16, algorithm_kwargs=kwargs)
            ways = {str(n): partial(meta_batch_rate, tasks, Workers(n_processes), n) for n in sizes.games}
            figures = alternate(ways, args.repeats)
            points = {n: figures[str(n)] for n in sizes.games}
            name = f"{kind}, {n_processes} process{'es' if n_processes > 1 else ''}"
            add(f"Meta batch, visits of {args.visit:,} steps", name, "games", "steps/s", points)
    for varied, values in (("features_dim", sizes.features), ("width", sizes.widths)):
        for kind, kwargs in kinds.items():
            makes = {}
            for value in values:
                policy = {"features_extractor_class": Nature, "features_extractor_kwargs": {varied: value}}
                makes[parameters(**{varied: value})] = partial(ours, LeapA2C, 16, policy_kwargs=policy, **kwargs)
            what = "features" if varied == "features_dim" else "channels"
            add("Size of the network, 16 environments", f"{kind}, {what}", "parameters", "steps/s", measure(makes))

    text = table(lines)
    print(f"\n{text}")
    if args.table is not None:
        write_text(args.table, f"{text}\n{about(machine())}\n")
    if args.figure is not None:
        draw(lines, args.figure)
    rows = []
    for line in lines:
        if line.panel == "Observing":
            short, long = line.points[min(line.points)], line.points[max(line.points)]
            what = f"hooks of an update, at {max(line.points):,} updates by at {min(line.points):,}"
            rows.append(Row(f"observe-long-{line.name}", long, short, "µs", SLACK, what, less=True))
    notes = {
        f"{line.panel}, {line.name}": ", ".join(f"{label(x)}: {number(y)}" for x, y in line.points.items())
        + f" ({line.x}: {line.unit})"
        for line in lines
    }
    publish(rows, args.json, notes)


if __name__ == "__main__":
    main()
