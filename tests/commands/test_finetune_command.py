"""``leap-rl train --finetune``: strategies by their names."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import A2C

from leap_rl import AtariTasks, Initialization, LeapA2C, make_atari_env
from leap_rl.agents import EnvTask
from leap_rl.cli import main
from leap_rl.commands.train import START, _remember_start
from leap_rl.core import InProcess, Job, NoPretraining, TowardsStart, named_tensors
from leap_rl.evaluation import compare

TRAIN = ["train", "Pong", "--agent.n-envs", "1", "--agent.n-steps", "8", "--timesteps", "32"]


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of SB3's network, drawn with another seed than that of the runs."""
    folder = tmp_path_factory.mktemp("starts") / "init"
    env = make_atari_env("Pong", 1, seed=0)
    Initialization.of(A2C("CnnPolicy", env, seed=9, device="cpu"), "encoder", {"network": "NatureCNN"}).save(folder)
    env.close()
    return folder


def learned(run: Path) -> dict[str, torch.Tensor]:
    policy = A2C.load(run / "agent.zip", device="cpu").policy
    return {name: copies[0].detach() for name, copies in named_tensors(policy).parameters.items()}


def kept(run: Path, init: Path) -> set[str]:
    """Blocks of the encoder that are, after the run, what they are in the initialization."""
    start, now = Initialization.load(init).parameters, learned(run)
    weights = [name for name in start if name.endswith(".weight")]  # every bias is drawn as 0
    return {name.removesuffix(".weight") for name in weights if torch.equal(start[name], now[name])}


ENCODER = {"encoder.cnn.0", "encoder.cnn.2", "encoder.cnn.4", "encoder.linear.0"}


def test_a_linear_probe_keeps_what_it_was_given(init: Path, tmp_path: Path) -> None:
    run = tmp_path / "probe"
    assert main([*TRAIN, "--init", str(init), "--finetune", "linear-probe", "--run-dir", str(run)]) == 0
    assert kept(run, init) == ENCODER
    assert "finetune: linear-probe" in (run / "settings.yaml").read_text()


def test_some_layers_alone_are_taken_and_a_strategy_has_settings(init: Path, tmp_path: Path) -> None:
    run = tmp_path / "layers"
    given = [
        "--init",
        str(init),
        "--transfer-layers",
        "encoder.cnn",
        "--finetune",
        "surgical:blocks=encoder.cnn.0,head",
    ]
    assert main([*TRAIN, *given, "--run-dir", str(run)]) == 0
    assert kept(run, init) == {"encoder.cnn.2", "encoder.cnn.4"}


