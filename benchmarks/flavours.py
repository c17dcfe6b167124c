"""
What an initialization is worth within a family: flavours of one game, from the plan in docs/evidence/flavours/plan.md.

    python benchmarks/flavours.py                      # 45 core-hours; the same command goes on where it stopped
    python benchmarks/flavours.py --games Breakout     # of one game
    python benchmarks/flavours.py --starts leap        # Leap and random weights first; the others join them later
    python benchmarks/flavours.py --scope all          # Leap and random weights, whose heads are meta-learned as well
    python benchmarks/flavours.py --list               # what is done, and what is not

Every step is a command of leap-rl that can be run alone: they are printed as they start. Meta-trainings use one core
each and run side by side; comparisons use all.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from report import at_least_one, parser

from leap_rl.atari import flavours

ROOT = Path(__file__).parents[1]
EVIDENCE = Path("docs/evidence/flavours")
GAMES = ("Berzerk", "Breakout", "Turmoil")
META_TRAININGS = 3
# What the starts are meta-trained by; the presets are beside the plan.
META_LEARNERS = ("leap", "reptile", "finetune")
# What people do without meta-learning: an agent of the default flavour, and one of all training flavours at once.
AGENTS = ("default", "joint", "mimic")
STARTS = (*META_LEARNERS, *AGENTS)
TEACHERS = 7
"""Of a student, at most: those of the first training flavours. Each learns as long as the student, and together with it
as long as the others."""
JUDGED = 2
"""Flavours of each game's test pool, the first ones."""


@dataclass(frozen=True)
class Step:
    """
    A command, and the file that is there when it has ended.

    :param arguments: of leap-rl, for a new run
    :param folder: of the run
    :param result: in that folder, written last
    :param joining: arguments for a new run, and for one that goes on: what joins what is there
    """

    arguments: tuple[str, ...]
    folder: Path
    result: str
    joining: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        result = self.folder / self.result
        if not self.joining or not result.exists():
            return result.exists()
        known = json.loads(result.read_text())["settings"]["starts"]
        return {start.partition("=")[0] for start in known} >= {start.partition("=")[0] for start in self.joining[1:]}

    def run(self) -> None:
        """:raises RuntimeError: if the command fails; its output is beside its folder"""
        command, *rest = self.arguments
        begun = (self.folder / "settings.yaml").is_file()
        run = ["--resume", str(self.folder)] if begun else ["--run-dir", str(self.folder), *rest]
        arguments = [command, *run, *self.joining]
        print(f"leap-rl {shlex.join(arguments)}", flush=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        log = self.folder.with_suffix(".log")
        with log.open("a") as output:
            ended = subprocess.run(
                [sys.executable, "-m", "leap_rl.cli", *arguments], stdout=output, stderr=subprocess.STDOUT
            )
        if ended.returncode:
            raise RuntimeError(f"{command} ended with {ended.returncode}: see {log}")


def steps_of(
    game: str, runs: Path, judged_in: Path, starts: Sequence[str] = STARTS, scope: str = "encoder"
) -> list[list[Step]]:
    """
    :param game: whose flavours are learned
    :param runs: folder of the meta-trainings
    :param judged_in: folder of the comparisons
    :param starts: of them; random weights are judged beside them
    :param scope: of the initializations; with ``all`` Leap is the only start
    :return: in stages, of which each needs those before it: teachers, the starts, the comparison of these
    """
    here = runs / (game if scope == "encoder" else f"{game}-{scope}")
    if scope == "all":
        starts = ("leap",)
    teachers, made, judged = [], [], []
    learned = flavours(game, "train")
    for start in starts:
        preset = ("--preset", str(EVIDENCE / f"{start}.yaml"))
        for seed in range(META_TRAININGS):
            folder = here / f"{start}-{seed}"
            if start in META_LEARNERS:
                what: tuple[str, ...] = ("meta-train", *preset, "--games", f"flavours-{game}-train")
                what, result = (*what, *(("--scope", scope) if scope == "all" else ())), "initialization"
            else:
                result = "agent.zip"
            if start == "default":
                what = ("train", game, *preset)
            elif start == "joint":
                what = ("train", f"flavours-{game}-train", *preset, "--agent.n-envs", str(len(learned)))
            elif start == "mimic":
                alone = [
                    Step(("train", flavour, *preset, "--seed", str(seed)), here / f"{flavour}-{seed}", result)
                    for flavour in learned[:TEACHERS]
                ]
                teachers += alone
                n = ("--agent.n-envs", str(len(alone)))
                what = ("train", "--teachers", *(str(teacher.folder) for teacher in alone), *preset, *n)
            made.append(Step((*what, "--seed", str(seed)), folder, result))
            judged.append(f"{start}/{seed}={folder / result}")
    compared = ("compare", "--preset", str(EVIDENCE / "judged.yaml"), "--games", *flavours(game, "test")[:JUDGED])
    comparison = Step(compared, judged_in / here.name, "results.json", ("--starts", *judged, "random"))
    return [teachers, made, [comparison]]


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    cli.add_argument("--starts", nargs="+", default=STARTS, choices=STARTS, help="what is made and judged")
    cli.add_argument("--scope", default="encoder", choices=("encoder", "all"), help="of the initializations")
    cli.add_argument("--list", action="store_true", help="print what is done, and what is not")
    cli.add_argument("--runs", type=Path, default=Path("runs/flavours"), help="where meta-trainings are kept")
    cli.add_argument("--judged", type=Path, default=EVIDENCE, help="where comparisons are kept")
    cli.add_argument("--processes", type=at_least_one, default=os.cpu_count(), help="meta-trainings side by side")
    args = cli.parse_args()
    os.chdir(ROOT)  # what is kept names folders, and nobody's machine
    for game in args.games:
        *made, judged = steps_of(game, args.runs, args.judged, args.starts, args.scope)
        if args.list:
            for step in (step for stage in (*made, judged) for step in stage):
                print(f"{'done' if step.done else 'to do'}  {step.folder}")
            continue
        for stage in made:
            _run_all([step for step in stage if not step.done], args.processes)
        _run_all([step for step in judged if not step.done], 1)


def _run_all(steps: Sequence[Step], processes: int) -> None:
    with ThreadPoolExecutor(processes) as pool:
        for ended in [pool.submit(step.run) for step in steps]:
            ended.result()


if __name__ == "__main__":
    main()
