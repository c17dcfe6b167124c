"""``--agent.algorithm``: what is meta-trained, trained and played by each kind of agent, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from leap_rl.agents.tasks import OBSERVED
from leap_rl.cli import main
from leap_rl.commands.dry_run import _updates, seconds_of
from leap_rl.commands.tasks import algorithm, algorithm_kwargs, make_tasks, policy
from leap_rl.core import GradientPaths, Initialization
from leap_rl.settings import AgentSettings, AtariSettings

NAMES = get_args(get_type_hints(AgentSettings)["algorithm"])
SMALL = "--timesteps 64 --agent.n-envs 2 --agent.learning-starts 20 --agent.batch-size 8 --agent.train-freq 4"


def test_all_can_be_chosen_but_one_whose_environments_have_no_ids() -> None:
    assert {*NAMES, "MaskablePPO"} == {name for names in OBSERVED.values() for name in names}
    for name in NAMES:
        assert algorithm(AgentSettings(algorithm=name)).__name__ == name


def test_meta_training_train_evaluate_with_dqn(tmp_path: Path, capsys: Any) -> None:
    run, agent = tmp_path / "run", tmp_path / "agent"
    options = ["--agent.algorithm", "DQN", *SMALL.split(), "--agent.exploration-fraction", "0.5"]
    meta = ["meta-train", "--n-workers", "1", "--run-dir", str(run), "--envs", "CartPole-v1", *options]
    assert main([*meta, "--meta-steps", "1"]) == 0
    suggested = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("leap-rl")]
    assert any("--agent.algorithm DQN" in line and "--agent.train-freq 4" in line for line in suggested)
    assert main(["meta-train", "--resume", str(run), "--meta-steps", "2"]) == 0
    theta = Initialization.load(run / "initialization")
    assert theta.config["algorithm"] == "LeapDQN" and theta.config["meta_steps"] == 2
    assert theta.config["algorithm_kwargs"]["exploration_fraction"] == 0.5
    assert not any("target" in name for name in theta.parameters)

    train = ["train", "--env", "CartPole-v1", "--init", str(run / "initialization"), "--run-dir", str(agent), *options]
    assert main(train) == 0
    assert f"leap-rl evaluate {agent}\n" in capsys.readouterr().out
    assert main(["evaluate", str(agent), "--episodes", "3", "--deterministic"]) == 0
    ours = capsys.readouterr().out
    assert main(["evaluate", str(agent), "--episodes", "3", "--deterministic", "--trust"]) == 0
    assert ours == capsys.readouterr().out and "CartPole-v1: mean return" in ours
    # It explores as much as when it was saved, however it is loaded.
    played = []
    for trust in ([], ["--trust"]):
        assert main(["evaluate", str(agent), "--episodes", "3", *trust]) == 0
        played.append(capsys.readouterr().out)
    assert played[0] == played[1] != ours
    assert main(["train", "--resume", str(agent), "--timesteps", "128"]) == 2
    assert "the replay buffer of DQN is not saved with its agents" in capsys.readouterr().err


def test_sac_is_meta_trained_by_actor_and_critic(tmp_path: Path) -> None:
    options = f"--agent.algorithm SAC --scope actor --meta-steps 1 --n-workers 1 {SMALL}"
    assert main(["meta-train", "--envs", "Pendulum-v1", "--run-dir", str(tmp_path / "run"), *options.split()]) == 0
    theta = Initialization.load(tmp_path / "run" / "initialization")
    assert {name.partition(".")[0] for name in theta.parameters} == {"actor"}
    assert json.loads((tmp_path / "run" / "initialization" / "config.json").read_text())["scope"] == "actor"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--envs CartPole-v1 --agent.algorithm SAC", "CartPole-v1 can't be learned: SAC takes actions of Box, not"),
        ("--games Pong --agent.algorithm SAC --agent.n-envs 1", "Pong can't be learned: SAC takes actions of Box, not"),
        ("--envs Pendulum-v1 --agent.algorithm DQN", "Pendulum-v1 can't be learned: DQN takes actions of Discrete"),
        ("--envs CartPole-v1 --agent.buffer-size 10", "agent.buffer-size is of other algorithms: A2C has none"),
        ("--envs CartPole-v1 --agent.algorithm DQN --agent.clip-range 0.1", "agent.clip-range is of other algorithms"),
        ("--envs CartPole-v1 --agent.algorithm DQN --agent.n-steps 5", "of DQN it is train-freq"),
        ("--envs CartPole-v1 --agent.algorithm DQN --learner fomaml", "FOMAML looks ahead to data that was not"),
        ("--envs CartPole-v1 --agent.algorithm DQN --timesteps 100", "timesteps=100 ends before the first update"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(options: str, message: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["meta-train", "--run-dir", str(tmp_path / "run"), *options.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_recurrent_policies_and_shared_encoders_are_chosen() -> None:
    recurrent = AgentSettings(algorithm="RecurrentPPO", n_envs=1)
    assert policy(recurrent) == "CnnLstmPolicy" and policy(recurrent, "CartPole-v1") == "MlpLstmPolicy"
    sac = AgentSettings(algorithm="SAC", n_envs=1, buffer_size=50, network="mnih2013")
    kwargs = algorithm_kwargs(sac, "CnnPolicy")
    # Its critic, which takes the actions beside the features, keeps the hidden layers that SB3 gives it.
    assert kwargs["policy_kwargs"]["share_features_extractor"] is True and "net_arch" not in kwargs["policy_kwargs"]
    dqn = algorithm_kwargs(AgentSettings(algorithm="DQN", network="nature-ln"), "CnnPolicy")
    assert dqn["policy_kwargs"]["net_arch"] == []
    assert "policy_kwargs" not in algorithm_kwargs(AgentSettings(algorithm="SAC"), "MlpPolicy")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "A2C"])
def test_a_dry_run_counts_the_updates_that_are_made(name: str) -> None:
    given = {"learning_starts": 20, "gradient_steps": 3, "train_freq": 2} if _replays(name) else {"n_steps": 8}
    if name in ("PPO", "RecurrentPPO"):
        given |= {"batch_size": 8, "n_epochs": 2}
    settings = AgentSettings(algorithm=name, n_envs=2, **given)  # type: ignore[arg-type]
    env = "Pendulum-v1" if name in ("SAC", "TQC", "TD3", "DDPG", "CrossQ") else "CartPole-v1"
    task = make_tasks([], [env], 48, settings, AtariSettings())[0]
    model = task.make_model(task.make_vec_env("all"), 48, None, 0).learn(48)
    path: Any = model.gradient_path
    made = path["critic"].n_updates if isinstance(path, GradientPaths) else path.n_updates
    rollout, updates, before = _updates(settings)
    assert rollout == model.rollout_steps and made == -(-(48 - before) // rollout) * updates


def test_a_dry_run_tells_steps_that_learn_from_those_before() -> None:
    """Ten times slower: of 10,000 steps of which 1,000 are before the first update."""
    elapsed = [(500, 0.5), (1_000, 1.0), (1_100, 2.0), (2_000, 11.0)]
    assert seconds_of(10_000, elapsed, 1_000) == pytest.approx(1 + 90)
    # Ten points of which one has learned, as of a visit with as many steps before.
    elapsed = [(n * 1_100, n * 0.11) for n in range(1, 10)] + [(11_000, 1.0 + 10.0)]
    assert seconds_of(100_000, elapsed, 10_000) == pytest.approx(90 * 11 / 1.1, rel=0.1)
    assert seconds_of(10_000, [(2_000, 4.0)], 0) == pytest.approx(20)
    assert seconds_of(10_000, [(900, 0.9)], 1_000) == pytest.approx(10)


def _replays(name: str) -> bool:
    return issubclass(algorithm(AgentSettings(algorithm=name)), OffPolicyAlgorithm)  # type: ignore[arg-type]