def test_a_penalty_on_the_way_from_the_start_knows_it_when_the_run_goes_on(init: Path, tmp_path: Path) -> None:
    given, run = tmp_path / "given", tmp_path / "l2"
    shutil.copytree(init, given)
    assert main([*TRAIN, "--init", str(given), "--finetune", "l2+slow", "--run-dir", str(run)]) == 0
    shutil.rmtree(given)
    env = make_atari_env("Pong", 1, seed=0)
    model, strategy = A2C("CnnPolicy", env, seed=3, device="cpu"), TowardsStart()
    _remember_start([strategy], model, run / START)
    start = Initialization.load(init).parameters
    assert len(strategy._start) == len(start)
    assert all(any(torch.equal(mine, t) for t in start.values()) for mine in strategy._start.values())
    env.close()
    assert main(["train", "--resume", str(run), "--timesteps", "64"]) == 0
    assert not kept(run, init)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--finetune gradul", "did you mean gradual"),
        ("--finetune surgical:blocks=encoder.con", "no block 'encoder.con': there are encoder.cnn.0, "),
        ("--finetune surgical+slow:factor=0,blocks=head", "all blocks are frozen"),
        ("--finetune surgical:blocks=encoder --freeze-encoder-steps 32", "all blocks are frozen"),
        ("--finetune lp-ft:probe=0.01", "until the first update: freeze for a larger share"),
        ("--finetune lp-ft:patience=3", "waits for validation errors, which SB3 has not"),
        ("--transfer-layers encoder.cnn", "give one with --init"),
        ("--init INIT --transfer-layers encoder.conv", "did you mean encoder.cnn"),
    ],
)
def test_bad_input_is_one_line_before_any_step(
    arguments: str, message: str, init: Path, tmp_path: Path, capsys: Any
) -> None:
    given = arguments.replace("INIT", str(init)).split()
    assert main([*TRAIN, *given, "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_network_for_vectors_has_strategies_and_no_encoder(tmp_path: Path, capsys: Any) -> None:
    train = ["train", "--env", "CartPole-v1", "--agent.n-steps", "4", "--timesteps", "128", "--agent.n-envs", "2"]
    start = Initialization.of(A2C("MlpPolicy", "CartPole-v1", seed=9, device="cpu"), "all")
    start.save(tmp_path / "start")
    probed = ["--init", str(tmp_path / "start"), "--finetune", "surgical:blocks=hidden.1,head"]
    assert main([*train, *probed, "--run-dir", str(tmp_path / "probed")]) == 0
    same = {name for name, t in learned(tmp_path / "probed").items() if torch.equal(t, start.parameters[name])}
    assert {name.rpartition(".")[0] for name in same} == {"mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"}
    tune = ["tune", *train[1:], "--init", str(tmp_path / "start"), "--trials", "2", "--seeds", "0"]
    assert main([*tune, "--report-seeds", "1", "--run-dir", str(tmp_path / "tuned")]) == 0
    assert "trial 2 of 2: " in capsys.readouterr().out
    capsys.readouterr()
    assert main([*train, "--encoder-lr-factor", "0.1", "--run-dir", str(tmp_path / "run")]) == 2
    assert "need an encoder, and this network has none" in capsys.readouterr().err


COMPARE = ["compare", "--games", "Pong", "--agent.n-envs", "1", "--agent.n-steps", "8", "--timesteps", "32"]


def test_starts_are_compared_by_each_strategy_and_kept_runs_are_those_of_one(init: Path, tmp_path: Path) -> None:
    run = tmp_path / "compared"
    given = ["--starts", f"start/0={init}", "random", "--seeds", "0", "--n-workers", "1"]
    assert main([*COMPARE, *given, "--finetune", "full", "lp-ft:probe=1", "--run-dir", str(run)]) == 0
    names = ["start full/0", "start lp-ft:probe=1/0", "random"]
    table = (run / "table.md").read_text()
    assert all(f"| Pong | {name} |" in table for name in names)
    results = json.loads((run / "results.json").read_text())["results"]["Pong"]
    assert list(results) == names
    before = {p: p.stat().st_mtime_ns for p in (run / "results").iterdir()}
    assert len(before) == 3
    # Another strategy joins, and has runs of its own; so do plain ones.
    assert main(["compare", "--resume", str(run), "--finetune", "full", "slow"]) == 0
    after = {p: p.stat().st_mtime_ns for p in (run / "results").iterdir()}
    assert before.items() <= after.items() and len(after) == 4
    # A name that stands for a strategy stands for no other.
    tasks = AtariTasks(LeapA2C, "CnnPolicy", ["Pong"], 32, n_envs=1)
    start = {"start full/0": Initialization.load(init)}
    for finetune, now in ({}, ""), ({"start full/0": "slow"}, "slow"):
        with pytest.raises(ValueError, match=rf"start full/0 with another fine-tuning strategy \(full, now {now}\)"):
            compare(tasks, start, [0], InProcess(), run_dir=run, finetune=finetune)


def test_a_strategy_holds_what_is_compared(init: Path) -> None:
    """Also in another process, and its neutral setting is the plain task to the bit."""
    start = Initialization.load(init)
    tasks = AtariTasks(LeapA2C, "CnnPolicy", ["Pong"], 32, n_envs=1, algorithm_kwargs={"n_steps": 8})

    def final(task: EnvTask) -> Initialization:
        task = pickle.loads(pickle.dumps(task))
        result = Job(task, start, NoPretraining(), 0, "cpu", return_final=True).run(lambda *_: None)
        assert result.final is not None
        return result.final

    def moved(strategy: str) -> set[str]:
        ends = final(tasks.finetuned(strategy)[0]).parameters
        return {name for name, t in start.parameters.items() if not torch.equal(t, ends[name])}

    assert moved("linear-probe") == set()
    assert {name.rpartition(".")[0] for name in moved("surgical:blocks=encoder.cnn.2,head")} == {"encoder.cnn.2"}
    assert final(tasks[0]).sha256 == final(tasks.finetuned("slow:factor=1")[0]).sha256
    assert "linear-probe" in repr(tasks.finetuned("linear-probe")) and tasks[0].finetune == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--starts random --finetune lp-ft", "--starts has none, random ones learn plainly"),
        ("--starts INIT --finetune gradul", "did you mean gradual"),
        ("--starts INIT --finetune lp-ft lp-ft", "--finetune are listed twice: lp-ft"),
        ("--starts INIT --finetune surgical:blocks=encoder.con", "no block 'encoder.con'"),
        ("--starts INIT --finetune lp-ft:patience=3", "waits for validation errors, which SB3 has not"),
    ],
)
def test_bad_input_of_a_comparison_is_one_line_too(
    arguments: str, message: str, init: Path, tmp_path: Path, capsys: Any
) -> None:
    given = arguments.replace("INIT", str(init)).split()
    assert main([*COMPARE, *given, "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not (tmp_path / "run").exists()
