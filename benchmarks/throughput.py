"""
Steps per second of LeapA2C and LeapPPO beside SB3's A2C and PPO, and how near they come to the machine's limit.

    python benchmarks/throughput.py --json throughput.json     # half an hour
    python benchmarks/throughput.py --no-ppo                   # A2C alone, in a third of the time
    python benchmarks/throughput.py --quick                    # under a minute; noisy, one game of A2C alone

The Nature network, 16 environments and 5 steps (PPO: 8 environments, 128 steps, 4 epochs, minibatches of 256), SB3's
other settings, exact arithmetic, observed with the energy. SB3 has its own Atari wrappers, on the faster of
DummyVecEnv and SubprocVecEnv. A meta batch is four learning processes, one single-threaded process per core, and what
it takes to make environments (seconds, for 16 of them) and networks counts; the same in one process, one after the
other, is printed beside it, measured once. They all play the game that SB3 plays: other games cost more or less. All
ways alternate, each in a process of its own (what LeapA2C asks of its process, SB3's A2C has not), and medians are
compared.

Fast arithmetic is measured on a CPU that multiplies bfloat16; where it is not measured, that is said. Of a GPU it is
gpu.py that measures.

The floor is the time of what can't be left out, each measured alone: the environments, a forward pass per step, a
forward and backward pass and a step of the optimizer per update. Beside it is what they take in turn, as learning has
them: then each finds the caches full of the others' data, and threads that sleep.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from report import Row, alternate, at_least_one, parser, publish, seconds
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env as sb3_make_atari_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack

from leap_rl import AtariTasks, Leap, LeapA2C, LeapPPO, make_atari_env
from leap_rl.core import Engine, InProcess, Job, Workers
from leap_rl.core.arithmetic import multiplies_bfloat16
from leap_rl.threads import sleep_when_idle

GAME = "Breakout"
PPO_SETTINGS: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "n_epochs": 4}
ENERGY = Leap(metric="energy")

IN_TURN = "all in turn"

Ways = dict[str, Callable[[], float]]
"""What is compared: each measures its figure."""

_ways: Ways = {}


def in_own_process(make: Callable[[], Ways], processes: ExitStack) -> Ways:
    """The ways that ``make`` gives, measured in a new process."""
    process = processes.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
    return {name: partial(_measure_there, process, name) for name in process.submit(_make, make).result()}


def _make(make: Callable[[], Ways]) -> list[str]:
    _ways.update(make())
    return list(_ways)


def _measure(name: str) -> float:
    return _ways[name]()


def _measure_there(process: ProcessPoolExecutor, name: str) -> float:
    return process.submit(_measure, name).result()


def sb3_env(vec_env: type[DummyVecEnv | SubprocVecEnv], n_envs: int) -> VecEnv:
    gym.register_envs(ale_py)
    return VecFrameStack(
        sb3_make_atari_env(f"{GAME}NoFrameskip-v4", n_envs=n_envs, seed=0, vec_env_cls=vec_env),
        4,  # type: ignore[arg-type]
    )


def sb3(
    algorithm: type[BaseAlgorithm], vec_env: type[DummyVecEnv | SubprocVecEnv], n_envs: int, **kwargs: Any
) -> BaseAlgorithm:
    return algorithm("CnnPolicy", sb3_env(vec_env, n_envs), seed=0, **kwargs)


def ours(algorithm: type[BaseAlgorithm], n_envs: int, device: str = "cpu", **kwargs: Any) -> BaseAlgorithm:
    return algorithm("CnnPolicy", make_atari_env(GAME, n_envs, seed=0), learner=ENERGY, seed=0, device=device, **kwargs)  # type: ignore[call-arg]


def learning(name: str, make: Callable[[], BaseAlgorithm], steps: int) -> Ways:
    """One model, which goes on learning at each measurement."""
    model = make()
    model.learn(160)
    return {name: partial(rate, model, steps)}


def rate(model: BaseAlgorithm, steps: int) -> float:
    """Steps per second."""
    before = model.num_timesteps
    spent = seconds(lambda: model.learn(steps, reset_num_timesteps=False))
    return (model.num_timesteps - before) / spent


def meta_batch_rate(tasks: AtariTasks, engine: Engine, size: int = 4, device: str = "cpu") -> float:
    """Steps per second of a meta batch of one game; only learning processes that end well count."""
    theta = tasks.draw_initialization("encoder", 0)
    jobs = [Job(tasks[0], theta, ENERGY, seed, device) for seed in range(size)]
    results: list[Any] = []
    spent = seconds(lambda: results.extend(r for _, r in engine.run(jobs, lambda *_: None)))
    return sum(r.steps for r in results if r.status == "ok") / spent


def floor(n_envs: int = 16, n_steps: int = 5) -> Ways:
    """What measures the seconds per step of each part alone, and of all in turn."""
    model = ours(LeapA2C, n_envs)
    env = model.env
    assert env is not None
    env.reset()
    policy: Any
    policy, rng = model.policy, np.random.default_rng(0)
    observations = rng.integers(0, 256, (n_envs * n_steps, 4, 84, 84), dtype=np.uint8)
    few, many = torch.from_numpy(observations[:n_envs]), torch.from_numpy(observations)
    actions = torch.zeros(len(many), dtype=torch.long)

    def repeat(what: Callable[[], object], n: int) -> None:
        for _ in range(n):
            what()

    def play(n: int = 40) -> float:
        drawn = rng.integers(0, env.action_space.n, (n, n_envs))  # type: ignore[attr-defined]
        return seconds(lambda: [env.step(a) for a in drawn]) / (n * n_envs)

    def forward(n: int = 40) -> float:
        with torch.no_grad():
            return seconds(lambda: [policy(few) for _ in range(n)]) / (n * n_envs)

    def evaluate() -> None:
        values, log_probs, entropy = policy.evaluate_actions(many, actions)
        policy.optimizer.zero_grad()
        (values.mean() + log_probs.mean() + entropy.mean()).backward()  # type: ignore[union-attr]

    def forward_backward(n: int = 10) -> float:
        return seconds(lambda: repeat(evaluate, n)) / (n * len(many))

    def optimizer(n: int = 20) -> float:
        return seconds(lambda: repeat(policy.optimizer.step, n)) / (n * len(many))

    def update() -> None:
        for _ in range(n_steps):
            forward(1)
            play(1)
        evaluate()
        policy.optimizer.step()

    def in_turn(n: int = 10) -> float:
        return seconds(lambda: repeat(update, n)) / (n * len(many))

    evaluate()
    play(300)  # until games end and begin anew, as they do while an agent learns
    return {
        "environment": play,
        "forward": forward,
        "forward + backward": forward_backward,
        "optimizer": optimizer,
        IN_TURN: in_turn,
    }


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--steps", type=at_least_one, default=2_048, help="per measurement of one game")
    cli.add_argument("--visit", type=at_least_one, default=16_384, help="steps on each game of a meta batch")
    cli.add_argument("--repeats", type=at_least_one, default=3)
    cli.add_argument("--no-ppo", action="store_true", help="A2C alone, in a third of the time")
    args = cli.parse_args()
    sleep_when_idle()  # as leap-rl does; for every way, each of which is a process of its own
    if args.quick:
        args.steps, args.repeats = 320, 1
    vec_envs: list[type[DummyVecEnv | SubprocVecEnv]] = [DummyVecEnv] if args.quick else [DummyVecEnv, SubprocVecEnv]
    cores = torch.get_num_threads()
    models: dict[str, Callable[[], BaseAlgorithm]] = {
        f"A2C, {kind.__name__}": partial(sb3, A2C, kind, 16, device="cpu") for kind in vec_envs
    }
    models["LeapA2C"] = partial(ours, LeapA2C, 16)
    is_fast = multiplies_bfloat16(torch.device("cpu")) and not args.quick
    batches: Ways = {}
    has_ppo = not (args.quick or args.no_ppo)
    if not args.quick:
        workers = Workers(cores)
        a2c_batch = AtariTasks(LeapA2C, "CnnPolicy", [GAME], args.visit, n_envs=16)
        batches["A2C meta batch"] = partial(meta_batch_rate, a2c_batch, workers)
        if has_ppo:
            models |= {
                f"PPO, {kind.__name__}": partial(sb3, PPO, kind, 8, device="cpu", **PPO_SETTINGS) for kind in vec_envs
            }
            models["LeapPPO"] = partial(ours, LeapPPO, 8, **PPO_SETTINGS)
            ppo_batch = AtariTasks(LeapPPO, "CnnPolicy", [GAME], args.visit, n_envs=8, algorithm_kwargs=PPO_SETTINGS)
            batches["PPO meta batch"] = partial(meta_batch_rate, ppo_batch, workers)
        meta_batch_rate(AtariTasks(LeapA2C, "CnnPolicy", [GAME], 80, n_envs=16), workers)  # they import torch
        if is_fast:
            fast: dict[str, Any] = {"arithmetic": "fast"}
            models["LeapA2C, fast"] = partial(ours, LeapA2C, 16, **fast)
            batch = AtariTasks(LeapA2C, "CnnPolicy", [GAME], args.visit, n_envs=16, algorithm_kwargs=fast)
            batches["A2C meta batch, fast"] = partial(meta_batch_rate, batch, workers)
    with ExitStack() as processes:
        parts = in_own_process(floor, processes)
        ways = {**parts, **batches}
        for name, make in models.items():
            # PPO learns from whole rollouts.
            steps = max(1024, args.steps // 1024 * 1024) if "PPO" in name else args.steps
            ways |= in_own_process(partial(learning, name, make, steps), processes)
        figures = alternate(ways, args.repeats)
    if not args.quick:
        figures["A2C meta batch, one process, once"] = meta_batch_rate(a2c_batch, InProcess())
    threads, both = f"{cores} threads", f"{cores} processes of 1 thread, visits of {args.visit:,} steps"
    per_step = {name: figures[name] for name in parts}
    in_turn = per_step.pop(IN_TURN)
    a2c_rival = max(figure for name, figure in figures.items() if name.startswith("A2C, "))
    rows = [
        Row("a2c-one-game", figures["LeapA2C"], a2c_rival, "steps/s", 1.3, threads),
        Row("floor-share", figures["LeapA2C"], 1 / sum(per_step.values()), "steps/s", 0.75, threads),
    ]
    if not args.quick:
        rows.append(Row("a2c-meta-batch", figures["A2C meta batch"], a2c_rival, "steps/s", 1.6, both))
    if has_ppo:
        ppo_rival = max(figure for name, figure in figures.items() if name.startswith("PPO, "))
        rows += [
            Row("ppo-one-game", figures["LeapPPO"], ppo_rival, "steps/s", 1.1, threads),
            Row("ppo-meta-batch", figures["PPO meta batch"], ppo_rival, "steps/s", 1.3, both),
        ]
    if is_fast:
        rows += [
            Row("a2c-one-game-fast", figures["LeapA2C, fast"], a2c_rival, "steps/s", 1.6, threads),
            Row("a2c-meta-batch-fast", figures["A2C meta batch, fast"], a2c_rival, "steps/s", 2.2, both),
        ]
    notes = {name: f"{figure:,.0f} steps/s" for name, figure in figures.items() if name not in parts}
    per_step["lost where they take turns"] = in_turn - sum(per_step.values())
    per_step["the rest: SB3's loops, buffers, logging"] = 1 / figures["LeapA2C"] - in_turn
    notes |= {f"LeapA2C, {name}": f"{1e6 * part:,.0f} µs per step" for name, part in per_step.items()}
    if not is_fast:
        why = "--quick" if args.quick else "this machine has not what they need"
        notes["a2c-one-game-fast, a2c-meta-batch-fast"] = f"not measured: {why}"
    publish(rows, args.json, notes)


if __name__ == "__main__":
    main()
