"""
Whether LeapA2C on ALE's native environment scores what SB3's A2C scores on SB3's own wrappers.

    python benchmarks/score_parity.py --json parity.json           # hours; the same command goes on
    python benchmarks/score_parity.py --fast                       # fast arithmetic, too
    python benchmarks/score_parity.py --quick

Same network, settings, seeds and budget; scores are returns of whole games, without clipping. What a run scored is kept
in --scores as it ends, and not run again: parity can be measured in several sittings. It is missed where the 95 %
bootstrap interval of the difference of means over seeds lies below zero. A run in whose last tenth no game ended has an
area, but no final score.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import ale_py
import gymnasium as gym
import numpy as np
from report import at_least_one, keep, machine, parser
from stable_baselines3.common.env_util import make_atari_env as sb3_make_atari_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from leap_rl import AtariTasks, Leap, LeapA2C, NoPretraining
from leap_rl.agents import EnvTask
from leap_rl.agents.arithmetic import ARITHMETIC_VERSION
from leap_rl.atari import PREPROCESSING_VERSION, game_name
from leap_rl.core import Job, JobsProgress, Workers
from leap_rl.evaluation.statistics import estimate
from leap_rl.running.files import json_number, write_rows

GAMES = ["Breakout", "DemonAttack"]
SCORES = Path(__file__).parents[1] / "docs" / "evidence" / "score-parity.json"


@dataclass(frozen=True)
class WrappedTask(EnvTask):
    """A game behind SB3's own wrappers. Not observed, LeapA2C has the bits of A2C."""

    def make_vec_env(self, scope: str, n_envs: int | None = None) -> VecEnv:
        gym.register_envs(ale_py)  # a worker process has not imported it
        return VecFrameStack(sb3_make_atari_env(f"{self.name}NoFrameskip-v4", n_envs=n_envs or self.n_envs), 4)


def job_of(game: str, way: str, steps: int, n_envs: int, seed: int) -> Job:
    kwargs = {"arithmetic": "fast"} if way == "fast" else {}
    tasks = AtariTasks(LeapA2C, "CnnPolicy", [game], steps, n_envs, algorithm_kwargs=kwargs)
    task = WrappedTask(game, game, LeapA2C, "CnnPolicy", steps, n_envs) if way == "SB3" else tasks[0]
    learner = NoPretraining() if way == "SB3" else Leap(metric="energy")
    return Job(task, tasks.draw_initialization("encoder", seed), learner, seed, "cpu")


def preprocessing(way: str) -> str:
    """A score holds for the preprocessing that it was measured with."""
    return "SB3" if way == "SB3" else PREPROCESSING_VERSION


def arithmetic(way: str) -> str | None:
    """And for the fast arithmetic of its time."""
    return ARITHMETIC_VERSION if way == "fast" else None


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--games", nargs="+", default=GAMES)
    cli.add_argument("--steps", type=at_least_one, default=500_000)
    cli.add_argument("--seeds", type=at_least_one, default=5)
    cli.add_argument("--fast", action="store_true", help="fast arithmetic, too")
    cli.add_argument("--scores", type=Path, default=SCORES, metavar="FILE", help="of the runs that ended")
    args = cli.parse_args()
    try:
        args.games = [game_name(game) for game in args.games]
    except ValueError as error:
        cli.error(str(error))
    n_envs = 16
    if args.quick:
        # A game whose episodes are short, and few environments, so that some end.
        args.games, args.steps, args.seeds, n_envs, args.scores = ["Asterix"], 3_200, 2, 4, None
    ways = ["SB3", "ours", *(["fast"] if args.fast else [])]
    wanted = [(game, way, seed) for seed in range(args.seeds) for game in args.games for way in ways]
    rows = json.loads(args.scores.read_text()) if args.scores is not None and args.scores.is_file() else []
    scores = {
        (row["game"], row["way"], row["seed"]): row
        for row in rows
        if (row["steps"], row["n_envs"], row.get("preprocessing"), row.get("arithmetic"))
        == (args.steps, n_envs, preprocessing(row["way"]), arithmetic(row["way"]))
    }
    lacking = [key for key in wanted if key not in scores]
    jobs = [job_of(game, way, args.steps, n_envs, seed) for game, way, seed in lacking]
    with JobsProgress() as progress:
        progress.outer(f"{len(jobs)} of {len(wanted)} runs", sum(job.task.steps for job in jobs))
        progress.jobs([f"{game}, {way}, seed {seed}" for game, way, seed in lacking], [job.task.steps for job in jobs])
        for index, result in Workers().run(jobs, progress.job_at):
            game, way, seed = lacking[index]
            if result.status != "ok":  # one that diverged has no score either
                raise RuntimeError(f"{game}, {way}, seed {seed}: {result.status} {result.error or ''}")
            row = {"game": game, "way": way, "seed": seed, "steps": args.steps, "n_envs": n_envs}
            row |= {"preprocessing": preprocessing(way), "arithmetic": arithmetic(way), "area": result.curve.area()}
            row |= {"final score": json_number(result.curve.final_score())}
            row |= {name: value for name, value in machine().items() if name in ("date", "cpu", "versions")}
            scores[game, way, seed] = row
            rows.append(row)
            if args.scores is not None:
                write_rows(args.scores, rows)
    compared = []
    for game in args.games:
        for name in ("area", "final score"):
            known = {
                way: np.array([v for seed in range(args.seeds) if (v := scores[game, way, seed][name]) is not None])
                for way in ways
            }
            sb3 = known.pop("SB3")
            for way, ours in known.items():
                if not len(ours) or not len(sb3):
                    print(f"{game}, {name}, {way}: no run has one")
                    continue
                difference = estimate(lambda a, b: a.mean() - b.mean(), ours[:, None], sb3[:, None])
                compared.append(
                    {
                        "name": f"score-parity {game} {name} {way}",
                        "ours": ours.mean(),
                        "rival": sb3.mean(),
                        "unit": "return",
                        "ratio": ours.mean() / sb3.mean(),
                        "target": "interval of the difference not below 0",
                        "met": difference.high >= 0,
                        "difference": [difference.low, difference.high],
                        "seeds": [len(ours), len(sb3)],
                        **machine(),
                    }
                )
                figures = f"{ours.mean():.2f}, SB3 {sb3.mean():.2f}, difference {difference:+.2f}"
                met = "met" if difference.high >= 0 else "MISSED"
                print(f"{game}, {name}, {way}: {figures}, {len(ours)} and {len(sb3)} runs: {met}")
    keep(compared, args.json)


if __name__ == "__main__":
    main()
