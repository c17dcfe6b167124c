"""``leap-rl train --resume`` and ``leap-rl evaluate`` of agents that are damaged, foreign, or planted."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from leap_rl.cli import main

CARTPOLE = ["--env", "CartPole-v1", "--timesteps", "320", "--device", "cpu", "--agent.n-envs", "2"]


class OwnPolicy(ActorCriticPolicy):
    """An author's."""


class Bomb:
    """Unpickling it makes a folder, once."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", *CARTPOLE, "--save-freq", "200", "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def plant(file: Path, trace: Path) -> None:
    """A bomb in every field that SB3 unpickles."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    serialized = {":serialized:": base64.b64encode(pickle.dumps(Bomb(trace))).decode()}
    fields = json.loads(members["data"])
    fields = {name: {**value, **serialized} if isinstance(value, dict) else value for name, value in fields.items()}
    members |= {"data": json.dumps(fields).encode(), "pytorch_variables.pth": pickle.dumps(Bomb(trace))}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_nothing_that_was_planted_is_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    trace = tmp_path / "trace"
    for file in (*(run / "agents").iterdir(), run / "agent.zip"):
        plant(file, trace)
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert main(["evaluate", str(run / "agent.zip"), "--env", "CartPole-v1", "--episodes", "1"]) == 0
    assert main(["zoo", "import", str(run / "agent.zip"), "--name", "planted"]) == 2  # no encoder
    assert main(["train", "--resume", str(run), "--timesteps", "400"]) == 0
    assert not trace.exists()
    plant(run / "agent.zip", trace)
    assert main(["evaluate", str(run / "agent.zip"), "--env", "CartPole-v1", "--trust"]) == 2
    assert trace.is_dir()
    assert "can't be loaded as A2C" in capsys.readouterr().err


def test_a_damaged_agent_falls_back_to_the_one_before(run: Path, caplog: Any, capsys: Any) -> None:
    newest, before = run / "agents" / "000000000320.zip", run / "agents" / "000000000200.zip"
    newest.write_bytes(newest.read_bytes()[:30_000])
    assert main(["train", "--resume", str(run)]) == 0
    assert "from the agent saved after 200 steps" in capsys.readouterr().out
    (said,) = caplog.messages
    assert said.startswith(f"{newest} is no agent that SB3 saved, or is damaged") and len(said.splitlines()) == 1
    assert said.endswith("it is 000000000320.damaged now, and 000000000200.zip is gone on from")
    assert sorted(p.name for p in newest.parent.glob("*.zip")) == ["000000000200.zip", "000000000320.zip"]
    # None is left.
    for file in (newest, before):
        file.write_bytes(b"no")
    shown = yaml.safe_load((run / "settings.yaml").read_text())
    assert main(["train", "--resume", str(run), "--timesteps", "400"]) == 2
    err = capsys.readouterr().err
    assert err.count("is damaged") == 2 and f"begins again where {newest.parent} is removed" in err
    assert len(err.splitlines()) == 1 and yaml.safe_load((run / "settings.yaml").read_text()) == shown
    shutil.rmtree(newest.parent)
    assert main(["train", "--resume", str(run), "--timesteps", "400"]) == 2
    assert "it begins again where that is removed, too" in capsys.readouterr().err
    (run / "agent.zip").unlink()
    assert main(["train", "--resume", str(run), "--timesteps", "400"]) == 0


def test_settings_that_are_not_the_agents(run: Path, capsys: Any) -> None:
    settings = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(settings.replace("algorithm: A2C", "algorithm: PPO"))
    assert main(["train", "--resume", str(run), "--timesteps", "400"]) == 2
    assert "began with agent.algorithm=A2C, not PPO: put it back in" in capsys.readouterr().err


