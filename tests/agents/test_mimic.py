"""Policy distillation: a student acts as its teachers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import SubprocVecEnv

from leap_rl import make_atari_env
from leap_rl.agents import ActorMimic
from leap_rl.cli import main
from leap_rl.commands.initializations import load_initialization

SMALL: dict[str, Any] = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 16}}, "device": "cpu"}


def opposite(seed: int) -> Any:
    """A teacher of CartPole who is sure of itself: it pushes to the side where the pole is, or away from it."""
    teacher = A2C("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": []}, seed=seed, device="cpu")
    with torch.no_grad():
        teacher.policy.action_net.weight.zero_()
        teacher.policy.action_net.weight[1, 2:] = 40.0 * (1 if seed else -1)
    return teacher


def test_it_learns_to_act_as_its_teacher_does() -> None:
    env = make_vec_env("CartPole-v1", 4, seed=0)
    teacher = opposite(1)
    student = ActorMimic("MlpPolicy", env, [teacher] * 4, learning_rate=5e-3, seed=0, device="cpu")
    student.learn(3_000)
    observations = np.random.default_rng(0).normal(0, 0.1, (200, 4)).astype(np.float32)
    theirs, _ = teacher.predict(observations, deterministic=True)
    ours, _ = student.predict(observations, deterministic=True)
    assert (theirs == ours).mean() > 0.8
    # It has never looked at the rewards, and yet balances the pole as long as the teacher does.
    assert np.mean([episode["r"] for episode in student.ep_info_buffer or []]) > 100


def test_the_loss_is_the_papers() -> None:
    """Computed once more in float64, of what was in the rollout; each teacher has its own environments."""
    env = make_vec_env("CartPole-v1", 2, seed=0)
    teachers = [opposite(0), opposite(1)]
    student = ActorMimic("MlpPolicy", env, teachers, n_steps=3, learning_rate=0.0, seed=0, device="cpu")
    student.learn(6)
    policy: Any = student.policy
    expected = []
    for e, teacher in enumerate(teachers):
        observations = obs_as_tensor(student.rollout_buffer.observations[:, e], student.device)
        with torch.no_grad():
            target = teacher.policy.get_distribution(observations).distribution.probs.double()
            log_probabilities = policy.get_distribution(observations).distribution.probs.double().log()
        expected.append(-(target * log_probabilities).sum(dim=1))
    logged = student.logger.name_to_value["train/cross_entropy"]
    assert logged == pytest.approx(torch.cat(expected).mean().item(), rel=1e-5)
    assert student.logger.name_to_value["time/learn_us"] > 0  # watched as any other


def test_actions_mean_the_same_in_games_that_have_others() -> None:
    teachers = [A2C("CnnPolicy", make_atari_env(game, 1), **SMALL) for game in ("Pong", "Breakout")]
    env = make_atari_env(["Pong", "Breakout"], 2, full_action_space=True)
    student = ActorMimic("CnnPolicy", env, teachers, n_steps=2, **SMALL)
    meanings = env.action_meanings
    for teacher, _, columns in student._taught:
        own: Any = teacher.get_env()
        assert [meanings[column] for column in columns] == own.action_meanings
    student.learn(4)
    assert np.isfinite(student.logger.name_to_value["train/cross_entropy"])


def test_a_teacher_of_q_values() -> None:
    teacher = DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu")
    student = ActorMimic("MlpPolicy", make_vec_env("CartPole-v1", 1), [teacher], temperature=0.5, device="cpu")
    observations = torch.zeros(3, 4)
    with torch.no_grad():
        q = teacher.policy.q_net(observations)
        found = student._probabilities(teacher, observations)
    torch.testing.assert_close(found, torch.exp(2 * q) / torch.exp(2 * q).sum(dim=1, keepdim=True))


def test_environments_in_processes_that_do_not_name_their_actions() -> None:
    teacher = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    env = make_vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv)
    student = ActorMimic("MlpPolicy", env, [teacher] * 2, n_steps=2, device="cpu").learn(4)
    assert student._taught[0][2] == [0, 1]
    env.close()


def test_who_can_not_teach() -> None:
    env = make_vec_env("CartPole-v1", 2)
    one = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match="1 teachers for 2 environments: one is needed for each"):
        ActorMimic("MlpPolicy", env, [one], device="cpu")
    with pytest.raises(ValueError, match="SAC can't teach"):
        ActorMimic("MlpPolicy", env, [SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu")] * 2, device="cpu")
    with pytest.raises(ValueError, match=r"A2C sees Box.*, but the student sees Box"):
        ActorMimic("MlpPolicy", env, [A2C("MlpPolicy", "Acrobot-v1", device="cpu")] * 2, device="cpu")
    pong = make_atari_env("Pong", 1)
    wide = A2C("CnnPolicy", make_atari_env("Pong", 1, full_action_space=True), **SMALL)
    with pytest.raises(ValueError, match="A2C takes actions that the student has not: UP"):
        ActorMimic("CnnPolicy", pong, [wide], **SMALL)
    # As many actions are not the same ones.
    other = A2C("CnnPolicy", make_atari_env("Qbert", 1), **SMALL)
    assert other.action_space == pong.action_space
    with pytest.raises(ValueError, match="A2C takes actions that the student has not: UP, DOWN"):
        ActorMimic("CnnPolicy", pong, [other], **SMALL)
    recurrent = pytest.importorskip("sb3_contrib").RecurrentPPO
    forgetful = recurrent("MlpLstmPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match="RecurrentPPO can't teach: it remembers what it saw"):
        ActorMimic("MlpPolicy", "CartPole-v1", [forgetful], device="cpu")


def test_a_student_is_loaded_to_play_and_to_learn_on(tmp_path: Path) -> None:
    env, teacher = make_vec_env("CartPole-v1", 2, seed=0), opposite(1)
    kwargs: Any = {"temperature": 0.5, "device": "cpu"}
    ActorMimic("MlpPolicy", env, [teacher] * 2, **kwargs).learn(20).save(tmp_path / "student")
    student = ActorMimic.load(tmp_path / "student", env=env, device="cpu")
    assert student.temperature == 0.5  # of its loss, when it learns on
    student.predict(env.reset())
    with pytest.raises(ValueError, match="it was loaded without teachers, to play"):
        student.learn(20)
    taught = ActorMimic.load(tmp_path / "student", env=env, teachers=[teacher] * 2, device="cpu")
    assert taught.learn(20, reset_num_timesteps=False).num_timesteps == 40
    with pytest.raises(ValueError, match="1 teachers for 2 environments"):
        ActorMimic.load(tmp_path / "student", env=env, teachers=[teacher], device="cpu")


def test_a_student_of_different_games_plays_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ["--agent.n-envs", "2", "--device", "cpu", "--timesteps", "20"]
    for game in ("Breakout", "Asterix"):
        assert main(["train", game, "--run-dir", str(tmp_path / game), *agent]) == 0
    teachers = [str(tmp_path / "Breakout"), str(tmp_path / "Asterix")]
    student = tmp_path / "student"
    assert main(["train", "--teachers", *teachers, "--run-dir", str(student), *agent]) == 0
    for what in (student, student / "agent.zip"):
        capsys.readouterr()
        assert main(["evaluate", str(what), "--game", "Breakout", "--episodes", "1"]) == 0
        assert "Breakout: mean return" in capsys.readouterr().out
    assert main(["show", str(student)]) == 0
    assert f"a student of {', '.join(teachers)}, 20 of 20 steps" in capsys.readouterr().out
    # What its teachers learned is not new to it.
    assert load_initialization(student).config["tasks"] == ["Asterix", "Breakout"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ["--agent.n-envs", "2", "--device", "cpu"]
    teachers = []
    for game in ("Breakout", "Breakout-m4"):
        teachers.append(str(tmp_path / game))
        assert main(["train", game, "--timesteps", "20", "--run-dir", teachers[-1], *agent]) == 0
    student = tmp_path / "student"
    given = ["train", "--teachers", *teachers, "--timesteps", "20", "--run-dir", str(student)]
    assert main([*given, *agent]) == 0
    said = capsys.readouterr().out
    assert f"to act as {', '.join(teachers)} do" in said
    assert f"leap-rl compare --games Breakout-m4-d1 --starts {student}/agent.zip random" in said
    assert A2C.load(student / "agent.zip", device="cpu").num_timesteps == 20
    assert main(["train", "--resume", str(student), "--timesteps", "40"]) == 0
    assert A2C.load(student / "agent.zip", device="cpu").num_timesteps == 40
    capsys.readouterr()
    for wrong, said in (
        (["train", "Pong", "--teachers", *teachers], "leave out Pong: --teachers know their games"),
        (["train", "--teachers", *teachers, "--agent.algorithm", "PPO"], "with --teachers it must be A2C"),
        (["train", "--teachers", *teachers, "--agent.n-envs", "3"], "agent.n-envs is 3: 2 teachers need a multiple"),
        (["train", "--teachers", str(tmp_path)], "settings.yaml"),
    ):
        assert main([*wrong, "--run-dir", str(tmp_path / "wrong")]) == 2
        assert said in capsys.readouterr().err
    (Path(teachers[0]) / "agent.zip").unlink()
    assert main([*given[:-1], str(tmp_path / "other"), *agent]) == 2
    assert "has no agent.zip yet: leap-rl train --resume" in capsys.readouterr().err
