"""
What strategies of fine-tuning are worth, from one initialization on a validation game.

    python benchmarks/gentle_starts.py --json gentle.json    # half an hour on 2 cores; the same command goes on
    python benchmarks/gentle_starts.py --strategies lp-ft gradual rgn l2 --steps 100000 --seeds 5
    python benchmarks/gentle_starts.py --quick

A2C learns from random weights, from the initialization as it is, and from it by each strategy (docs/finetuning.md),
without others with its encoder frozen for a tenth of the budget, and with a tenth of the learning rate for its encoder:
same seeds, same budget. A run that ends is kept in --runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from report import at_least_one, machine, parser

from leap_rl import AtariTasks, LeapA2C
from leap_rl.atari import game_name
from leap_rl.commands.compare import start_of
from leap_rl.core import Workers, read_strategies
from leap_rl.evaluation import Comparison, compare, plot_comparison
from leap_rl.evaluation.statistics import estimate
from leap_rl.running.file_name import file_name
from leap_rl.transfer import FineTune

SETTINGS = {"ent_coef": 0.01, "vf_coef": 0.25}


def by_strategy(text: str) -> type[LeapA2C]:
    """
    :param text: strategies, by their names
    :return: an A2C that learns by them, called after them
    :raises ValueError: if there are no such strategies
    """
    read_strategies(text)

    def learn(self: LeapA2C, total_timesteps: int, callback: Any = None, **kwargs: Any) -> Any:
        return LeapA2C.learn(self, total_timesteps, [callback, FineTune(*read_strategies(text))], **kwargs)

    return type(file_name(text), (LeapA2C,), {"learn": learn})


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--init", default="atari-a2c-leap", help="a name of the zoo, or a folder")
    cli.add_argument("--strategies", nargs="+", default=["lp-ft:probe=0.1", "slow:factor=0.1"])
    cli.add_argument("--game", default="Assault")
    cli.add_argument("--steps", type=at_least_one, default=48_000)
    cli.add_argument("--seeds", type=at_least_one, default=3)
    cli.add_argument("--runs", type=Path, default=Path("runs/gentle_starts"), help="where runs are kept")
    cli.add_argument("--figure", type=Path, help="draw the learning curves")
    args = cli.parse_args()
    if args.quick:
        # A game whose episodes are short, so that some end.
        args.game, args.steps, args.seeds, args.runs = "Asterix", 2_400, 2, args.runs / "quick"
    try:
        name, start = start_of(args.init)
        args.game = game_name(args.game)
        ways = {f"{name}, {text}": by_strategy(text) for text in args.strategies}
    except ValueError as error:
        cli.error(str(error))
    curves: dict[str, Any] = {}
    diverged: set[tuple[str, str, int]] = set()
    for algorithm, starts in (
        (LeapA2C, {name: start, "random": None}),
        *((kind, {way: start}) for way, kind in ways.items()),
    ):
        tasks = AtariTasks(algorithm, "CnnPolicy", [args.game], args.steps, n_envs=8, algorithm_kwargs=SETTINGS)
        runs = args.runs / algorithm.__name__  # a folder has runs of one algorithm
        compared = compare(tasks, starts, range(args.seeds), Workers(), "encoder", "cpu", runs, progress_bar=True)
        curves |= compared.curves
        diverged.update(compared.diverged)
    comparison = Comparison(curves, range(args.seeds), diverged)
    print(comparison.table())
    rows = []
    as_it_is = comparison.areas(name, args.game)
    for way in curves:
        areas = comparison.areas(way, args.game)
        difference = estimate(np.mean, (areas - as_it_is)[:, None])
        print(f"{way}: area {areas.mean():.1f}, less that of {name} as it is: {difference:+.1f}")
        rows.append(
            {
                "name": f"gentle-starts {way}",
                "ours": areas.mean(),
                "rival": as_it_is.mean(),
                "unit": "area",
                "ratio": areas.mean() / as_it_is.mean(),
                "difference": [difference.low, difference.high],
                "seeds": args.seeds,
                "steps": args.steps,
                "game": args.game,
                **machine(),
            }
        )
    if args.figure is not None:
        plot_comparison(comparison, args.figure, f"{args.seeds} seeds")
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
