"""
Steps per second, and scores at equal steps, of LeapA2C and LeapPPO beside what a user would take instead.

    python benchmarks/peers.py --json peers.json                       # speed: an hour on 2 cores that are idle
    python benchmarks/peers.py --score-steps 500000 --no-speed         # scores: a day; the same command goes on
    python benchmarks/peers.py --score-steps 500000 --json peers.json  # both: scores that are there are not run again
    python benchmarks/peers.py --quick                                 # A2C alone, beside rivals that are installed

Rivals (benchmarks/rivals/), each in an environment of its own under --environments, made once and reused, 6 GB each
(PyTorch is in all of them):

- sb3: Stable-Baselines3's A2C and PPO on its own Atari wrappers, the faster of DummyVecEnv and SubprocVecEnv; and on
  EnvPool, behind a VecEnv of ours
- single-file: PPO on EnvPool without a library, in the manner of CleanRL
- sbx: Stable-Baselines Jax's PPO, compiled by XLA, on SB3's wrappers (DummyVecEnv) and on EnvPool

All play one game with the Nature network: A2C in 16 environments, 5 steps; PPO in 8, 128 steps, 4 epochs, minibatches
of 256; SB3's other settings; 4 stacked grey frames of 84 x 84, frame skip 4, the maximum of the last two frames, no
sticky actions, a lost life ends an episode, rewards clipped. Where they differ is said with the rows. Each has a
process of its own that stays and is asked in turn to learn for some --seconds; medians are compared. What it takes
until it has learned for the first time (imports, environments, compilation) is not in them, and said once.

A meta batch of ours is four learning processes in a single-threaded process per core, environments and networks made
anew. Beside it, each rival has a single-threaded process per core that learns at the same time, and makes nothing anew.

A score is the mean return of the last 100 whole games, without clipping, one thread each; those that are there already
(in scores.json beside the environments) are not run again.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from report import Row, about, alternate, at_least_one, machine, parser, publish
from stable_baselines3.common.base_class import BaseAlgorithm
from throughput import GAME, PPO_SETTINGS, meta_batch_rate

from leap_rl import AtariTasks, LeapA2C, LeapPPO
from leap_rl.agents.arithmetic import ARITHMETIC_VERSION
from leap_rl.atari import PREPROCESSING_VERSION
from leap_rl.core import Workers
from leap_rl.core.arithmetic import multiplies_bfloat16
from leap_rl.running.files import write_rows, write_text
from leap_rl.threads import sleep_when_idle

RIVALS = Path(__file__).parent / "rivals"
SB3 = ("torch", "numpy", "gymnasium", "stable-baselines3", "ale-py", "opencv-python-headless")
JAX = ("sbx-rl==0.28.0", "jax==0.10.2", "jaxlib==0.10.2", "flax==0.12.8", "optax==0.2.8")
ENVPOOL = "envpool==1.2.5"
PACKAGES: dict[str, Sequence[str]] = {
    "sb3": (*SB3, ENVPOOL),
    "single-file": ("torch", "numpy", "gymnasium", ENVPOOL),
    "sbx": (*SB3, ENVPOOL, *JAX, "tfp-nightly==0.26.0.dev20261027"),
}
"""What each environment holds. Those without a version have that of the environment which runs this."""

N_ENVS = {"A2C": 16, "PPO": 8}
LEAST = {"A2C": 160, "PPO": 1_024}
"""Steps that are learned at a time: whole rollouts."""
KWARGS: dict[str, dict[str, Any]] = {"A2C": {}, "PPO": PPO_SETTINGS}
LEAP: dict[str, type[BaseAlgorithm]] = {"A2C": LeapA2C, "PPO": LeapPPO}

DIFFERENCES = {
    "SB3's wrappers": "grey levels from RGB by OpenCV; a reset presses FIRE and waits up to 30 frames within itself",
    "EnvPool": "an older emulator; grey levels from the palette; a reset presses FIRE and waits within itself",
    "single-file": "as EnvPool; the step after the end of an episode begins the next one, and is learned from",
    "sbx": "policy and value have convolutions each, which is its default; other initial weights",
    "ours": "grey levels from the palette; FIRE takes the place of the first action after a reset and a lost life",
}


class NoRival(Exception):
    """A rival that can't be measured, and why, in a line."""


