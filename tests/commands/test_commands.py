"""Every command of ``leap-rl`` at 256 steps, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import Adam

from leap_rl import Initialization, LeapA2C, Mnih2013CNN
from leap_rl.atari import POOLS
from leap_rl.cli import _script, main
from leap_rl.commands.compare import learned_from, start_of
from leap_rl.commands.dry_run import makespan, sensible_timeout
from leap_rl.commands.initializations import load_initialization
from leap_rl.commands.meta_train import MAY_CHANGE, make_trainer
from leap_rl.commands.run_folder import begin, check_same_settings, saved_agents
from leap_rl.commands.saved_runs import new_model
from leap_rl.commands.tasks import make_env, make_tasks
from leap_rl.commands.tune import blocks_of_start
from leap_rl.core import Workers
from leap_rl.running.files import write_text
from leap_rl.running.run_lock import run_lock
from leap_rl.settings import AgentSettings, AtariSettings, MetaTrainSettings, TuneSettings, write_settings
from leap_rl.transfer import policy_kwargs

ATARI = ["--timesteps", "256", "--agent.n-envs", "2", "--agent.network", "mnih2013"]
CARTPOLES = ["--envs", "CartPole-v1", "Acrobot-v1"]
META = ["--envs", "CartPole-v1", "--timesteps", "256", "--agent.n-envs", "2", "--n-workers", "1"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def meta_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished meta-training on two games."""
    folder = tmp_path_factory.mktemp("runs") / "meta"
    arguments = ["meta-train", "--games", "Pong", "breakout", *ATARI, "--meta-steps", "2", "--n-workers", "1"]
    assert main([*arguments, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def agent_run(tmp_path_factory: pytest.TempPathFactory, meta_run: Path) -> Path:
    """A finished training of an agent."""
    folder = tmp_path_factory.mktemp("runs") / "agent"
    init = ["--init", str(meta_run / "initialization")]
    assert main(["train", "Qbert", *ATARI, *init, "--save-freq", "100", "--run-dir", str(folder)]) == 0
    return folder


def test_meta_train_leaves_what_it_promises(meta_run: Path) -> None:
    found = Initialization.load(meta_run / "initialization")
    assert found.config["tasks"] == ["Pong", "Breakout"]
    assert policy_kwargs(found) == {
        "features_extractor_class": Mnih2013CNN,
        "features_extractor_kwargs": {"features_dim": 256},
        "net_arch": [],
    }
    settings = yaml.safe_load((meta_run / "settings.yaml").read_text())["meta-train"]
    assert settings["games"] == ["Pong", "breakout"] and settings["agent"]["n-envs"] == 2
    run = meta_run / "tensorboard" / "Leap_1"
    tags = scalars(run)
    for key in ("path/length", "path/energy", "meta/gradient_norm", "meta/cosine", "time/steps_per_second"):
        assert [step for step, _ in tags[key]] == [1, 2], key
    events = EventAccumulator(str(run))
    events.Reload()
    tensors = events.Tags()["tensors"]
    assert "settings/text_summary" in tensors and "custom_scalars__config__" in tensors
    assert "_hparams_/session_start_info" in events.summary_metadata
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"area/task/Pong" in layout and b"area/task/Breakout" in layout


def test_a_saved_agent_is_a_start_by_its_encoder(agent_run: Path) -> None:
    for name in ("random", "random/0", "/0"):
        with pytest.raises(ValueError, match="random is what random starts are called"):
            start_of(f"{name}={agent_run / 'agent.zip'}")
    name, found = start_of(str(agent_run / "agent.zip"))
    assert name == agent_run.name and found is not None and found.scope == "encoder"
    extractor = A2C.load(agent_run / "agent.zip").policy.features_extractor.state_dict()
    assert {f"encoder.{key}" for key in extractor} == set(found.parameters)
    for key, tensor in extractor.items():
        assert torch.equal(tensor, found.parameters[f"encoder.{key}"])


def test_a_pool_of_flavours_is_learned_together_and_each_is_evaluated(tmp_path: Path, capsys: Any) -> None:
    pool, folder = "flavours-AirRaid-test", tmp_path / "run"
    train = ["train", pool, "--timesteps", "80", "--run-dir", str(folder)]
    assert main([*train, "--agent.n-envs", "1"]) == 2
    assert "n_envs=1 environments can't hold 2 games" in capsys.readouterr().err
    assert main([*train, "--agent.n-envs", "4"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0
    assert re.findall(r"^(\S+): mean return", capsys.readouterr().out, re.MULTILINE) == list(POOLS[pool])


def test_different_games_are_not_learned_together(tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "held-out", "--timesteps", "80", "--run-dir", str(tmp_path / "run")]) == 2
    assert "held-out is a pool of different games: one game is learned" in capsys.readouterr().err


def test_one_that_was_ended_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    """With one TensorBoard run, not two."""
    run = tmp_path / "run"
    assert main(["meta-train", *META, "--meta-steps", "1", "--run-dir", str(run)]) == 0
    for left in ("checkpoints", "initialization"):
        shutil.rmtree(run / left)
    assert main(["meta-train", "--resume", str(run)]) == 0
    assert [folder.name for folder in (run / "tensorboard").iterdir()] == ["Leap_1"]
    assert [step for step, _ in scalars(run / "tensorboard" / "Leap_1")["meta/learning_rate"]] == [1]


@pytest.mark.slow
def test_the_settings_of_a_run_repeat_it(meta_run: Path, tmp_path: Path) -> None:
    again = ["meta-train", "--preset", str(meta_run / "settings.yaml"), "--run-dir", str(tmp_path / "again")]
    assert main(again) == 0
    weights = "initialization/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (meta_run / weights).read_bytes()


def test_resume_a_finished_run_with_more_meta_steps(meta_run: Path, tmp_path: Path, capsys: Any) -> None:
    longer, whole = tmp_path / "longer", tmp_path / "whole"
    assert main(["meta-train", *META, "--meta-steps", "1", "--run-dir", str(longer)]) == 0
    assert main(["meta-train", "--resume", str(longer)]) == 2
    assert "is finished" in capsys.readouterr().err
    # Interrupted, then told to end where it stands: what it found is written.
    found = (longer / "initialization/model.safetensors").read_bytes()
    shutil.rmtree(longer / "initialization")
    assert main(["meta-train", "--resume", str(longer), "--meta-steps", "1"]) == 0
    assert (longer / "initialization/model.safetensors").read_bytes() == found
    assert main(["meta-train", "--resume", str(longer), "--meta-steps", "1"]) == 2
    capsys.readouterr()
    assert main(["meta-train", "--resume", str(longer), "--meta-steps", "2"]) == 0
    assert main(["meta-train", *META, "--meta-steps", "2", "--run-dir", str(whole)]) == 0
    weights = "initialization/model.safetensors"
    assert (longer / weights).read_bytes() == (whole / weights).read_bytes()


def test_show(meta_run: Path, agent_run: Path, capsys: Any) -> None:
    assert main(["show", str(meta_run)]) == 0
    shown = capsys.readouterr().out
    assert "meta step 2 of 2, 1,040 steps" in shown and re.search(r"Pong +2 ", shown)
    assert main(["show", str(agent_run)]) == 0
    assert "Qbert, 260 of 256 steps (finished)" in capsys.readouterr().out


def test_train_starts_from_the_initialization_and_goes_on(agent_run: Path, meta_run: Path, capsys: Any) -> None:
    assert sorted(p.name for p in (agent_run / "agents").iterdir()) == ["000000000200.zip", "000000000260.zip"]
    longer = agent_run.parent / "longer"
    shutil.copytree(agent_run, longer)
    assert main(["train", "--resume", str(longer), "--timesteps", "512"]) == 0
    assert "from the agent saved after 260 steps, with new episodes" in capsys.readouterr().out
    tags = scalars(longer / "tensorboard")
    steps = [step for step, _ in tags["train/entropy_loss"]]
    assert steps == sorted(set(steps)) and steps[-1] > 260
    assert main(["train", "--resume", str(longer)]) == 2
    assert "is finished" in capsys.readouterr().err
    # Stopped between its last checkpoint and the agent: the one that is there is the shorter run's.
    shutil.copy2(agent_run / "agent.zip", longer / "agent.zip")
    assert main(["train", "--resume", str(longer)]) == 0
    assert LeapA2C.load(longer / "agent.zip").num_timesteps >= 512


def test_train_leaves_what_sb3_would_have_learned(tmp_path: Path) -> None:
    """And learns with Adam when it is asked to."""
    folder = tmp_path / "run"
    command = ["train", "--env", "CartPole-v1", "--timesteps", "320", "--agent.no-use-rms-prop", "--device", "cpu"]
    assert main([*command, "--seed", "3", "--run-dir", str(folder)]) == 0
    learned = A2C.load(folder / "agent", device="cpu").policy
    assert isinstance(learned.optimizer, Adam)
    env = make_vec_env("CartPole-v1", 16, seed=3)
    sb3 = A2C("MlpPolicy", env, use_rms_prop=False, seed=3, device="cpu").learn(320).policy
    for (name, p), q in zip(learned.named_parameters(), sb3.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert yaml.safe_load((folder / "settings.yaml").read_text())["train"]["agent"]["use-rms-prop"] is False


def test_an_interrupted_train_withdraws_what_it_logged_after_its_last_agent(agent_run: Path) -> None:
    again = agent_run.parent / "again"
    shutil.copytree(agent_run, again)
    (again / "agents" / "000000000260.zip").unlink()
    assert main(["train", "--resume", str(again)]) == 0
    steps = [step for step, _ in scalars(again / "tensorboard")["train/entropy_loss"]]
    assert steps == sorted(set(steps)) and steps[-1] > 200
    # Interrupted between its last agent and agent.zip, it has nothing left to learn.
    (again / "agent.zip").unlink()
    assert main(["train", "--resume", str(again)]) == 0
    assert (again / "agent.zip").is_file()


def test_evaluate_an_agent_with_a_video(agent_run: Path, tmp_path: Path, capsys: Any) -> None:
    video = tmp_path / "qbert.mp4"
    assert main(["evaluate", str(agent_run), "--episodes", "1", "--video", str(video)]) == 0
    assert re.search(r"Qbert: mean return [\d,.]+ ± [\d,.]+ over 1 episodes", capsys.readouterr().out)
    assert video.stat().st_size > 1000 and b"ftyp" in video.read_bytes()[:16]


def test_evaluate_an_initialization(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert main(["meta-train", *META, "--meta-steps", "1", "--run-dir", str(run)]) == 0
    arguments = ["--env", "CartPole-v1", "--timesteps", "256", "--agent.n-envs", "2", "--episodes", "2"]
    assert main(["evaluate", str(run / "initialization"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "Learning CartPole-v1 from the initialization: 256 steps" in out and "over 2 episodes" in out
    arguments = ["--game", "Qbert", "--timesteps", "80", "--agent.n-envs", "2", "--episodes", "1"]
    assert main(["evaluate", "atari-a2c-leap", *arguments]) == 0
    assert "Learning Qbert from the initialization: 80 steps" in capsys.readouterr().out


def test_compare_and_go_on_with_more_seeds_starts_and_games(meta_run: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "comparison"
    leap = ["--starts", f"Leap={meta_run / 'initialization'}"]
    arguments = ["--games", "Qbert", *leap, *ATARI, "--seeds", "0", "--n-workers", "1", "--note", "hello"]
    assert main(["compare", *arguments, "--run-dir", str(run)]) == 0
    # Of runs in which no episode ended that is said, and no table of nothing is shown.
    shown = capsys.readouterr().out
    assert "In 1 of 1 runs no episode ended within 256 steps" in shown and "Final score" not in shown
    assert "(seeds 0; hello)" in (run / "table.md").read_text()
    assert "| Qbert | Leap |" in (run / "table.md").read_text() and "|--" not in shown
    assert (run / "figure.png").read_bytes()[:4] == b"\x89PNG"
    kept = {p: p.stat().st_mtime_ns for p in (run / "results").iterdir()}
    assert main(["compare", "--resume", str(run), "--seeds", "0", "--games", "Qbert", "Pong"]) == 0
    capsys.readouterr()
    table = (run / "table.md").read_text()
    assert "| Pong | Leap |" in table and "which says nothing of new tasks: Leap from Pong." in table
    assert main(["compare", "--resume", str(run), "--seeds", "0", "1", "--games", "Qbert", *leap, "random"]) == 0
    results = json.loads((run / "results.json").read_text())["results"]["Qbert"]
    assert [r["seed"] for r in results["Leap"]] == [0, 1] == [r["seed"] for r in results["random"]]
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())  # not run again
    assert main(["show", str(run)]) == 0
    assert f"{run}: finished" in capsys.readouterr().out
    settings = (run / "settings.yaml").read_text()
    write_text(run / "settings.yaml", settings.replace("- Qbert", "- Qbert\n  - Pong"))  # one game more has begun
    (run / "results" / "Pong from a random policy seed 0").mkdir()  # learns nothing
    assert main(["show", str(run)]) == 0
    assert f"{run}: 5 runs are finished; Qbert, Pong from " in capsys.readouterr().out
    (run / "results" / "Pong from a random policy seed 0").rmdir()
    write_text(run / "settings.yaml", settings)
    # Such random starts are what a training can be watched against, once they ended an episode.
    watched = ["train", "Qbert", "--watch", str(run), "--timesteps", "64", *ATARI[2:]]
    assert main([*watched, "--run-dir", str(tmp_path / "other")]) == 2
    assert "0 curves from scratch: at least 3 seeds" in capsys.readouterr().err
    file = run / "results.json"
    longer = json.loads(file.read_text())
    seeds = longer["results"]["Qbert"]["random"]
    seeds.append({**seeds[0], "seed": 2})  # two tell no spread
    for seed in seeds:
        seed["curve"] = {"steps": [100, 200], "values": [1.0, 2.0]}
    seeds[2]["diverged"] = True  # what it did before says nothing of random starts
    file.write_text(json.dumps(longer))
    assert main([*watched, "--run-dir", str(tmp_path / "other")]) == 2
    assert "2 curves from scratch: at least 3 seeds" in capsys.readouterr().err
    seeds[2]["diverged"] = False
    file.write_text(json.dumps(longer))
    assert main([*watched, "--run-dir", str(tmp_path / "watched")]) == 0
    assert main([*watched[:-1], "nature", "--run-dir", str(tmp_path / "nature")]) == 2
    assert "compared other agent settings: {'algorithm': 'A2C', 'network': 'mnih2013'" in capsys.readouterr().err
    # What the comparison left as SB3 has it is a setting, too.
    assert main([*watched, "--agent.learning-rate", "0.5", "--run-dir", str(tmp_path / "faster")]) == 2
    assert "compared other agent settings" in capsys.readouterr().err
    # A run that was begun needs neither the comparison nor what it started from.
    file.rename(run / "elsewhere.json")
    assert main(["train", "--resume", str(tmp_path / "watched"), "--timesteps", "80"]) == 0
    (run / "elsewhere.json").rename(file)
    assert main(["train", "Pong", "--watch", str(run)]) == 2
    assert "has no random starts on Pong: it compared Qbert" in capsys.readouterr().err


def test_an_initialization_of_another_preprocessing_is_named(meta_run: Path, tmp_path: Path, caplog: Any) -> None:
    old = Initialization.load(meta_run / "initialization")
    old.config["preprocessing"] = "ale-vector-1"
    old.save(tmp_path / "old")
    arguments = ["--games", "Qbert", "--starts", str(tmp_path / "old"), *ATARI, "--seeds", "0", "--n-workers", "1"]
    assert main(["compare", *arguments, "--run-dir", str(tmp_path / "comparison")]) == 0
    assert "old was learned with ale-vector-1, and is compared with ale-vector-2" in caplog.text


def test_from_three_seeds_on_a_comparison_has_intervals(tmp_path: Path, capsys: Any) -> None:
    assert main(["meta-train", *META, "--meta-steps", "1", "--run-dir", str(tmp_path / "run")]) == 0
    arguments = ["--starts", str(tmp_path / "run" / "initialization"), "random", "--seeds", "0", "1", "2", *META]
    assert main(["compare", *arguments, "--run-dir", str(tmp_path / "compared")]) == 0
    table = (tmp_path / "compared" / "table.md").read_text()
    results = json.loads((tmp_path / "compared" / "results.json").read_text())
    assert torch.__version__.startswith(results["versions"]["torch"])
    floor = results["random_policy"]["CartPole-v1"]
    assert len(floor) == 3 and 5 < min(floor) and max(floor) < 40 and "| CartPole-v1 | a random policy | " in table
    assert re.search(r"\| CartPole-v1 \| run \| [\d.]+ \([\d.]+ to [\d.]+\)", table)
    shown = capsys.readouterr().out
    assert "Interquartile means over the seeds" in shown and "|--" not in shown
    # Every figure of the tables; a cell that is too wide is broken between two of them.
    assert set(re.findall(r"\d[\d.,]*\d", table)) <= set(re.findall(r"\d[\d.,]*\d", shown))
    assert (tmp_path / "compared" / "statistics.png").read_bytes()[:4] == b"\x89PNG"
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "compared" / "results").glob("* a random policy *")}
    assert len(kept) == 3
    other = ["--envs", "Acrobot-v1", "--starts", "random"]
    assert main(["compare", "--resume", str(tmp_path / "compared"), *other]) == 2
    assert "observation_shape with another value" in capsys.readouterr().err
    assert main(["compare", "--resume", str(tmp_path / "compared")]) == 0  # as it was
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())  # not played again


def test_a_job_in_the_background_ends_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell has its background jobs ignore Ctrl-C: SIGTERM must end them all the same, as Ctrl-C would."""

    def work() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    monkeypatch.setattr("leap_rl.cli.main", work)
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with pytest.raises(KeyboardInterrupt):
            _script()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def test_games(capsys: Any) -> None:
    assert main(["games"]) == 0
    out = capsys.readouterr().out
    assert "held-out (2): Breakout SpaceInvaders" in out and "Zaxxon" in out


@pytest.mark.slow
def test_dry_run_says_what_it_costs(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published numbers: 5 M environment steps are 31,250 updates of 160, 5 M updates are 800 M steps."""
    monkeypatch.setattr("leap_rl.commands.dry_run.MEASURED_STEPS", 1)
    assert main(["meta-train", "--preset", "paper", "--dry-run", "--n-workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "25 tasks: AirRaid" in out and "100 meta steps × 16 tasks = 1,600 visits" in out
    assert "5,000,000 steps = 31,250 updates a visit" in out and "8,000,000,000 steps = 50,000,000 updates" in out
    assert "5,000,000 updates = 800,000,000 steps a visit" in out
    found = re.search(r"a visit takes up to ([\d,]+) s: one that hangs is ended by --task-timeout (\d+)", out)
    assert found and 4 < int(found[2]) / int(found[1].replace(",", "")) < 6
    assert re.search(r"disk: at most [\d,]+ MB", out) and re.search(r" 1 such machines: [\d,.]+ hours", out)
    assert not Path("runs").exists() or "paper" not in " ".join(p.name for p in Path("runs").iterdir())


@pytest.mark.parametrize(
    ("seconds", "timeout"), [(0.3, 60), (12, 60), (13, 65), (100, 500), (123.4, 620), (199.9, 1000), (201, 1100)]
)
def test_a_time_limit_is_a_round_number_of_several_visits(seconds: float, timeout: int) -> None:
    assert sensible_timeout(seconds) == timeout


@pytest.mark.parametrize(
    ("seconds", "cores", "expected"),
    [([3, 1, 1, 1], 1, 6), ([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([1, 1, 1, 3], 8, 3), ([2.5], 4, 2.5)],
)
def test_a_meta_step_is_as_long_as_its_slowest_core(seconds: list[float], cores: int, expected: float) -> None:
    assert makespan(seconds, cores) == expected


def test_a_time_limit_reaches_the_engine_even_of_a_single_task(tmp_path: Path) -> None:
    """And may be another when a run goes on."""
    settings = MetaTrainSettings(envs=("CartPole-v1",), n_workers=1, task_timeout=90)
    tasks = make_tasks((), settings.envs, settings.timesteps, settings.agent, settings.atari)
    engine = make_trainer(settings, tasks, None).engine
    assert isinstance(engine, Workers) and (engine.n_workers, engine.task_timeout) == (1, 90)
    begin(tmp_path, "meta-train", settings, MAY_CHANGE)
    write_settings(tmp_path, "meta-train", settings)
    for other in (None, 5.0):
        check_same_settings(tmp_path, "meta-train", dataclasses.replace(settings, task_timeout=other), MAY_CHANGE)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("meta-train", "name what to learn: --games with Atari games, --envs with"),
        ("meta-train --games Pong --envs CartPole-v1", "--games or --envs, not both"),
        ("meta-train --games Pong --task-timeout 0", "Must be > 0"),
        ("meta-train --games Pongg", "Did you mean Pong"),
        ("meta-train --games Pong Pong", "listed twice"),
        ("meta-train --games Pong --timesteps 0", "Must be >= 1"),
        ("meta-train --games Pong --timesteps many", 'unable to convert "many" into int'),
        ("meta-train --games Pong --timestep 10", "Did you mean --timesteps?"),
        ("meta-train --games Pong --leap.metric length --leap.metrik x", "--leap.metric"),
        ("meta-train --games Pong --learner leab", "Choose from"),
        ("meta-train --games Pong --meta-batch-size 2", "there are 1 tasks"),
        ("meta-train --games Pong --agent.batch-size 64", "agent.batch-size is of other algorithms: A2C has none"),
        (
            "train Pong --agent.algorithm PPO --agent.no-use-rms-prop",
            "agent.use-rms-prop is of other algorithms: PPO has none",
        ),
        ("meta-train --games Pong --agent.network mlp", "nature or nature-ln or mnih2013"),
        ("meta-train --games Pong --agent.gamma 1.5", "Must be <= 1"),
        ("meta-train --games Pong --meta-optimizer sgd --learner finetuning", "finetuning keeps what it learned"),
        ("meta-train --games Pong --leap.metric length --meta-optimizer sgd", "give its --meta-learning-rate"),
        ("meta-train --games pretraining --eval-games Pong", "learned from and evaluated on: Pong"),
        ("meta-train --games Pong --init nowhere", "nowhere is no initialization"),
        ("meta-train --games Pong --scope middle", "matches no parameter"),
        ("meta-train --games Pong --leap.loss-scale -1", "not negative"),
        ("meta-train --envs CartPole-v7", "no Gymnasium id 'CartPole-v7'"),
        ("meta-train --envs CartPole-v1 --family cartpole", "--envs or --family, not both"),
        ("meta-train --family cartpol", "Choose from"),
        ("meta-train --family cartpole --agent.network nature", "here it must be mlp"),
        ("meta-train --envs CartPole-v1 --eval-family", "--eval-family takes the validation variants of a --family"),
        ("compare --family cartpole --games Pong", "--games or --family, not both"),
        ("train --env cartpole/test-10", "there are cartpole/test-0 to cartpole/test-9"),
        ("train --env cartpole/tests-1", "cartpole has no split 'tests': there are training, validation, test"),
        ("meta-train --preset flavors", "did you mean flavours?"),
        ("meta-train --resume nowhere", "nowhere is no run folder"),
        ("meta-train --resume nowhere --preset flavours", "leave --preset out"),
        ("meta-train --envs CartPole-v1 CartPole-v1", "envs are listed twice: CartPole-v1"),
        ("meta-train --envs CartPole-v1 --dry-run --meta-batch-size 100", "there are 1 tasks"),
        ("train Pong --preset atari-100k", "atari-100k has settings for meta-train"),
        ("train --env CartPole-v1 --agent.algorithm PPO --agent.batch-size 1", "Must be >= 2"),
        ("train Pong --agent.n-envs 1 --freeze-encoder-steps 3", "a rollout has 5 steps"),
        ("meta-train --games Pong --meta-steps 2 --average-from 3", "average-from 3 is after the last of 2 meta steps"),
        ("meta-train --envs CartPole-v1 --recycle-dormant", "encoder of images, not in the scope 'all'"),
        ("meta-train --games Pong --recycle-dormant --average-from 3", "can't be recycled in a θ⁰ that is averaged"),
        ("train", "name what to learn: a game, or --env"),
        ("train Pongg", "Did you mean Pong"),
        ("train Pong --init nowhere", "nowhere is no initialization"),
        ("train --env CartPole-v1 --agent.network nature", "here it must be mlp"),
        ("train --env CartPole-v1 --freeze-encoder-steps 10", "need an encoder"),
        ("train Pong --encoder-lr-factor 2", "Must be <= 1"),
        ("train Pong --watch nowhere", "nowhere is no finished comparison"),
        ("train Pong --init ../x", "../x is no initialization: there is no such folder"),
        ("zoo show nowhere", "no initialization 'nowhere' in the zoo"),
        ("zoo import nowhere.zip --name x", "nowhere.zip does not exist"),
        ("zoo import nowhere --name x --evidence nothing", "nowhere does not exist"),
        ("compare --games Pong --starts nowhere", "nowhere is no initialization"),
        ("compare --games Pong --seeds 1 1", "none twice"),
        ("compare --games Pong --starts random random", "same name"),
        ("compare --games Pong --starts random=nowhere", "random is what random starts are called"),
        ("compare --games Pong --starts", "starts is empty"),
        ("evaluate nowhere --game Pong", "neither a run folder"),
        ("show nowhere", "nowhere is no run folder"),
        ("play", "Unknown command"),
        ("meta-train Pong Breakout", "no option before Pong Breakout"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("leap-rl: ") and message in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_folder_that_exists(meta_run: Path, capsys: Any) -> None:
    for command in ("meta-train --games Pong", "train Pong", "compare --games Pong"):
        assert main([*command.split(), "--run-dir", str(meta_run)]) == 2
        assert "exists: --resume" in capsys.readouterr().err


def test_a_run_folder_of_another_command_or_other_settings(meta_run: Path, capsys: Any) -> None:
    assert main(["train", "--resume", str(meta_run)]) == 2
    assert f"is a run of meta-train: leap-rl meta-train --resume {meta_run} goes on" in capsys.readouterr().err
    assert main(["meta-train", "--resume", str(meta_run), "--seed", "3"]) == 2
    assert "began with seed=0, not 3: leave it out to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "edited", "message"),
    [
        ("seed: 0", "seed: 1", "began with seed=0, not 1: put it back in "),
        ("sampling: reshuffle", "sampling: with_replacement", "began with sampling=reshuffle, not with_replacement"),
        ("meta-schedule: constant", "meta-schedule: linear", "began with meta-schedule=constant, not linear"),
        ("  n-envs: ", "  n-envs: 1", "began with agent.n-envs="),
    ],
)
def test_edited_settings_are_refused(
    meta_run: Path, tmp_path: Path, line: str, edited: str, message: str, capsys: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(meta_run, run)
    settings = (run / "settings.yaml").read_text()
    assert line in settings
    write_text(run / "settings.yaml", settings.replace(line, edited))
    assert main(["meta-train", "--resume", str(run), "--meta-steps", "3"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    # Nor does it help to make run.json say the same: the checkpoints know it.
    (run / "settings.yaml").write_text(settings)
    file = run / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "run": "another"}))
    assert main(["meta-train", "--resume", str(run), "--meta-steps", "3"]) == 2
    assert "is of another run than" in capsys.readouterr().err


def test_a_checkpoint_of_another_version(meta_run: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(meta_run, run)
    state = run / "checkpoints" / "000002" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format_version": 99}))
    assert main(["meta-train", "--resume", str(run), "--meta-steps", "3"]) == 2
    assert "has format version 99" in capsys.readouterr().err


def test_an_initialization_for_another_network(meta_run: Path, tmp_path: Path, capsys: Any) -> None:
    init = str(meta_run / "initialization")
    assert main(["train", "Pong", "--init", init, "--run-dir", str(tmp_path / "run")]) == 2
    assert "the initialization is for another network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_failure_is_not_bad_input(tmp_path: Path, capsys: Any) -> None:
    """A learning rate that destroys every learning process."""
    arguments = ["meta-train", *META, "--meta-steps", "1", "--agent.learning-rate", "1e30", "--run-dir"]
    assert main([*arguments, str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "1 of 1 learning processes were lost (CartPole-v1: non_finite)" in err
    assert (tmp_path / "run" / "checkpoints" / "000000").is_dir()


# -- as a process ----------------------------------------------------------------------------------


def test_help_needs_no_torch() -> None:
    """Which is why it answers at once."""
    for command in ("", "meta-train", "train", "compare", "evaluate", "games", "show"):
        script = f"import sys; from leap_rl.cli import main; main({[*command.split(), '--help']}); " + (
            "sys.exit(len({'torch', 'numpy', 'gymnasium', 'stable_baselines3'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Usage: leap-rl" in done.stdout


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_torch_is_imported_to_threads_that_sleep(chosen: dict[str, str], spins: str) -> None:
    """And those of whoever has chosen otherwise stay as they are."""
    script = (
        "import os, sys; sys.argv = ['leap-rl', '--version']\n"
        "from leap_rl.cli import _script\n"
        "assert 'torch' not in sys.modules\n"
        "try: _script()\n"
        "finally: print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | chosen
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.split()[-1] == spins, done.stderr


def test_what_was_learned_from_is_known_of_agents_and_of_what_they_started_from(
    meta_run: Path, agent_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path))
    assert main(["zoo", "import", str(agent_run / "agent.zip"), "--name", "qbert"]) == 0
    assert load_initialization("qbert").learned_from == {"Breakout", "Pong", "Qbert"}
    encoder = load_initialization(agent_run)
    assert encoder.config["tasks"] == ["Breakout", "Pong", "Qbert"]
    assert load_initialization(agent_run / "agents" / next((agent_run / "agents").iterdir())).learned_from >= {"Qbert"}
    begun = Initialization.load(meta_run / "initialization")
    later = replace(begun, config={**begun.config, "tasks": ["Alien"], "started_from": {"tasks": ["Skiing"]}})
    assert later.learned_from == {"Alien", "Skiing"}
    said = learned_from({"Qbert", "Skiing"}, {"agent": encoder, "later": later, "random": None})
    assert "agent from Qbert; later from Skiing" in said


@pytest.mark.parametrize("algorithm", ["A2C", "DQN"])
def test_a_training_that_diverges_is_no_agent(algorithm: str, tmp_path: Path, capsys: Any) -> None:
    given = [
        "train",
        "--env",
        "CartPole-v1",
        "--agent.algorithm",
        algorithm,
        "--timesteps",
        "400",
        "--save-freq",
        "100",
    ]
    given += ["--agent.learning-starts", "150"] if algorithm == "DQN" else []
    assert main([*given, "--agent.learning-rate", "1e30", "--run-dir", str(tmp_path)]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "the training diverged within" in said and "try a smaller --agent.learning-rate" in said
    assert not (tmp_path / "agent.zip").exists()
    kept = saved_agents(tmp_path / "agents")
    assert (f"The last agent before that is {kept[-1]}" in said) if kept else algorithm == "A2C"


def test_a_run_that_goes_on_begins_with_other_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(0, 1, (1,))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            seen.append(self.np_random.random())
            return np.array([seen[-1]], np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(1, np.float32), 0.0, True, False, {}

    seen: list[float] = []
    gym.register("Drawn-v0", Drawn)
    try:
        given = ["train", "--env", "Drawn-v0", "--agent.n-envs", "1", "--timesteps", "10", "--run-dir", str(tmp_path)]
        assert main(given) == 0
        first, seen = list(seen), []
        assert main(["train", "--resume", str(tmp_path), "--timesteps", "20"]) == 0
        assert len(seen) >= 10 and not set(first) & set(seen)
    finally:
        del gym.registry["Drawn-v0"]


def test_a_replay_buffer_has_no_more_room_than_is_filled() -> None:
    """SB3's default of a million images would be 28 GB."""
    env = make_env("Pong", "", 1, AtariSettings(), 0)
    try:
        model = new_model(AgentSettings(algorithm="DQN"), env, "Pong", "", 300, 0, "cpu")
        assert model.replay_buffer.buffer_size < 400  # type: ignore[attr-defined]
    finally:
        env.close()


def test_a_pool_of_flavours_can_be_tuned() -> None:
    settings = TuneSettings(game="flavours-Berzerk-train", agent=AgentSettings(n_envs=7))
    start = load_initialization("flavours-Berzerk-leap")
    assert blocks_of_start(settings, start)[-1] == "head"


# -- folders that something is missing of ------------------------------------------------------------


def test_a_run_without_what_it_would_go_on_from_is_not_begun_again(
    meta_run: Path, agent_run: Path, tmp_path: Path, capsys: Any
) -> None:
    for run, gone, made in ((agent_run, "agents", "agent.zip"), (meta_run, "checkpoints", "initialization")):
        copy = tmp_path / run.name
        shutil.copytree(run, copy)
        shutil.rmtree(copy / gone)
        more = ["--timesteps", "400"] if made == "agent.zip" else ["--meta-steps", "3"]
        command = "train" if made == "agent.zip" else "meta-train"
        assert main([command, "--resume", str(copy), *more]) == 2
        assert f"to go on from, but an {made}: train in another" in capsys.readouterr().err
        assert (copy / made).exists()


def test_a_damaged_initialization_of_a_finished_run_is_written_again(meta_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "meta"
    shutil.copytree(meta_run, copy)
    (copy / "initialization" / "config.json").write_text("{}")
    assert main(["meta-train", "--resume", str(copy)]) == 0
    again = Initialization.load(copy / "initialization")
    assert again.sha256 == Initialization.load(meta_run / "initialization").sha256
    assert (copy / "initialization.damaged").is_dir()


def test_what_is_edited_or_gone_is_one_line(agent_run: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "agent"
    shutil.copytree(agent_run, copy)
    shutil.rmtree(copy / "tensorboard")
    assert main(["show", str(copy)]) == 0
    for text, said in (
        ("{}", "is of no command"),
        ("train: {}", "can't be shown: its settings.yaml or what it found is not as leap_rl writes it"),
    ):
        write_text(copy / "settings.yaml", text)
        assert main(["show", str(copy)]) == 2
        assert said in capsys.readouterr().err
    for agent in ("{speed: 3}", "3", "{algorithm: XX}"):
        write_text(copy / "settings.yaml", f"train: {{game: Qbert, agent: {agent}}}")
        assert main(["evaluate", str(copy)]) == 2
        assert "is not as leap-rl train writes it" in capsys.readouterr().err


def test_a_run_that_never_began_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its settings could not be written: it can't be gone on with."""
    arguments = ["meta-train", *META, "--meta-steps", "1", "--run-dir", str(tmp_path / "run")]

    def full(*_: object) -> None:
        raise OSError(28, "no room")

    with monkeypatch.context() as disk:
        disk.setattr("leap_rl.commands.meta_train.write_settings", full)
        assert main(arguments) == 1
    assert (tmp_path / "run" / "run.json").is_file()
    assert main(arguments) == 0


def test_nothing_of_a_folder_of_others_is_removed(tmp_path: Path, capsys: Any) -> None:
    for name in ("thesis.txt", ".draft-unfinished.md"):
        (tmp_path / name).write_text("years")
    (tmp_path / ".theta-unfinished-abc").mkdir()
    before = {file.name for file in tmp_path.iterdir()}
    assert main(["meta-train", *META, "--meta-steps", "1", "--run-dir", str(tmp_path)]) == 2
    assert "exists: --resume" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} >= before


def test_a_refused_process_leaves_the_folder_of_another(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    with run_lock(folder, "another"):
        assert main(["meta-train", *META, "--meta-steps", "1", "--run-dir", str(folder)]) == 2
        assert "is in use by another" in capsys.readouterr().err
        assert folder.is_dir()
        with pytest.raises(ValueError, match="is in use"), run_lock(folder, "a third"):
            pass


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--env", "CartPole-v1", "--lr", "3"], "It is --agent.learning-rate."),
        (["train", "--env", "CartPole-v1", "--n-envs", "3"], "It is --agent.n-envs."),
        (["train", "--env", "CartPole-v1", "--atari.frame-stack", "2"], "atari in the preset, say how a game looks"),
    ],
)
def test_options_that_others_have_are_pointed_at(arguments: list[str], said: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
