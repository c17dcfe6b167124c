"""
Steps per second of LeapA2C beside SB3's A2C, and what observing costs.

    python benchmarks/throughput.py            # some minutes
    python benchmarks/throughput.py --quick    # under a minute; noisy

One game, the Nature network, SB3's hyperparameters, all cores. The ways alternate and the medians are compared. The
cost of observing is the CPU time inside the observer's hooks, as a share of the CPU time of the whole training:
machines are shared, and a difference of two rates is all noise there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env as sb3_make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from leap_rl import GradientPath, Leap, LeapA2C, NoPretraining, make_atari_env

HOOKS = ("before_backward", "after_backward", "before_update", "after_update", "new_rollout")


@contextmanager
def hooks_timed(path: GradientPath) -> Iterator[list[float]]:
    """CPU seconds of this process inside the path's hooks, in the one entry of the list."""
    spent = [0.0]

    def timed(hook: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object) -> None:
            started = time.process_time()
            hook(*args)
            spent[0] += time.process_time() - started

        return run

    for name in HOOKS:
        setattr(path, name, timed(getattr(path, name)))
    yield spent
    for name in HOOKS:
        delattr(path, name)


def sb3(game: str) -> BaseAlgorithm:
    env = VecFrameStack(sb3_make_atari_env(f"{game}NoFrameskip-v4", n_envs=16, seed=0), 4)
    return A2C("CnnPolicy", env, seed=0, device="cpu")


def ours(game: str, learner: Leap | NoPretraining) -> LeapA2C:
    return LeapA2C("CnnPolicy", make_atari_env(game, n_envs=16, seed=0), learner=learner, seed=0, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="Breakout")
    parser.add_argument("--steps", type=int, default=4_000, help="per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.repeats = 800, 2
    models: dict[str, BaseAlgorithm] = {
        "SB3 A2C, its wrappers, DummyVecEnv": sb3(args.game),
        "LeapA2C, not observed": ours(args.game, NoPretraining()),
        "LeapA2C, energy": ours(args.game, Leap(metric="energy")),
        "LeapA2C, length": ours(args.game, Leap(metric="length")),
    }
    rates: dict[str, list[float]] = {name: [] for name in models}
    costs: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.learn(400)  # warm up, and past the updates that are skipped
    for _ in range(args.repeats):
        for name, model in models.items():
            path = getattr(model, "gradient_path", None)
            started, cpu = time.perf_counter(), time.process_time()
            before = model.num_timesteps
            if path is None:
                model.learn(args.steps, reset_num_timesteps=False)
            else:
                with hooks_timed(path) as spent:
                    model.learn(args.steps, reset_num_timesteps=False)
                costs[name].append(spent[0] / (time.process_time() - cpu))
            rates[name].append((model.num_timesteps - before) / (time.perf_counter() - started))
    rival = statistics.median(next(iter(rates.values())))
    print(f"{args.game}, 16 environments, {torch.get_num_threads()} torch threads, medians of {args.repeats}")
    print(f"{'':38}{'steps/s':>9}{'x SB3':>7}{'observing, % of CPU time':>26}")
    for name, values in rates.items():
        cost = f"{100 * statistics.median(costs[name]):.2f}" if costs[name] else ""
        median = statistics.median(values)
        print(f"{name:38}{median:9,.0f}{median / rival:7.2f}{cost:>26}")


if __name__ == "__main__":
    main()