@dataclass(frozen=True)
class Way:
    """
    Something that learns.

    :param name: in the table
    :param environment: that it runs in; ``None``: the one that runs this
    :param script: of rivals/
    :param algorithm: A2C or PPO
    :param env: what it plays on, where it has a choice
    :param kwargs: of the algorithm
    """

    name: str
    environment: str | None
    script: str
    algorithm: str
    env: str = ""
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return self.script == "ours"

    def settings(self, threads: int, seed: int, warm_up: int) -> dict[str, Any]:
        return {
            "game": GAME,
            "algorithm": self.algorithm,
            "env": self.env,
            "n_envs": N_ENVS[self.algorithm],
            "kwargs": {**KWARGS[self.algorithm], **self.kwargs},
            "threads": threads,
            "seed": seed,
            "warm_up": warm_up,
        }


def ways_of(algorithm: str, fast: bool) -> list[Way]:
    ways = [
        Way(f"{algorithm}, SB3, DummyVecEnv", "sb3", "sb3_atari", algorithm, "DummyVecEnv"),
        Way(f"{algorithm}, SB3, SubprocVecEnv", "sb3", "sb3_atari", algorithm, "SubprocVecEnv"),
        Way(f"{algorithm}, SB3, EnvPool", "sb3", "sb3_atari", algorithm, "EnvPool"),
    ]
    if algorithm == "PPO":
        ways += [
            Way("PPO, single file, EnvPool", "single-file", "ppo_single_file", algorithm),
            Way("PPO, sbx, DummyVecEnv", "sbx", "sbx_atari", algorithm, "DummyVecEnv"),
            Way("PPO, sbx, EnvPool", "sbx", "sbx_atari", algorithm, "EnvPool"),
        ]
    ways.append(Way(f"Leap{algorithm}", None, "ours", algorithm))
    if fast:
        ways.append(Way(f"Leap{algorithm}, fast", None, "ours", algorithm, kwargs={"arithmetic": "fast"}))
    return ways


# -- environments --------------------------------------------------------------------------------------------------


def pinned(rival: str) -> list[str]:
    """What an environment holds, with versions."""
    return [name if "==" in name else f"{name}=={version(name).split('+')[0]}" for name in PACKAGES[rival]]


def interpreter(rival: str, folder: Path) -> Path:
    return folder / rival / "bin" / "python"


def is_made(rival: str, folder: Path) -> bool:
    made = folder / rival / "made.txt"
    return made.is_file() and made.read_text().split() == pinned(rival)


def make_environment(rival: str, folder: Path) -> None:
    """:raises NoRival: if it can't be made"""
    if is_made(rival, folder):
        return
    print(f"{rival}: making its environment in {folder / rival}, some minutes", flush=True)
    pip = [str(interpreter(rival, folder).absolute()), "-m", "pip", "install", "--quiet", "--no-input"]
    for command in ([sys.executable, "-m", "venv", str(folder / rival)], [*pip, *pinned(rival)]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment_of(rival, 0))
        if done.returncode:
            raise NoRival(
                f"its environment can't be made ({why(done.stderr + done.stdout, 0)}): "
                "the same command tries again, --rivals leaves it out"
            )
    (folder / rival / "made.txt").write_text("\n".join(pinned(rival)) + "\n")


