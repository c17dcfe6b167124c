"""
What a meta step costs the trainer's own process when its meta batch is large: peak memory, with tasks that give back a
meta gradient of the size of Atari's encoder at once.

    python benchmarks/many_tasks.py --tasks 10 1000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box
from report import Row, at_least_one, parser, publish
from stable_baselines3.common.torch_layers import NatureCNN

from leap_rl.core import (
    Initialization,
    Job,
    Leap,
    LearningCurve,
    MetaTrainer,
    Report,
    Task,
    TaskFamily,
    TaskResult,
    Workers,
)


def encoder() -> Initialization:
    """As large as the encoder of an Atari agent."""
    torch.manual_seed(0)
    return Initialization.of(NatureCNN(Box(0, 255, (4, 84, 84), np.uint8)))


@dataclass(frozen=True)
class Immediate(Task):
    """Gives back a random meta gradient."""

    index: int
    steps: int = 1

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"task-{self.index}"

    def run(self, job: Job, report: Report) -> TaskResult:
        generator = torch.Generator().manual_seed(job.seed)
        gradient = {n: torch.randn(t.shape, generator=generator) for n, t in job.initialization.parameters.items()}
        curve = LearningCurve(np.array([1]), np.array([0.0]), 1)
        return TaskResult(self.name, curve, 1, 0.01, meta_gradient=gradient)


class Immediates(TaskFamily):
    def __init__(self, n: int) -> None:
        self.tasks = [Immediate(i) for i in range(n)]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Immediate:  # type: ignore[override]
        return self.tasks[index]

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        return encoder()


def measure(n: int) -> None:
    """Print peak memory of this process in a meta step, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = MetaTrainer(Immediates(n), Leap(), n, engine=Workers(2), run_dir=folder, seed=0)
        started = time.perf_counter()
        trainer.learn(1)
        seconds = time.perf_counter() - started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"{int(peak.split()[1]) / 1e3:.0f} {seconds:.1f}")


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--tasks", type=at_least_one, nargs=2, default=[10, 1000], help="of a small and a large meta step")
    cli.add_argument("--measure", type=at_least_one, help=argparse.SUPPRESS)
    args = cli.parse_args()
    if args.measure is not None:
        measure(args.measure)
        return
    size = sum(t.nbytes for t in encoder().parameters.values()) / 1e6
    peaks = []
    for n in [4, 32] if args.quick else args.tasks:
        command = [sys.executable, __file__, "--measure", str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, seconds = map(float, done.stdout.split()[-2:])
        peaks.append(peak)
        print(
            f"{n:,} tasks, whose gradients are {n * size:,.0f} MB: {peak:,.0f} MB at most, {seconds:.1f} s", flush=True
        )
    what = "peak memory of the trainer with a large meta batch, by that with a small one"
    publish([Row("many tasks", peaks[1], peaks[0], "MB", 1.1, what, less=True)], args.json)


if __name__ == "__main__":
    main()
