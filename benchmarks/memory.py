"""
Whether a long training grows: resident size late, by resident size early.

    python benchmarks/memory.py                 # 500,000 steps: half an hour or more
    python benchmarks/memory.py --quick         # 10,000

LeapA2C on Breakout with the length, which keeps the most of all observers.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from report import Row, at_least_one, parser, publish
from stable_baselines3.common.callbacks import BaseCallback

from leap_rl import Leap, LeapA2C, make_atari_env


class ResidentSize(BaseCallback):
    """Resident size of this process, in MB, at some steps."""

    def __init__(self, at: list[int]) -> None:
        super().__init__()
        self.at = at
        self.sizes: list[float] = []

    def _on_step(self) -> bool:
        if len(self.sizes) < len(self.at) and self.num_timesteps >= self.at[len(self.sizes)]:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
            print(f"{self.num_timesteps:,} steps: {self.sizes[-1]:.1f} MB", flush=True)
        return True


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--steps", type=at_least_one, default=500_000)
    args = cli.parse_args()
    steps = 10_000 if args.quick else args.steps
    sizes = ResidentSize([steps * i // 5 for i in range(1, 6)])
    env = make_atari_env("Breakout", 16, seed=0)
    model = LeapA2C("CnnPolicy", env, learner=Leap(metric="length"), seed=0, device="cpu")
    model.learn(steps, callback=sizes)
    env.close()
    what = f"after {steps:,} steps by after {steps // 5:,}, {torch.get_num_threads()} threads"
    publish([Row("memory", sizes.sizes[-1], sizes.sizes[0], "MB", 1.02, what, less=True)], args.json)


if __name__ == "__main__":
    main()
