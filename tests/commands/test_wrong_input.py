"""What is given wrongly is answered in one line with what to give instead, and at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from leap_rl.cli import main
from leap_rl.settings import MetaTrainSettings, read_preset, write_settings

WRONG = [
    ("meta-train", "name what to learn: --games with Atari games, --envs with Gymnasium ids, --family with a family"),
    ("compare", "name what to learn: --games with Atari games"),
    ("train", "name what to learn: a game, or --env with a Gymnasium id"),
    ("train Pong --env CartPole-v1", "one of the two, not both"),
    ("train Pong --n-envs 8", "It is --agent.n-envs."),
    ("meta-train --games Pong --lr 0.1", "It is --meta-learning-rate or --agent.learning-rate."),
    ("train Pong --steps 5", "It is --timesteps."),
    ("train Pong --tmesteps 5", "Did you mean --timesteps?"),
    ("train CartPole-v1", "CartPole-v1 is no Atari game, but a Gymnasium id: --env CartPole-v1"),
    ("meta-train --games CartPole-v1", "--envs CartPole-v1"),
    ("meta-train --games Pong,Breakout", "give them with spaces between them: Pong Breakout"),
    ("compare --games Pong --starts a,b", "give them with spaces between them: a b"),
    ("compare --games Pong --seeds 0,1", "Give them with spaces between them: 0 1"),
    ("meta-train --games vaildation", "Or the pool validation?"),
    ("train Pong --device gpu", "torch calls it cuda"),
    ("train Pong --device gpu:1", "torch calls it cuda:1"),
    ("train Pong --device nowhere", "--device nowhere can't be used"),
    ("train Pong --timesteps 1.5", "1.5 is no whole number"),
    ("train Pong --timesteps 1e5.5", 'unable to convert "1e5.5" into int'),
    ("train --env raises:Raises-v0", "its constructor raised RuntimeError: no licence"),
    ("train --env nowhere:X-v0", "No module named 'nowhere'"),
    ("meta-train --games Pong --address auto", "--address is of --engine ray, not of local"),
    ("compare --games Pong --gpus-per-task 0.5", "--gpus-per-task is of --engine ray, not of local"),
    ("meta-train --games Pong --engine ray --n-workers 2", "--n-workers is of --engine local, not of ray"),
    ("train Pong --head map", "--head says what is taken of an initialization: give one with --init"),
    (
        "train --env CartPole-v1 --agent.algorithm DQN --agent.learning-starts 500 --timesteps 400",
        "timesteps=400 ends before the first update: learning_starts of DQN is 500",
    ),
    ("train --env CartPole-v1 --agent.algorithm PPO --agent.n-steps 1 --agent.n-envs 1", "PPO can't learn CartPole-v1"),
    ("tune Pong --init atari-a2c-leap --seeds 0 0", "--seeds [0, 0]: at least one is needed, and none twice"),
    (
        "meta-train --games Pong --init atari-a2c-leap --eval-games Freeway",
        "was learned from Freeway: evaluate on others",
    ),
    ("train --env CartPole-v1 --init atari-a2c-leap", "atari-a2c-leap is an initialization for images"),
    ("show", "which run? Name its folder"),
    ("show atari-a2c-leap", "is an initialization: leap-rl zoo show atari-a2c-leap shows it"),
    ("tran Pong", 'Did you mean "train"?'),
    ("zoo shwo x", 'Did you mean "show"?'),
]


@pytest.mark.parametrize(("arguments", "answer"), WRONG)
def test_one_line_with_the_remedy(
    arguments: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "raises.py").write_text(
        "import gymnasium\n\n\nclass Raises(gymnasium.Env):\n    def __init__(self):\n"
        "        raise RuntimeError('no licence\\nfor it')\n\n\ngymnasium.register('Raises-v0', entry_point=Raises)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path, ""])
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert answer in err and len(err.splitlines()) == 1 and err.startswith("leap-rl: ")
    assert not (tmp_path / "runs").exists()


def test_a_run_of_another_command_and_one_without_an_initialization(tmp_path: Path, capsys: Any) -> None:
    write_settings(tmp_path, "meta-train", MetaTrainSettings(games=("Pong",)))
    assert main(["compare", "--resume", str(tmp_path)]) == 2
    assert f"is a run of meta-train: leap-rl meta-train --resume {tmp_path} goes on" in capsys.readouterr().err
    assert main(["train", "Pong", "--init", str(tmp_path)]) == 2
    assert "is a run that has made no initialization yet: --resume finishes it" in capsys.readouterr().err


def test_whole_numbers_may_be_written_shortly(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    run = ["--env", "CartPole-v1", "--agent.n-envs", "1", "--timesteps"]
    assert main(["train", *run, "1e1", "--run-dir", str(tmp_path / "run")]) == 0
    assert yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["train"]["timesteps"] == 10
    file.write_text("train: {timesteps: 1.0e+1}\n")
    assert read_preset(str(file), {"train"})["train"]["timesteps"] == 10


LAUGHS = "meta-train:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
PRESETS = [
    ("meta-train: {1: 2}", "the key 1 is no text"),
    ("meta-train:\n  seed: 1\n  seed: 2", "the key seed is there twice"),
    ("meta-train: {games: [Pong], timesteps: 1.5}", "x.yaml: Invalid value for [timesteps]: 1.5 is no whole number"),
    ("meta-train: {games: [Pong], meta-learning-rate: .inf}", "x.yaml: meta-train.meta-learning-rate is inf"),
    ("meta-train: {games: !!binary aGVsbG8=}", "x.yaml: meta-train.games is bytes"),
    ("meta-train: {games: 2020-01-01}", "x.yaml: meta-train.games is date"),
    ("meta-train: {resume: x}", "x.yaml: meta-train has resume, which is given on the command line alone"),
    ("meta-train: &a\n  games: *a", "nested too deeply, or says too much"),
    (LAUGHS, "nested too deeply, or says too much"),
    ("meta-train: " + "[" * 500 + "]" * 500, "it is nested too deeply"),
    ("\x00", "is no YAML"),
    ("a: 1\n---\nb: 2", "is no YAML"),
    ("a:\n\t- b", "is no YAML"),
    ("- 1", "is no preset: it must hold settings by command"),
    ("", "is no preset: it must hold settings by command"),
    ("meta-trian: {}", "did you mean meta-train?"),
    ("meta-train: {games: [Pong], timestep: 1}", "from x.yaml. Did you mean --timesteps?"),
    ("meta-train: {games: [Pong], agent: {n-envs: -1}}", "[agent][n-envs] provided by x.yaml. Must be >= 1."),
    ("x" * 2_000_000, "no preset is so long"),
]


@pytest.mark.parametrize(("text", "answer"), PRESETS, ids=range(len(PRESETS)))
def test_a_preset_that_is_none_is_named(
    text: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text)
    assert main(["meta-train", "--preset", "x.yaml"]) == 2
    err = capsys.readouterr().err
    assert answer in err and "x.yaml" in err and len(err.splitlines()) == 1


WITHOUT_TORCH = """
import sys
from leap_rl.cli import main

for command in (["games"], ["games", "--flavours"], ["zoo", "list"], ["zoo", "show", "atari-a2c-leap"]):
    assert main(command) == 0
for command in (["show", "nowhere"], ["train", "Pungg"], ["meta-train"], ["compare", "--games", "Pong", "--nope", "1"],
                ["train", "Pong", "--device", "gpu"], ["meta-train", "--preset", "nope"], ["train", "--resume", "no"],
                ["zoo", "show", "no"]):
    assert main(command) == 2, command
print(sorted({"torch", "stable_baselines3", "matplotlib", "tensorboard"} & set(sys.modules)))
"""


def test_what_needs_no_torch_does_not_wait_for_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
