"""``leap-rl show``"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leap_rl.commands.run_folder import COMMANDS_WITH_RUNS, RANDOM_POLICY, saved_agents, stored_settings
from leap_rl.core.meta_state import MetaState
from leap_rl.running.checkpoint import Checkpoints
from leap_rl.running.files import read_json
from leap_rl.settings import read_preset, settings_file

BARS = "▁▂▃▄▅▆▇█"


def show(folder: Path) -> None:
    """
    Print where a run stands.

    :param folder: of the run
    :raises ValueError: if it is none
    """
    command = next(iter(read_preset(str(settings_file(folder)), set(COMMANDS_WITH_RUNS))))
    {"meta-train": _show_meta_train, "train": _show_train, "tune": _show_tune, "compare": _show_compare}[command](
        folder
    )


def _show_tune(folder: Path) -> None:
    settings, file = stored_settings(folder, "tune"), folder / "progress.json"
    progress = read_json(file, "leap-rl tune --resume writes it again") if file.is_file() else {"trials": 0}
    best = f", best area {progress['best']:.2f}" if progress.get("best") is not None else ""
    print(f"{folder}: {progress['trials']} of {settings['trials']} trials{best}")
    if (folder / "table.md").is_file():
        print(f"\n{(folder / 'table.md').read_text()}\n  finished: {folder / 'best.yaml'}")


def _show_meta_train(folder: Path) -> None:
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
    table = Table("task", "visits", "area: first", "last", "by visit", "lost", box=None, header_style="")
    for name in state.tasks:
        rows = [row for h in history for row in h["tasks"] if row["name"] == name]
        if not rows:
            continue
        areas = [row["area"] for row in rows]
        known = [a for a in areas if not math.isnan(a)]
        first, last = (f"{known[0]:,.1f}", f"{known[-1]:,.1f}") if known else ("-", "-")
        lost = sum(row["status"] != "ok" for row in rows)
        table.add_row(Text(name), str(len(rows)), first, last, curve(areas[-40:]), str(lost or ""))
    Console().print(table)


def _show_train(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = stored_settings(folder, "train")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    logged = [e.step for tag in tags for e in events.Scalars(tag)]
    done = max([*logged, *(int(agent.stem) for agent in saved_agents(folder / "agents"))], default=0)
    finished = " (finished)" if (folder / "agent.zip").is_file() and done >= settings["timesteps"] else ""
    game = settings.get("game") or settings.get("env")
    print(f"{folder}: {game}, {done:,} of {settings['timesteps']:,} steps{finished}")
    if "rollout/ep_rew_mean" in tags:
        points = events.Scalars("rollout/ep_rew_mean")
        seconds = points[-1].wall_time - points[0].wall_time
        if seconds > 0 and not finished:
            left = seconds / (points[-1].step - points[0].step) * (settings["timesteps"] - done)
            print(f"  {timedelta(seconds=round(left))} left when it runs")
        values = [p.value for p in points]
        print(f"  mean return: {values[0]:,.1f} {curve(values[:: max(1, len(values) // 60)])} {values[-1]:,.1f}")


def _show_compare(folder: Path) -> None:
    settings = stored_settings(folder, "compare")
    file = folder / "results.json"
    compared = read_json(file, "leap-rl compare --resume writes it again") if file.is_file() else None
    may_grow = ("games", "envs", "starts", "seeds")
    if compared is None or any(compared["settings"][name] != settings[name] for name in may_grow):
        kept = (folder / "results").glob("[!.]*")
        done = sum(f" from {RANDOM_POLICY} seed " not in run.name for run in kept)
        learned = settings["games"] or settings["envs"] or [f"the family {settings['family']}"]
        tasks, starts = (", ".join(names) for names in (learned, settings["starts"]))
        print(f"{folder}: {done} runs are finished; {tasks} from {starts}, seeds {settings['seeds']}")
        return
    print(f"{folder}: finished\n\n{(folder / 'table.md').read_text()}")
    for task, starts in compared["results"].items():
        for start, runs in starts.items():
            for run in runs:
                values = run["curve"]["values"]
                print(f"{task} from {start}, seed {run['seed']}: {curve(values[:: max(1, len(values) // 60)])}")


def curve(values: Sequence[Any]) -> str:
    """A curve as text: one bar per value, between the smallest and the largest; a dot where there is none."""
    known = [v for v in values if not math.isnan(v)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join("·" if math.isnan(v) else BARS[round((v - low) * scale)] for v in values)
