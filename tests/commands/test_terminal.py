"""What a terminal of 80 columns and 24 lines shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from leap_rl.cli import COMMANDS, main
from leap_rl.commands.show import curve, thinned
from leap_rl.commands.tables import print_markdown
from leap_rl.commands.tasks import make_tasks
from leap_rl.core import MetaTrainer
from leap_rl.running.progress import JobsProgress
from leap_rl.settings import AgentSettings, AtariSettings
from leap_rl.zoo import list as zoo_names
from leap_rl.zoo.worth import worths

ROOT = Path(__file__).parents[2]


def said(*arguments: str, columns: int = 80) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "leap_rl", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_breaks_no_option(command: str, capsys: Any) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    if "--agent" in shown:
        whole = {f"--agent.{field.name.replace('_', '-')}" for field in fields(AgentSettings)}
        assert whole <= set(re.findall(r"--[a-z.-]+", shown))


def test_help_is_grouped_and_has_examples() -> None:
    shown = said("meta-train", "--help")
    titles = re.findall(r"^╭─ (.+?) ─", shown, re.MULTILINE)
    assert titles[:4] == ["This run", "What to learn", "What to start from", "Meta-learner"]
    assert titles[-1] == "Where it runs" and "Parameters" not in titles
    assert shown.count("  leap-rl meta-train --") == 2


def test_the_shell_can_complete_commands() -> None:
    assert "--install-completion" in said("--help")


def test_the_zoo_says_what_its_entries_are_worth(capsys: Any) -> None:
    assert main(["zoo", "list"]) == 0
    shown = capsys.readouterr().out
    known = worths()
    published = {p.name for p in (ROOT / "zoo" / "initializations").iterdir() if p.is_dir()}
    assert known.keys() == published <= set(zoo_names())
    page = (ROOT / "docs" / "zoo.md").read_text()
    for name, worth in known.items():
        figures = worth.said
        assert any(name in line and figures in line and worth.verdict in line for line in shown.splitlines())
        # As the page has it, whose plans and tables lie under docs/evidence.
        assert re.search(rf"^\| `{name}` \|.*{re.escape(figures)}", page, re.MULTILINE)
    assert {name for name, worth in known.items() if worth.recommended} == {
        "atari-a2c-reptile",
        "flavours-Berzerk-leap",
        "flavours-Breakout-leap",
        "flavours-Turmoil-leap",
    }
    assert shown.index("atari-a2c-reptile") < shown.index("atari-a2c-leap")
    assert shown.count("recommended") == 4


def test_the_zoo_shows_a_card_and_no_json(capsys: Any) -> None:
    assert main(["zoo", "show", "atari-a2c-leap"]) == 0
    shown = capsys.readouterr().out
    assert "1.24 (0.97 to 1.48), not shown" in shown and "sha256" in shown and "# atari-a2c-leap\n" in shown
    assert "library_name" not in shown and '"shapes"' not in shown
    assert "Breakout, SpaceInvaders: 200,000 steps" in shown
    assert main(["zoo", "show", "atari-a2c-leap", "--json"]) == 0
    assert '"shapes"' in capsys.readouterr().out


@pytest.mark.parametrize("comparison", ["held-out", "held-out-3"])
def test_a_comparison_fits(comparison: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["show", f"docs/evidence/{comparison}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    assert sum("▇" in line or "▆" in line for line in lines) >= 4


def test_starts_are_on_one_scale() -> None:
    assert curve([0.0, 7.0], (0.0, 7.0)) == "▁█" and curve([0.0, 3.5], (0.0, 7.0)) == "▁▅"
    assert curve([1.0, float("nan")]) == "▁·"
    assert thinned(list(range(100)), 4) == [0, 33, 66, 99]


def test_tables_have_no_pipes(capsys: Any) -> None:
    print_markdown(
        "Before.\n\n| task | area (each) |\n|---|---|\n| Pong | 1.5 |\n| Pong | 22.5 |\n\nAfter [bold].\n| no table |"
    )
    shown = capsys.readouterr().out
    assert shown.startswith("Before.\n") and "After [bold].\n| no table |" in shown
    rows = [line.rstrip() for line in shown.splitlines() if "5" in line]
    assert [row.split() for row in rows] == [["Pong", "1.5"], ["22.5"]] and len(rows[0]) == len(rows[1])


def test_a_run_of_many_tasks_fits(tmp_path: Path, capsys: Any) -> None:
    """The mean over the tasks comes first, and says what it is not of."""
    command = "meta-train --family cartpole --timesteps 64 --meta-steps 2 --meta-batch-size 15 --n-workers 1"
    options = "--agent.algorithm PPO --agent.n-envs 2 --agent.n-steps 16 --agent.batch-size 16 --agent.n-epochs 1"
    folder = tmp_path / "run"
    assert main([*command.split(), *options.split(), "--run-dir", str(folder)]) == 0
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 23 and max(map(len, (line for line in lines if str(folder) not in line))) <= 80
    mean = next(i for i, line in enumerate(lines) if "mean area by meta step" in line)
    assert mean < next(i for i, line in enumerate(lines) if "by visit" in line)
    assert " 18 more tasks: --all" in lines
    assert main(["show", str(folder), "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 33
    shutil.rmtree(folder)


def test_more_steps_than_were_asked_for_are_said(tmp_path: Path, capsys: Any) -> None:
    given = ["train", "--env", "CartPole-v1", "--agent.n-envs", "2", "--device", "cpu", "--run-dir", str(tmp_path)]
    assert main([*given, "--timesteps", "15"]) == 0
    assert "It learns 20 steps, not 15: its rollouts have 10" in capsys.readouterr().out


def test_training_shows_steps_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    told: list[tuple[int, float]] = []
    monkeypatch.setattr(JobsProgress, "job_at", lambda bar, index, steps, score: told.append((steps, score)))
    train = ["train", "--env", "CartPole-v1", "--agent.n-envs", "2", "--run-dir", str(tmp_path / "run")]
    assert main([*train, "--timesteps", "500"]) == 0
    assert [steps for steps, _ in told] == [*range(10, 501, 10)] and 5 < told[-1][1] < 100
    told.clear()
    assert main(["train", "--resume", str(tmp_path / "run"), "--timesteps", "600"]) == 0
    assert [steps for steps, _ in told] == [*range(10, 101, 10)]


def test_runs_without_an_episode_are_told_what_would_end_one(tmp_path: Path, capsys: Any) -> None:
    short = ["--envs", "Pendulum-v1", "--agent.algorithm", "PPO", "--agent.n-envs", "2", "--agent.n-steps", "32"]
    short += ["--timesteps", "64", "--n-workers", "1"]
    with pytest.warns(UserWarning, match="no episode ended in any visit.* more timesteps than 64"):
        assert main(["meta-train", *short, "--meta-steps", "1", "--run-dir", str(tmp_path / "made")]) == 0
    assert "Meta-training on 1 task, 1 meta steps" in capsys.readouterr().out
    assert main(["compare", *short, "--starts", "random", "--seeds", "0", "1", "--run-dir", str(tmp_path / "two")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "seed 1: no episode ended" in shown
    assert "In 2 of 2 runs no episode ended within 64 steps: more --timesteps measure them" in shown
    train = ["train", "--env", "Pendulum-v1", *short[2:-2], "--run-dir", str(tmp_path / "trained")]
    assert main(train) == 0
    assert "No episode ended in its 64 steps: more --timesteps" in capsys.readouterr().out


def test_evaluating_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    train = ["train", "--env", "CartPole-v1", "--agent.n-envs", "2", "--timesteps", "100"]
    assert main([*train, "--run-dir", str(tmp_path / "run")]) == 0
    told: list[tuple[int, float]] = []
    monkeypatch.setattr(JobsProgress, "job_at", lambda bar, index, done, score: told.append((done, score)))
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "3"]) == 0
    assert {done for done, _ in told} == {0, 1, 2} and told[-1][1] > 5


def test_a_start_that_no_meta_step_bettered_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(MetaTrainer, "best_initialization", property(lambda trainer: begun))
    given = ["--envs", "CartPole-v1", "--eval-envs", "CartPole-v0", "--eval-freq", "1", "--timesteps", "256"]
    begun = make_tasks((), ("CartPole-v1",), 256, AgentSettings(n_envs=2), AtariSettings()).draw_initialization(None, 0)
    given += ["--agent.n-envs", "2", "--meta-steps", "1", "--n-workers", "1"]
    assert main(["meta-train", *given, "--run-dir", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "no meta step was better" in shown
    assert f"--init {tmp_path}/run/initialization" in shown and f"--init {tmp_path}/run/best" not in shown
    assert main(["zoo", "show", str(tmp_path / "run" / "initialization")]) == 0
    assert "learner" in capsys.readouterr().out


def test_rollouts_that_are_longer_than_a_visit_are_told(tmp_path: Path, capsys: Any) -> None:
    given = ["meta-train", "--envs", "CartPole-v1", "--agent.algorithm", "PPO", "--timesteps", "300", "--dry-run"]
    with pytest.warns(UserWarning, match="300 timesteps are 32,768 of each visit: a rollout has 32,768"):
        make_tasks((), ("CartPole-v1",), 300, AgentSettings(algorithm="PPO"), AtariSettings())
    small = ["--agent.n-envs", "2", "--agent.n-steps", "64", "--agent.batch-size", "64", "--meta-steps", "1"]
    assert main([*given, *small, "--n-workers", "1"]) == 0
    assert "(what will be run): 384 steps = " in capsys.readouterr().out


def test_raw_frames_of_atari_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    make_tasks((), ("ALE/Pong-v5",), 80, AgentSettings(n_envs=1), AtariSettings())
    assert "ALE/Pong-v5 shows raw frames: as a game (Pong) it has Atari's preprocessing" in caplog.text
