"""``leap-rl show``"""

from __future__ import annotations

import itertools
import math
import shlex
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leap_rl import zoo
from leap_rl.commands.run_folder import COMMANDS_WITH_RUNS, RANDOM_POLICY, saved_agents, stored_settings
from leap_rl.commands.tables import print_markdown
from leap_rl.core.meta_state import MetaState
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.running.files import read_json
from leap_rl.settings import read_preset, settings_file

BARS = "▁▂▃▄▅▆▇█"


MOST_ROWS = 12
"""Of a table, so that all fits into a terminal of 24 lines."""
WIDTH = 40
"""Bars of a curve, which fits into 80 columns beside what it is of."""


def show(folder: Path, everything: bool = False) -> None:
    """
    Print where a run stands.

    :param folder: of the run
    :param everything: all tasks and tables, not only what fits into a terminal of 80 columns and 24 lines
    :raises ValueError: if it is none
    """
    if (folder / "config.json").is_file() or (not folder.exists() and str(folder) in zoo.list()):
        raise ValueError(
            f"{folder} is an initialization: {shlex.join(['leap-rl', 'zoo', 'show', str(folder)])} shows it"
        )
    commands = read_preset(str(settings_file(folder)), set(COMMANDS_WITH_RUNS))
    if not commands:
        raise ValueError(f"{settings_file(folder)} is of no command: it is no run's any more")
    shows = {"meta-train": _show_meta_train, "train": _show_train, "tune": _show_tune, "compare": _show_compare}
    try:
        shows[next(iter(commands))](folder, everything)
    except (KeyError, TypeError, AttributeError) as error:  # of what was edited, or is damaged
        raise ValueError(
            f"{folder} can't be shown: its settings.yaml or what it found is not as leap_rl writes it ({error!r})"
        ) from None


def _show_tune(folder: Path, everything: bool) -> None:
    settings, file = stored_settings(folder, "tune"), folder / "progress.json"
    progress = read_json(file, "leap-rl tune --resume writes it again") if file.is_file() else {"trials": 0}
    best = f", best area {progress['best']:.2f}" if progress.get("best") is not None else ""
    print(f"{folder}: {progress['trials']} of {settings['trials']} trials{best}")
    if (folder / "table.md").is_file():
        print()
        print_markdown((folder / "table.md").read_text())
        print(f"\n  finished: {folder / 'best.yaml'}")


def _show_meta_train(folder: Path, everything: bool) -> None:
    settings = stored_settings(folder, "meta-train")
    checkpoints = Checkpoints(folder)
    if not checkpoints.steps():
        print(f"{folder}: meta-training has not begun")
        return
    state = checkpoints.state(MetaState)
    history, total = state.history, settings["meta-steps"]
    running = len(list(checkpoints.running.glob("task-*"))) if checkpoints.running.is_dir() else 0
    print(f"{folder}: meta step {state.step} of {total}, {state.num_timesteps:,} steps")
    if state.step < total:
        print(f"  {running} tasks of the next meta step are finished")
        if history:
            seconds = sum(h["seconds"] for h in history)
            left = seconds / len(history) * (total - state.step)
            rate = state.num_timesteps / seconds
            print(f"  {rate:,.0f} steps/s; {timedelta(seconds=round(left))} left when it runs")
    else:
        print(f"  finished: {folder / 'initialization'}")
    if state.best is not None:
        print(f"  best initialization: after meta step {state.best.config.get('meta_steps')}")
    if history:
        _print_mean(history)
    table = Table("task", "visits", "area: first", "last", "by visit", "lost", box=None, header_style="")
    visits = {name: [row for h in history for row in h["tasks"] if row["name"] == name] for name in state.tasks}
    visited = [name for name, rows in visits.items() if rows]
    for name in visited if everything else visited[:MOST_ROWS]:
        rows = visits[name]
        areas = [row["area"] for row in rows]
        known = [a for a in areas if not math.isnan(a)]
        first, last = (f"{known[0]:,.1f}", f"{known[-1]:,.1f}") if known else ("-", "-")
        lost = sum(row["status"] != "ok" for row in rows)
        table.add_row(Text(name), str(len(rows)), first, last, curve(areas[-20:]), str(lost or ""))
    Console().print(table)
    if any(math.isnan(row["area"]) for name in visited for row in visits[name]):
        print(" -, · in a visit no episode ended: its area is not measured")
    if table.row_count < len(visited):
        print(f" {len(visited) - table.row_count} more tasks: --all")


def _print_mean(history: Sequence[Any]) -> None:
    """The mean area over the tasks of each meta batch, and what it is not of."""
    areas = [[row["area"] for row in h["tasks"]] for h in history]
    known = [[a for a in batch if not math.isnan(a)] for batch in areas]
    means = [sum(batch) / len(batch) if batch else math.nan for batch in known]
    ends = [m for m in means if not math.isnan(m)]
    if not ends:
        print("  mean area of a meta step: not measured, no episode has ended")
        return
    missing, total = sum(map(len, areas)) - sum(map(len, known)), sum(map(len, areas))
    said = f", {missing} of {total} visits not measured" if missing else ""
    batches = {frozenset(row["name"] for row in h["tasks"]) for h in history}
    print(f"  mean area by meta step: {ends[0]:,.1f} {curve(thinned(means))} {ends[-1]:,.1f}{said}")
    if len(batches) > 1:
        print("  (each meta step has other tasks, whose areas differ; by task they are below)")


