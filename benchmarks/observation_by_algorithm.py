"""
What observing costs, for every algorithm that can be observed.

    python benchmarks/observation_by_algorithm.py            # a quarter of an hour
    python benchmarks/observation_by_algorithm.py --quick

Vectors of 8 numbers, SB3's default networks, 4 environments that cost nothing, so that the share is the largest that it
can be: environments and images only make training longer. The cost is the CPU time inside the observer's hooks, as a
share of the CPU time of the whole training. Beside it is the training's CPU time by that of SB3's plain algorithm:
models alternate, and the median over the repetitions is taken of the ratios of neighbours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from observation import hooks_timed
from report import Row, at_least_one, parser, publish
from stable_baselines3.common.env_util import make_vec_env

from leap_rl import Leap
from leap_rl.agents import observed_algorithm
from leap_rl.agents.tasks import OBSERVED
from leap_rl.core import GradientPath, GradientPaths

CONTINUOUS = ("CrossQ", "DDPG", "SAC", "TD3", "TQC")
TARGET = 0.1
"""Of the CPU time at most, where an update does nothing but train a network of vectors."""


class Nothing(gym.Env[np.ndarray, Any]):
    """An environment that costs nothing."""

    observation_space = gym.spaces.Box(-1, 1, (8,), np.float32)

    def __init__(self, continuous: bool) -> None:
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32) if continuous else gym.spaces.Discrete(4)
        self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 8).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return self.reset()[0], float(self.np_random.normal()), self.t % 200 == 0, False, {}

    def action_masks(self) -> np.ndarray:
        return np.ones(4, dtype=bool)


def made(name: str, observed: bool, metric: Any = "energy") -> Any:
    """A model that has begun: past its first updates, which are skipped or wait for data."""
    plain = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    env = make_vec_env(lambda: Nothing(name in CONTINUOUS), 4)
    given: dict[str, Any] = {"buffer_size": 100_000} if "buffer_size" in _arguments(plain) else {}
    if "n_epochs" in _arguments(plain):
        given = {"n_steps": 64, "batch_size": 64}
    kind: Any = observed_algorithm(plain) if observed else plain
    if observed:
        given["learner"] = Leap(metric=metric)
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    return kind(policy, env, seed=0, device="cpu", **given).learn(300)


def _arguments(kind: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = kind.__init__.__code__.co_varnames
    return names


@contextmanager
def timed(path: GradientPath | GradientPaths) -> Iterator[list[list[float]]]:
    """CPU seconds inside the hooks of each path."""
    with ExitStack() as stack:
        paths = list(path.values()) if isinstance(path, GradientPaths) else [path]
        yield [stack.enter_context(hooks_timed(each)) for each in paths]


def main() -> None:
    torch.set_num_threads(1)
    cli = parser(__doc__)
    cli.add_argument("--steps", type=at_least_one, default=1_500, help="per measurement")
    cli.add_argument("--repeats", type=at_least_one, default=7)
    cli.add_argument("--algorithms", nargs="+", default=[name for names in OBSERVED.values() for name in names])
    args = cli.parse_args()
    if args.quick:
        args.steps, args.repeats = 300, 1
    rows = []
    for name in args.algorithms:
        models = {
            "plain": made(name, False),
            "energy": made(name, True),
            "length": made(name, True, "length"),
        }
        seconds: dict[str, list[float]] = {way: [] for way in models}
        shares: dict[str, list[float]] = {way: [] for way in models if way != "plain"}
        for turn in range(args.repeats):
            for way, model in list(models.items())[:: -1 if turn % 2 else 1]:
                started = time.process_time()
                model.learn(args.steps, reset_num_timesteps=False)
                seconds[way].append(time.process_time() - started)
            for way in shares:  # apart: to time the hooks costs, too
                model, started = models[way], time.process_time()
                with timed(model.gradient_path) as spent:
                    model.learn(args.steps, reset_num_timesteps=False)
                shares[way].append(sum(own[0] for own in spent) / (time.process_time() - started))
        notes = {}
        for way in shares:
            ratios = [ours / theirs for ours, theirs in zip(seconds[way], seconds["plain"], strict=True)]
            notes[f"{name}, {way}"] = (
                f"hooks {100 * statistics.median(shares[way]):.1f} % of the CPU time; "
                f"{100 * (statistics.median(ratios) - 1):+.1f} % CPU time beside the plain algorithm"
            )
        print("\n".join(f"{key}: {value}" for key, value in notes.items()), flush=True)
        share = 100 * statistics.median(shares["energy"])
        rows.append((Row(f"observe-{name}", share, 100.0, "% CPU time", TARGET, "energy; hooks", less=True), notes))
    publish([row for row, _ in rows], args.json, {key: value for _, notes in rows for key, value in notes.items()})


if __name__ == "__main__":
    main()
