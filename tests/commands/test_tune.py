"""``leap-rl tune``: a search that goes on, and a preset that train takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
import yaml
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env

from leap_rl import Initialization
from leap_rl.cli import main
from leap_rl.commands.tune import area, plain, suggested
from leap_rl.core import read_strategies
from leap_rl.settings import AgentSettings, TuneSettings

TINY = [
    "--env",
    "Tiles-v0",
    "--timesteps",
    "80",
    "--agent.n-envs",
    "2",
    "--seeds",
    "0",
    "1",
    "--report-seeds",
    "5",
    "6",
]


class Tiles(gym.Env[Any, Any]):
    """Ten steps of noise, and a reward for one of three actions."""

    observation_space = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 10
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return self.seen(), float(action == 1), self.left == 0, False, {}

    def seen(self) -> Any:
        return self.np_random.integers(0, 256, (36, 36, 3), dtype=np.uint8)


gym.register("Tiles-v0", Tiles)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starts") / "init"
    model = A2C("CnnPolicy", "Tiles-v0", seed=9, device="cpu")
    Initialization.of(model, "encoder", {"network": "NatureCNN"}).save(folder)
    return folder


def test_a_search_goes_on_and_its_best_is_a_preset(init: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "tuned"
    assert main(["tune", "--init", str(init), *TINY, "--trials", "1", "--run-dir", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "trial 1 of 1: area" in printed and ": full, rate 0.0007 (" in printed  # plain fine-tuning comes first
    first = yaml.safe_load((run / "best.yaml").read_text())["train"]
    assert first["finetune"] == "full" and first["env"] == "Tiles-v0" and first["init"] == str(init)
    report = json.loads((run / "report.json").read_text())
    assert set(report["areas"]) == {"best", "plain", "random"}
    assert all(set(of) == {"5", "6"} for of in report["areas"].values())
    # One trial is plain fine-tuning, so its report is plain fine-tuning's.
    assert report["areas"]["best"] == report["areas"]["plain"] != report["areas"]["random"]
    assert main(["tune", "--resume", str(run), "--trials", "4"]) == 0
    printed = capsys.readouterr().out
    assert "trial 1 " not in printed and "trial 4 of 4: " in printed
    assert main(["show", str(run)]) == 0
    assert "4 of 4 trials, best area" in capsys.readouterr().out
    best = yaml.safe_load((run / "best.yaml").read_text())["train"]
    read_strategies(best["finetune"])
    assert main(["train", "--preset", str(run / "best.yaml"), "--run-dir", str(tmp_path / "trained")]) == 0
    assert f"finetune: {best['finetune']}" in (tmp_path / "trained" / "settings.yaml").read_text()
    assert main(["tune", "--resume", str(run), "--seed", "7"]) == 2
    assert "began with seed=0, not 7" in capsys.readouterr().err


def test_a_search_goes_on_after_a_kill_and_a_full_disk(
    init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Optuna's lock stays, a dangling link where the folder is relative; half a line is what there was room for."""
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--init", str(init), *TINY, "--trials", "1", "--run-dir", "run"]) == 0
    journal = Path("run") / "trials.journal"
    Path("run/trials.journal.lock").symlink_to(journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert main(["tune", "--resume", "run", "--trials", "2"]) == 0
    assert "trial 2 of 2" in capsys.readouterr().out
    journal.write_bytes(b"no journal\n" + journal.read_bytes())
    assert main(["tune", "--resume", "run", "--trials", "3"]) == 2
    assert "trials.journal is damaged in line 1: remove it from there on" in capsys.readouterr().err


def test_a_search_outlives_what_diverges(init: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "tuned"
    tune = ["tune", "--init", str(init), *TINY, "--agent.learning-rate", "1e9", "--trials", "2"]
    assert main([*tune, "--run-dir", str(run)]) == 1
    said = capsys.readouterr()
    assert (
        "trial 2 of 2: ended early" in said.out and "no trial has an area" in said.err and "Traceback" not in said.err
    )
    # Where plain fine-tuning diverges and another rate does not, the report says what has no area.
    start = Initialization.load(init)
    settings = TuneSettings(env="Tiles-v0", timesteps=80, agent=AgentSettings(n_envs=2, learning_rate=1e9))
    assert np.isnan(area(settings, start, plain(settings.agent), 0))


def test_every_algorithm_has_a_rate_to_begin_with() -> None:
    trial = optuna.trial.FixedTrial({"finetune": "full", "rate": 2.0, "take encoder": True})
    for name, rate in (("DQN", 2e-4), ("SAC", 6e-4), ("RecurrentPPO", 6e-4)):
        tried = suggested(trial, AgentSettings(algorithm=name), ["encoder"])  # type: ignore[arg-type]
        assert tried["learning_rate"] == pytest.approx(rate)


def test_the_area_is_that_of_the_same_training_of_sb3(init: Path) -> None:
    """Recomputed from the episodes of plain A2C on the same seed: the mean return so far, step by step."""
    settings = TuneSettings(env="Tiles-v0", timesteps=80, agent=AgentSettings(n_envs=2))
    start = Initialization.load(init)
    found = area(settings, start, {"finetune": "full", "transfer_layers": (), "learning_rate": 1e-3}, seed=3)
    env = make_vec_env("Tiles-v0", 2, seed=3)
    model = A2C("CnnPolicy", env, seed=3, learning_rate=1e-3)
    start.apply_to(model)
    returns: list[tuple[int, float]] = []

    def look(of: Any, _: Any) -> bool:
        returns.extend((model.num_timesteps, i["episode"]["r"]) for i in of["infos"] if "episode" in i)
        return True

    model.learn(80, callback=look)
    env.close()
    assert returns
    so_far = [[r for at, r in returns if at <= step] or [returns[0][1]] for step in range(1, 81)]
    assert found == pytest.approx(np.mean([np.mean(of) for of in so_far]), rel=0.02)


def test_what_is_suggested_is_what_train_takes() -> None:
    blocks = ["encoder.cnn.0", "encoder.linear.0"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen, pruned = [], 0
    for _ in range(60):
        try:
            seen.append(suggested(study.ask(), AgentSettings(algorithm="PPO"), blocks))
        except optuna.TrialPruned:
            pruned += 1
    assert pruned and {s["transfer_layers"] for s in seen} == {(), *((block,) for block in blocks)}
    assert len({s["finetune"].partition(":")[0] for s in seen}) == 8
    for tried in seen:
        read_strategies(tried["finetune"])
        assert 0.25 * 3e-4 <= tried["learning_rate"] <= 4 * 3e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--env Tiles-v0", "--init names the initialization"),
        ("--env Tiles-v0 --init nowhere", "nowhere is no initialization"),
        ("--env Tiles-v0 --init INIT --report-seeds 0 9", "--seeds and --report-seeds share 0: report on others"),
        ("--env Tiles-v0 --init INIT --agent.network mnih2013", "is for another network"),
        ("--env CartPole-v1 --init INIT", "is for another network"),
        ("", "name what to learn"),
    ],
)
def test_bad_input_is_said_before_any_step(
    arguments: str, message: str, init: Path, tmp_path: Path, capsys: Any
) -> None:
    given = arguments.replace("INIT", str(init)).split()
    assert main(["tune", *given, "--run-dir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
