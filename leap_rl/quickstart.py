"""
The whole idea in some minutes on a CPU: meta-train on four Atari games, then start a fifth from the result.

    python -m leap_rl.quickstart

A demonstration, not evidence: its budget is a hundredth of what an agent needs to play well.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Quick:
    """The settings of the demonstration: 144,000 steps in all."""

    games: tuple[str, ...] = ("AirRaid", "BeamRider", "Carnival", "DemonAttack")
    """Meta-trained on; all of them once per meta step."""
    meta_steps: int = 3
    meta_timesteps: int = 6_400
    """Steps of one visit to a game: 80 updates of A2C."""
    new_game: str = "Qbert"
    """Held out, then learned."""
    timesteps: int = 16_800
    """Steps on the new game, from each start and with each seed."""
    seeds: tuple[int, ...] = (0, 1)
    n_envs: int = 16


def quickstart(settings: Quick, folder: Path) -> None:
    """
    :param settings: what to run
    :param folder: for everything it writes
    """
    from leap_rl import AtariTasks, Leap, LeapA2C, MetaTrainer
    from leap_rl.core import Workers
    from leap_rl.evaluation import compare, plot_comparison

    started = time.perf_counter()
    tasks = AtariTasks(LeapA2C, "CnnPolicy", settings.games, settings.meta_timesteps, settings.n_envs)
    new_game = AtariTasks(LeapA2C, "CnnPolicy", [settings.new_game], settings.timesteps, settings.n_envs)
    engine = Workers()

    print(
        f"1/2  Meta-training with Leap on {', '.join(settings.games)}: {settings.meta_steps} meta steps, "
        f"{settings.meta_timesteps:,} steps per game and meta step, {engine.n_workers} processes",
        flush=True,
    )
    trainer = MetaTrainer(
        tasks,
        Leap(metric="energy"),
        meta_batch_size=len(settings.games),
        engine=engine,
        run_dir=folder,
        tensorboard_log=folder / "tensorboard",
        seed=0,
        verbose=1,
    )
    trainer.learn(settings.meta_steps, progress_bar=True)
    trainer.initialization.save(folder / "initialization")

    print(
        f"2/2  Learning {settings.new_game}, which it has not seen, from that initialization and from random ones: "
        f"{settings.timesteps:,} steps each",
        flush=True,
    )
    comparison = compare(
        new_game,
        {"Leap": trainer.initialization, "random": None},
        settings.seeds,
        engine,
        tensorboard_log=folder / "tensorboard",
        progress_bar=True,
    )
    note = f"seeds {', '.join(map(str, settings.seeds))}; demonstration, not evidence"
    table = f"{comparison.table()}\n\n({note})"
    (folder / "table.md").write_text(table + "\n")
    plot_comparison(comparison, folder / "figure.png", f"{settings.new_game}: {note}")

    steps = trainer.num_timesteps + 2 * len(settings.seeds) * settings.timesteps
    seconds = time.perf_counter() - started
    print(f"\n{table}\n")
    print(f"{steps:,} steps in {seconds:.0f} s ({steps / seconds:,.0f} steps/s). In {folder}:")
    print("  figure.png       the learning curves")
    print("  table.md         the table above")
    print("  initialization/  model.safetensors and config.json")
    print("Next:")
    print(f"  {Path(sys.executable).parent / 'tensorboard'} --logdir {folder}/tensorboard")
    print(f"  python -c 'import leap_rl; print(leap_rl.Initialization.load(\"{folder}/initialization\").config)'")
    print("  the examples of README.md, with budgets that teach something")


if __name__ == "__main__":
    from leap_rl.core.logger import next_run_folder

    new_folder = next_run_folder(Path("runs"), "quickstart")
    new_folder.mkdir(parents=True)
    quickstart(Quick(), new_folder)