def _show_train(folder: Path, everything: bool) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = stored_settings(folder, "train")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    if (folder / "tensorboard").is_dir():
        events.Reload()
    tags = events.Tags()["scalars"]
    logged = [e.step for tag in tags for e in events.Scalars(tag)]
    done = max([*logged, *(int(agent.stem) for agent in saved_agents(folder / "agents"))], default=0)
    finished = " (finished)" if (folder / "agent.zip").is_file() and done >= settings["timesteps"] else ""
    game = settings.get("game") or settings.get("env") or f"a student of {', '.join(settings['teachers'])}"
    print(f"{folder}: {game}, {done:,} of {settings['timesteps']:,} steps{finished}")
    if "rollout/ep_rew_mean" in tags:
        points = events.Scalars("rollout/ep_rew_mean")
        # The median, since a run may have paused for a night.
        pace = [
            (b.wall_time - a.wall_time) / (b.step - a.step) for a, b in itertools.pairwise(points) if b.step > a.step
        ]
        if pace and not finished:
            left = statistics.median(pace) * (settings["timesteps"] - done)
            print(f"  {timedelta(seconds=round(left))} left when it runs")
        values = [p.value for p in points]
        print(f"  mean return: {values[0]:,.1f} {curve(thinned(values))} {values[-1]:,.1f}")


def _show_compare(folder: Path, everything: bool) -> None:
    settings = stored_settings(folder, "compare")
    file = folder / "results.json"
    compared = read_json(file, "leap-rl compare --resume writes it again") if file.is_file() else None
    may_grow = ("games", "envs", "starts", "finetune", "seeds")
    if compared is None or any(compared["settings"].get(name, []) != settings.get(name, []) for name in may_grow):
        kept = (folder / "results").glob("[!.]*")
        done = sum(f" from {RANDOM_POLICY} seed " not in run.name for run in kept)
        learned = settings["games"] or settings["envs"] or [f"the family {settings['family']}"]
        tasks, starts = (", ".join(names) for names in (learned, settings["starts"]))
        print(f"{folder}: {done} runs are finished; {tasks} from {starts}, seeds {settings['seeds']}")
        return
    n_seeds, budget = len(compared["settings"]["seeds"]), compared["settings"]["timesteps"]
    print(f"{folder}: finished; mean over {n_seeds} seeds, a task on one scale")
    table = Table("task", "start", "first", "over the steps", "last", box=None, header_style="")
    for task, starts in compared["results"].items():
        means = {start: _mean_curve([run["curve"] for run in runs], budget) for start, runs in starts.items()}
        every = [v for values in means.values() for v in values if not math.isnan(v)]
        scale = (min(every), max(every)) if every else (0.0, 0.0)
        for number, (start, values) in enumerate(means.items()):
            ends = [f"{v:,.1f}" for v in values if not math.isnan(v)] or ["not measured"]
            name = Text("" if number else task)
            table.add_row(name, Text(start), ends[0], curve(thinned(values, 24), scale), ends[-1])
    Console().print(table)
    file = folder / "table.md"
    tables = file.read_text() if file.is_file() else f"{file} is missing: leap-rl compare --resume writes it again"
    # Its first table has every seed, the second what they say together.
    if everything or len(tables.splitlines()) + table.row_count < 20:
        print()
        print_markdown(tables)
    else:
        print("\n  areas, scores and intervals are in table.md: --all prints it")


def _mean_curve(curves: Sequence[Mapping[str, Sequence[float]]], budget: int) -> list[float]:
    """The mean over runs at a hundred places of the budget; NaN where an episode of some run has yet to end."""
    known = [curve for curve in curves if curve["values"]]
    found = []
    for place in range(1, 101):
        last = [bisect_right(curve["steps"], budget * place / 100) - 1 for curve in known]
        ended = known and min(last) >= 0
        found.append(sum(c["values"][i] for c, i in zip(known, last, strict=True)) / len(known) if ended else math.nan)
    return found


def thinned(values: Sequence[float], most: int = WIDTH) -> list[float]:
    """At most so many of the values, evenly, the last one included."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def curve(values: Sequence[Any], scale: tuple[float, float] | None = None) -> str:
    """
    A curve as text: one bar per value; a dot where there is none.

    :param values: of the curve
    :param scale: lowest and highest bar; without it the smallest and the largest value
    """
    known = [v for v in values if not math.isnan(v)]
    low, high = scale or ((min(known), max(known)) if known else (0.0, 0.0))
    height = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join("·" if math.isnan(v) else BARS[round((v - low) * height)] for v in values)