def why(text: str, which: int) -> str:
    """
    A line that says what went wrong.

    :param text: what a process said
    :param which: of the lines with an error; pip says it in the first, a traceback in the last
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines[-1:] or ["no word of why"])[which]


def environment_of(rival: str | None, threads: int) -> dict[str, str]:
    """
    Variables of a process.

    :param threads: that libraries may have; 0 says nothing of them
    """
    variables = dict(os.environ)
    if rival is not None:
        variables.pop("PYTHONPATH", None)
        variables |= {"PYTHONNOUSERSITE": "1", "JAX_PLATFORMS": "cpu"}
    if threads:
        variables |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC", "PJRT_NPROC")}
    return variables


# -- processes -----------------------------------------------------------------------------------------------------


class Learner:
    """
    A process of rivals/, which learns when it is asked to.

    :param way: what it is
    :param folder: of environments and logs
    :param threads: of its own
    """

    def __init__(self, way: Way, folder: Path, threads: int, seed: int = 0, warm_up: int = 0) -> None:
        self.way = way
        self.log = folder / "logs" / f"{way.name.replace(', ', '-').replace(' ', '-')}-{threads}-{seed}.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        python = sys.executable if way.environment is None else str(interpreter(way.environment, folder).absolute())
        started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, str(RIVALS / f"{way.script}.py"), json.dumps(way.settings(threads, seed, warm_up))],
                env=environment_of(way.environment, threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.versions: dict[str, str] = self.hear()["versions"]
        except BaseException:
            self.end()
            raise
        self.start_up = time.perf_counter() - started

    def ask(self, steps: int) -> None:
        assert self.process.stdin is not None
        try:
            print(steps, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # which its answer says

    def hear(self) -> dict[str, Any]:
        """:raises NoRival: if its process has ended"""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise NoRival(f"{self.way.name} has ended ({why(self.log.read_text(), -1)}); {self.log} has all of it")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextmanager
def running(way: Way, folder: Path, threads: int, seed: int = 0, warm_up: int = 0) -> Iterator[Learner]:
    learner = Learner(way, folder, threads, seed, warm_up)
    try:
        yield learner
    finally:
        learner.end()


def rate(learners: Sequence[Learner], steps: int) -> float:
    """Steps per second of all that learn at the same time; not a number where one has ended."""
    try:
        for learner in learners:
            learner.ask(steps)
        answers = [learner.hear() for learner in learners]
    except NoRival as ended:
        print(ended, flush=True)
        return math.nan
    return sum(answer["steps"] for answer in answers) / max(answer["seconds"] for answer in answers)


# -- what is measured ----------------------------------------------------------------------------------------------


@dataclass
class Limits:
    folder: Path
    cores: int
    seconds: float
    visit: int
    repeats: int
    side_by_side: bool


def speeds(ways: Sequence[Way], limits: Limits, notes: dict[str, str]) -> dict[str, float]:
    """Medians of one algorithm's ways; without those that could not be measured."""
    algorithm = ways[0].algorithm
    least = LEAST[algorithm]
    measured: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:

        def start(way: Way, threads: int) -> Learner:
            return stack.enter_context(running(way, limits.folder, threads, warm_up=least))

        def measuring(learners: list[Learner]) -> Callable[[], float]:
            alone = rate(learners, least) / len(learners)
            times = 1 if math.isnan(alone) else max(1, round(alone * limits.seconds / least))
            return partial(rate, learners, times * least)

        for way in ways:
            try:
                learner = start(way, limits.cores)
                measured[way.name] = measuring([learner])
                notes[f"{way.name}, start-up"] = f"{learner.start_up:.1f} s until {least:,} steps are learned"
                if way.environment is not None:
                    versions = ", ".join(f"{name} {number}" for name, number in learner.versions.items())
                    notes[f"versions of {way.environment}"] = versions
                if limits.side_by_side and not way.is_ours and way.env != "SubprocVecEnv":
                    beside = [start(way, 1) for _ in range(limits.cores)]
                    measured[side_by_side(way.name, limits.cores)] = measuring(beside)
            except NoRival as reason:
                print(f"{way.environment}: {reason}", flush=True)
                notes[f"{way.name}, not measured"] = str(reason)
        if limits.side_by_side:
            workers = Workers(limits.cores)
            for way in (way for way in ways if way.is_ours):
                kwargs = {**KWARGS[algorithm], **way.kwargs}
                tasks = [
                    AtariTasks(LEAP[algorithm], "CnnPolicy", [GAME], visit, N_ENVS[algorithm], algorithm_kwargs=kwargs)
                    for visit in (least, limits.visit)
                ]
                meta_batch_rate(tasks[0], workers)  # they import torch
                measured[f"{way.name}, meta batch"] = partial(meta_batch_rate, tasks[1], workers)
        figures = alternate(measured, limits.repeats)
    return {name: figure for name, figure in figures.items() if not math.isnan(figure)}


def side_by_side(name: str, cores: int) -> str:
    return f"{name}, {cores} processes"


