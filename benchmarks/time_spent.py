"""
Where the CPU time of A2C goes, by a profiler: SB3's A2C on its own wrappers beside LeapA2C.

    python benchmarks/time_spent.py             # a minute or two
    python benchmarks/time_spent.py --steps 800

One thread, DummyVecEnv, Breakout, 16 environments. Shares of the CPU time of the process, which other processes do not
change much; the profiler itself makes Python look dearer than it is.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time

import torch
from report import at_least_one, machine
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env as sb3_make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from leap_rl import Leap, LeapA2C, make_atari_env

# By functions, of which none calls another: file and name. Those indented are part of the line above them.
PARTS: dict[str, list[tuple[str, str]]] = {
    "environment": [("base_vec_env.py", "step")],
    "observations to tensors": [("on_policy_algorithm.py", "obs_as_tensor"), ("utils.py", "obs_as_tensor")],
    "forward, to act": [("policies.py", "forward")],
    "  sampling": [("policies.py", "_get_action_dist_from_latent"), ("distributions.py", "get_actions")],
    "rollout buffer: add": [("buffers.py", "add")],
    "rollout buffer: returns": [("buffers.py", "compute_returns_and_advantage")],
    "rollout buffer: get": [("buffers.py", "get")],
    "forward, to learn": [("policies.py", "evaluate_actions")],
    "backward": [("graph.py", "_engine_run_backward")],
    "clipping": [("clip_grad.py", "clip_grad_norm_")],
    "optimizer": [("rmsprop.py", "step")],
    "observing": [("path.py", n) for n in ("before_update", "after_update", "before_backward", "after_backward")],
    "logging and callbacks": [("logger.py", "record"), ("logger.py", "dump"), ("callbacks.py", "on_step")],
}


def spent(model: BaseAlgorithm, steps: int) -> dict[str, float]:
    """Share of the CPU time, by part."""
    model.learn(800)
    profiler = cProfile.Profile(time.process_time)
    started = time.process_time()
    profiler.enable()
    model.learn(steps, reset_num_timesteps=False)
    profiler.disable()
    total = time.process_time() - started
    cumulative: dict[tuple[str, str], float] = {}
    for (file, _, name), (_, _, _, seconds, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        key = file.rpartition("/")[2], name
        cumulative[key] = max(cumulative.get(key, 0.0), seconds)
    shares = {part: sum(cumulative.get(key, 0.0) for key in keys) / total for part, keys in PARTS.items()}
    shares["the rest, Python for the most part"] = 1 - sum(s for part, s in shares.items() if not part.startswith(" "))
    return shares


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=at_least_one, default=8_000)
    steps = cli.parse_args().steps
    torch.set_num_threads(1)
    wrapped = VecFrameStack(sb3_make_atari_env("BreakoutNoFrameskip-v4", n_envs=16, seed=0), 4)
    native = make_atari_env("Breakout", 16, seed=0, n_threads=1)
    found = {
        "SB3 A2C": spent(A2C("CnnPolicy", wrapped, seed=0, device="cpu"), steps),
        "LeapA2C": spent(LeapA2C("CnnPolicy", native, learner=Leap(metric="energy"), seed=0, device="cpu"), steps),
    }
    about = machine()
    print(f"{about['date']}, {about['cpu']}, 1 thread, {steps:,} steps\n")
    print(f"| % of the CPU time | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for part in next(iter(found.values())):
        indent = "of which " if part.startswith(" ") else ""
        print(f"| {indent}{part.strip()} | {' | '.join(f'{100 * shares[part]:.1f}' for shares in found.values())} |")


if __name__ == "__main__":
    main()