def test_an_agent_of_its_authors_policy_plays_with_trust_alone(tmp_path: Path, capsys: Any) -> None:
    A2C(OwnPolicy, "CartPole-v1", device="cpu").save(tmp_path / "agent.zip")
    command = ["evaluate", str(tmp_path / "agent.zip"), "--env", "CartPole-v1", "--episodes", "1"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "its policy is none of SB3's for A2C and PPO: --trust reads it" in err and len(err.splitlines()) == 1
    assert main([*command, "--trust"]) == 0
    assert "over 1 episodes" in capsys.readouterr().out
    (tmp_path / "preset.yaml").write_text("evaluate: {trust: true}")
    assert main([*command, "--preset", str(tmp_path / "preset.yaml")]) == 2
    assert "evaluate has trust, which is given on the command line alone" in capsys.readouterr().err


def test_an_agent_is_evaluated_to_the_bits_of_sb3(run: Path, tmp_path: Path, capsys: Any) -> None:
    """Of a run and of PPO's with another network, whose algorithm need not be said."""
    relu = {"activation_fn": nn.ReLU, "net_arch": [16]}
    PPO("MlpPolicy", "CartPole-v1", n_steps=64, seed=0, policy_kwargs=relu, device="cpu").save(tmp_path / "ppo.zip")
    for what in (run / "agent.zip", tmp_path / "ppo.zip"):
        command = ["evaluate", str(what), "--env", "CartPole-v1", "--episodes", "3"]
        assert main(command) == 0 and main([*command, "--trust"]) == 0
        ours, sb3 = re.findall("mean return .*", capsys.readouterr().out)
        assert ours == sb3
    assert main(["evaluate", str(run), "--episodes", "3"]) == main(["evaluate", str(run), "--trust"]) == 0


def test_an_agent_of_another_environment(run: Path, capsys: Any) -> None:
    for env in ("Acrobot-v1", "Pendulum-v1"):
        for what in (run, run / "agent.zip"):
            assert main(["evaluate", str(what), "--env", env]) == 2
            err = capsys.readouterr().err
            assert "is of another network" in err and len(err.splitlines()) == 1


def test_a_run_of_another_algorithm_teaches_without_its_pickle(tmp_path: Path, capsys: Any) -> None:
    dqn = ["--agent.algorithm", "DQN", "--agent.buffer-size", "100", "--agent.learning-starts", "10"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    learned = ["--timesteps", "20", "--run-dir", str(teacher), "--device", "cpu"]
    assert main(["train", "Berzerk-m3", *dqn, *learned]) == 0
    plant(teacher / "agent.zip", tmp_path / "trace")
    given = ["train", "--teachers", str(teacher), "--timesteps", "20", "--agent.n-envs", "2", "--device", "cpu"]
    assert main([*given, "--run-dir", str(student)]) == 0
    assert not (tmp_path / "trace").exists()
    # What is tried next is a flavour that no teacher was trained on.
    assert f"leap-rl compare --games Berzerk-m6 --starts {student / 'agent.zip'} random" in capsys.readouterr().out


def test_a_video_of_a_recurrent_agent_has_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    small = ["--agent.n-envs", "1", "--agent.n-steps", "16", "--agent.batch-size", "16"]
    recurrent = ["train", "--env", "CartPole-v1", "--agent.algorithm", "RecurrentPPO", *small]
    assert main([*recurrent, "--timesteps", "16", "--run-dir", str(tmp_path / "run")]) == 0
    states: list[Any] = []
    predict = contrib.RecurrentPPO.predict

    def watched(model: Any, observation: Any, state: Any = None, *rest: Any, **more: Any) -> Any:
        states.append(state)
        return predict(model, observation, state, *rest, **more)

    monkeypatch.setattr(contrib.RecurrentPPO, "predict", watched)
    monkeypatch.setattr("leap_rl.commands.evaluate._play", lambda *_: None)
    assert main(["evaluate", str(tmp_path / "run"), "--video", str(tmp_path / "v.mp4")]) == 0
    assert len(states) > 5 and states[0] is None and all(state is not None for state in states[1:])
    assert (tmp_path / "v.mp4").stat().st_size > 1000