def rows_of(ways: Sequence[Way], figures: dict[str, float], limits: Limits) -> list[Row]:
    """Ours in fast arithmetic, where the hardware has it, by each rival."""
    algorithm = ways[0].algorithm
    best = next(way.name for way in reversed(ways) if way.is_ours)
    kind = "fast" if best.endswith("fast") else "exact, since this CPU does not multiply bfloat16"
    wrapped = [f"{algorithm}, SB3, DummyVecEnv", f"{algorithm}, SB3, SubprocVecEnv"]
    faster = max((name for name in wrapped if name in figures), key=lambda name: figures[name], default=None)
    rivals = [(way.name, short(way)) for way in ways if not way.is_ours and way.name not in wrapped]
    if faster is not None:
        rivals.insert(0, (faster, f"{algorithm}-sb3".lower()))
    rows: list[Row] = []
    if best not in figures:
        return rows
    for name, row in rivals:
        if name in figures:
            what = f"{name}; {limits.cores} threads, {kind}"
            rows.append(Row(row, figures[best], figures[name], "steps/s", 1.0, what))
    batch = figures.get(f"{best}, meta batch")
    if batch is None:
        return rows
    processes = f"{limits.cores} processes of 1 thread, visits of {limits.visit:,} steps, {kind}"
    if faster is not None:
        what = f"{faster}, one process; ours {processes}"
        rows.append(Row(f"{algorithm}-batch-one-sb3".lower(), batch, figures[faster], "steps/s", 2.5, what))
    for way in ways:
        beside = figures.get(side_by_side(way.name, limits.cores))
        if beside is not None:
            row = short(way).replace("-", "-batch-", 1)
            rows.append(Row(row, batch, beside, "steps/s", 1.0, f"{way.name} side by side; {processes}"))
    return rows


def short(way: Way) -> str:
    """A row's name."""
    words = way.name.lower().replace("single file", "single").split(", ")
    return "-".join(word for word in words if word not in ("dummyvecenv", "subprocvecenv"))


