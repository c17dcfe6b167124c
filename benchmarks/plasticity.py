"""
What an encoder keeps of its ability to learn, after a chain of visits to games.

    python benchmarks/plasticity.py --steps 100000 --json plasticity.json
    python benchmarks/plasticity.py --quick

A2C in fast arithmetic visits one game after the other, from the encoder that the last one left and with a head of its
own. On frames of the validation games under random play, which it has not seen: the share of features that are never
positive, and their effective rank (as benchmarks/features.py has them, in exact arithmetic), before, and after each
visit. The ways: the Nature network as it is; with its dormant units drawn anew between visits (as ``RecycleDormant``
does, by frames of the games that are visited); with soft shrink and perturb (Juliani and Ash, NeurIPS 2024); and
nature-ln. What the JSON has already is not run again.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from features import measure
from report import at_least_one, keep, machine, parser
from stable_baselines3 import A2C
from torch import Tensor

from leap_rl import AtariTasks, Initialization, LeapA2C, NoPretraining, make_atari_env
from leap_rl.agents.dormant import random_observations, recycle
from leap_rl.atari import VALIDATION_GAMES
from leap_rl.core import SoftShrinkPerturb
from leap_rl.transfer import FineTune, NatureLNCNN

SETTINGS: dict[str, Any] = {"ent_coef": 0.01, "vf_coef": 0.25, "device": "cpu"}
LN = {"policy_kwargs": {"features_extractor_class": NatureLNCNN, "net_arch": []}}
WAYS = ("nature", "dormant units drawn anew", "soft shrink and perturb", "nature-ln")


def frames_of(games: list[str], n: int) -> Tensor:
    """Under random play, shape ``(n * len(games), 4, 84, 84)``, from 0 to 1."""
    tasks = AtariTasks(LeapA2C, "CnnPolicy", games, 5, n_envs=1)
    return torch.cat([torch.from_numpy(random_observations(task, n, seed=0)) for task in tasks]) / 255


def visits(
    way: str, games: list[str], steps: int, n_envs: int, seed: int, frames: Tensor, own_frames: Tensor
) -> list[dict[str, Any]]:
    """
    :param way: one of ``WAYS``
    :param games: to visit, in their order
    :param steps: of a visit
    :param frames: that features are measured on
    :param own_frames: of the games that are visited
    :return: what was measured before, and after each visit
    """
    start: Initialization | None = None
    measured = []
    for number, game in enumerate(games):
        env = make_atari_env(game, n_envs, seed=seed + number)
        kwargs = SETTINGS | (LN if way == "nature-ln" else {})
        # Weights are carried from one to the other: what learns in fast arithmetic is measured, and recycled, in exact.
        plain = A2C("CnnPolicy", env, seed=seed + number, **kwargs)
        encoder = plain.policy.features_extractor
        if start is None:
            measured.append(measure(encoder, frames))
        else:
            drawn = copy.deepcopy(encoder)
            start.apply_to(plain)
            if way == "dormant units drawn anew":
                recycle(encoder, drawn, own_frames)
        model = LeapA2C("CnnPolicy", env, seed=seed + number, learner=NoPretraining(), arithmetic="fast", **kwargs)
        Initialization.of(plain).apply_to(model)
        model.learn(steps, callback=FineTune(SoftShrinkPerturb()) if way == "soft shrink and perturb" else None)
        env.close()
        start = Initialization.of(model, "encoder")
        start.apply_to(plain)
        measured.append(measure(encoder, frames))
    return measured


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--games", nargs="+", default=["AirRaid", "Carnival", "DemonAttack", "Pong"])
    cli.add_argument("--steps", type=at_least_one, default=100_000, help="of a visit")
    cli.add_argument("--envs", type=at_least_one, default=8)
    cli.add_argument("--frames", type=at_least_one, default=128, help="of each validation game")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    args = cli.parse_args()
    if args.quick:
        args.games, args.steps, args.envs, args.frames = args.games[:2], 80, 2, 16
    settings = {"games": args.games, "steps": args.steps, "envs": args.envs, "seed": args.seed}
    rows: dict[str, list[dict[str, Any]]] = {}
    if args.json is not None and args.json.is_file():
        known = json.loads(args.json.read_text())
        if {name: known.get(name) for name in settings} != settings:
            cli.error(f"{args.json} is of other settings: name another file, or remove it")
        rows = known["ways"]
    torch.set_num_threads(1)
    if set(args.ways) - rows.keys():
        frames, own_frames = frames_of(list(VALIDATION_GAMES), args.frames), frames_of(args.games, args.frames)
    after = " | ".join(("before", *args.games))
    print(f"Dead features; their effective rank, after each visit of {args.steps:,} steps\n\n| way | {after} |")
    print("|---" * (len(args.games) + 2) + "|")
    for way in args.ways:
        if way not in rows:
            rows[way] = visits(way, args.games, args.steps, args.envs, args.seed, frames, own_frames)
            keep({**settings, "ways": rows, **machine()}, args.json)
        cells = [f"{m['dead'][-1]:.2f}; {m['effective rank']:.0f}" for m in rows[way]]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
