"""
An emulator each, in Python, beside ALE's native vector environment: steps/s, CPU time, and the time to make them; anew,
and where as many were closed before.

    python benchmarks/emulators.py --json emulators.json
    python benchmarks/emulators.py --quick

Both give the same bits (tests/atari/test_flavours.py). 16 copies of one game in its default flavour, random actions.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from report import Row, alternate, at_least_one, parser, publish

from leap_rl.atari import flavour_of
from leap_rl.atari.emulator import Emulators

N_ENVS = 16


def native(game: str, threads: int) -> AtariVectorEnv:
    return AtariVectorEnv(
        flavour_of(game).rom,
        N_ENVS,
        num_threads=threads,
        autoreset_mode=AutoresetMode.SAME_STEP,
        reward_clipping=False,
        use_fire_reset=False,
    )


def emulators(game: str) -> Emulators:
    return Emulators(
        [flavour_of(game)] * N_ENVS,
        screen_size=84,
        frame_stack=4,
        grayscale=True,
        noop_max=30,
        frame_skip=4,
        max_frames=108_000,
        action_repeat_probability=0.0,
        full_action_space=False,
    )


def started(make: Callable[[], AtariVectorEnv | Emulators]) -> tuple[AtariVectorEnv | Emulators, float]:
    """Ready for the first step, and how many seconds that took."""
    begun = time.perf_counter()
    env = make()
    env.reset(seed=np.arange(N_ENVS))
    return env, time.perf_counter() - begun


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--game", default="SpaceInvaders")
    cli.add_argument("--steps", type=at_least_one, default=200, help="of each environment, in one repetition")
    cli.add_argument("--repeats", type=at_least_one, default=7)
    args = cli.parse_args()
    if args.quick:
        args.steps, args.repeats = 20, 1
    makers: dict[str, Callable[[], AtariVectorEnv | Emulators]] = {
        "ours": lambda: emulators(args.game),
        "native, 1 thread": lambda: native(args.game, 1),
        "native, 2 threads": lambda: native(args.game, 2),
    }

    def making(make: Callable[[], AtariVectorEnv | Emulators]) -> float:
        gc.collect()  # threads of the one before end with it
        return started(make)[1]

    made = alternate({name: partial(making, make) for name, make in makers.items()}, min(args.repeats, 3))
    closed, _ = started(makers["ours"])
    closed.close()
    again = making(makers["ours"])
    envs = {name: started(make)[0] for name, make in makers.items()}
    n_actions = len(emulators(args.game).copies[0].actions)
    rng = np.random.default_rng(0)

    def play(env: AtariVectorEnv | Emulators, clock: Callable[[], float]) -> float:
        """Seconds per step."""
        begun = clock()
        for _ in range(args.steps):
            env.send(rng.integers(n_actions, size=N_ENVS))
            env.recv()
        return (clock() - begun) / (args.steps * N_ENVS)

    taken = alternate({name: partial(play, env, time.perf_counter) for name, env in envs.items()}, args.repeats)
    rates = {name: 1 / seconds for name, seconds in taken.items()}
    spent = alternate({name: partial(play, env, time.process_time) for name, env in envs.items()}, args.repeats)
    cpu = {name: 1e6 * seconds for name, seconds in spent.items()}
    rows = []
    for rival, faster in (("native, 1 thread", 0.9), ("native, 2 threads", 0.5)):
        rows.append(
            Row(f"steps, {rival}", rates["ours"], rates[rival], "steps/s", faster, f"{N_ENVS} copies of {args.game}")
        )
        rows.append(
            Row(f"making, {rival}", made["ours"], made[rival], "s", 0.6, "until the first step, ROMs loaded", less=True)
        )
    rows.append(Row("making again, ours", again, made["ours"], "s", 0.1, "where as many were closed", less=True))
    rows.append(Row("CPU time", cpu["ours"], cpu["native, 1 thread"], "µs/step", 1.1, "of one step", less=True))
    publish(rows, args.json)


if __name__ == "__main__":
    main()