def table(ways: Sequence[Way], figures: dict[str, float], cores: int) -> str:
    """
    Markdown: each way alone and as many processes as there are cores, and how many times its steps ours make.

    :param figures: steps per second
    """
    ours = next((way for way in reversed(ways) if way.is_ours and way.name in figures), None)

    def batch(way: Way) -> float:
        name = f"{way.name}, meta batch" if way.is_ours else side_by_side(way.name, cores)
        return figures.get(name, math.nan)

    def cell(figure: float, form: str) -> str:
        return "" if math.isnan(figure) else format(figure, form)

    head = [ways[0].algorithm, f"one process, {cores} threads", "ours by it", f"{cores} processes", "ours by it"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
    for way in ways:
        if way.name not in figures or ours is None:
            continue
        cells = [way.name.removeprefix(f"{way.algorithm}, ")]
        for mine, its in ((figures[ours.name], figures[way.name]), (batch(ours), batch(way))):
            cells += [cell(its, ",.0f"), "" if way is ours else cell(mine / its, ".2f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def scores(ways: Sequence[Way], limits: Limits, steps: int, seeds: int) -> dict[str, str]:
    """
    Learn from nothing, and keep how well.

    :return: notes
    """
    file = limits.folder / "scores.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []

    def key(way: Way, seed: int) -> dict[str, Any]:
        kwargs = way.settings(1, seed, 0)["kwargs"]
        pins = [PREPROCESSING_VERSION] if way.environment is None else pinned(way.environment)
        pins += [ARITHMETIC_VERSION] if kwargs.get("arithmetic") == "fast" else []
        return {"way": way.name, "game": GAME, "seed": seed, "steps": steps, "pins": pins, "kwargs": kwargs}

    def known(way: Way, seed: int) -> dict[str, Any] | None:
        wanted = key(way, seed)
        return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)

    def run(way: Way, seed: int) -> dict[str, Any]:
        with running(way, limits.folder, 1, seed) as learner:
            learner.ask(steps)
            answer = learner.hear()
        last = answer["returns"]
        score = sum(last) / len(last) if last else None  # where no game has ended
        return {**key(way, seed), "score": score, "games": len(last), "seconds": answer["seconds"]}

    lacking = [(way, seed) for seed in range(seeds) for way in ways if known(way, seed) is None]
    notes = {}
    with ThreadPoolExecutor(limits.cores) as pool:
        runs = {pool.submit(run, way, seed): (way, seed) for way, seed in lacking}
        try:
            for future in as_completed(runs):
                way, seed = runs[future]
                try:
                    rows.append(future.result())
                except NoRival as reason:
                    print(f"{way.environment}: {reason}", flush=True)
                    notes[f"{way.name}, seed {seed}, no score"] = str(reason)
                    continue
                write_rows(file, rows)
                print(f"{way.name}, seed {seed}: {rows[-1]['score']}, {rows[-1]['games']} games", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for way in ways:
        found = [row["score"] for seed in range(seeds) if (row := known(way, seed)) and row["score"] is not None]
        if found:
            each = ", ".join(f"{score:.1f}" for score in found)
            notes[f"{way.name}, score after {steps:,} steps"] = f"{sum(found) / len(found):.1f} (seeds: {each})"
    return notes


def in_words(figures: dict[str, float]) -> dict[str, str]:
    return {name: f"{figure:,.0f} steps/s" for name, figure in figures.items()}


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--environments", type=Path, default=Path("runs/peers"), metavar="DIR", help="of the rivals")
    cli.add_argument("--rivals", nargs="*", choices=PACKAGES, default=list(PACKAGES), help="default: all")
    cli.add_argument("--algorithms", nargs="+", choices=N_ENVS, default=list(N_ENVS), help="default: both")
    cli.add_argument("--seconds", type=at_least_one, default=15, help="of a measurement, about")
    cli.add_argument("--visit", type=at_least_one, default=16_384, help="steps on each game of a meta batch")
    cli.add_argument("--repeats", type=at_least_one, default=5)
    cli.add_argument("--no-batches", action="store_true", help="one process each alone, no meta batches")
    cli.add_argument("--no-speed", action="store_true", help="scores alone")
    cli.add_argument("--score-steps", type=at_least_one, metavar="N", help="measure scores, too, after so many steps")
    cli.add_argument("--seeds", type=at_least_one, default=5, help="of the scores")
    cli.add_argument("--table", type=Path, metavar="FILE", help="write a table of the speeds there, as Markdown")
    args = cli.parse_args()
    if args.no_speed and args.score_steps is None:
        cli.error("--no-speed leaves nothing but scores: it needs --score-steps")
    sleep_when_idle()  # as leap-rl does; for every way, each of which is a process of its own
    cores = Workers().n_workers
    is_fast = multiplies_bfloat16(torch.device("cpu"))
    notes: dict[str, str] = {}
    if args.quick:
        args.algorithms, args.seconds, args.repeats = ["A2C"], 1, 1
        args.rivals = [rival for rival in args.rivals if is_made(rival, args.environments)]
    for rival in list(args.rivals):
        try:
            make_environment(rival, args.environments)
        except NoRival as reason:
            print(f"{rival}: {reason}", flush=True)
            notes[f"{rival}, not measured"] = str(reason)
            args.rivals.remove(rival)
    limits = Limits(
        args.environments, cores, args.seconds, args.visit, args.repeats, not (args.quick or args.no_batches)
    )
    figures: dict[str, float] = {}
    rows: list[Row] = []
    tables: list[str] = []
    for algorithm in args.algorithms:
        ways = [w for w in ways_of(algorithm, is_fast) if w.is_ours or w.environment in args.rivals]
        if args.quick:
            ways = [way for way in ways if way.env != "SubprocVecEnv"]
            if "sb3" not in args.rivals:  # what is installed here is the same SB3, without EnvPool
                ways.insert(0, Way("A2C, SB3, DummyVecEnv", None, "sb3_atari", "A2C", "DummyVecEnv"))
        if not args.no_speed:
            found = speeds(ways, limits, notes)
            rows += rows_of(ways, found, limits)
            figures |= found
            tables.append(table(ways, found, cores))
            print(f"\n{tables[-1]}", flush=True)
        if args.score_steps is not None:
            notes |= scores([w for w in ways if w.env != "SubprocVecEnv"], limits, args.score_steps, args.seeds)
    if args.no_speed:
        print("\n".join(f"{name}: {what}" for name, what in notes.items()))
        return
    if not rows:
        raise SystemExit("there is no row: no rival was measured")
    notes = {f"rivals: {name}": note for name, note in (in_words(figures) | notes).items()}
    notes |= {f"preprocessing, {name}": what for name, what in DIFFERENCES.items()}
    publish(rows, args.json, notes)
    if args.table is not None:
        write_text(args.table, "\n".join([*tables, about(machine()), ""]))


if __name__ == "__main__":
    main()
