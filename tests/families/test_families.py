"""Families of tasks: what is drawn, what it does to the environment, and that it is learned wherever it runs."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from leap_rl import Leap, LeapPPO, MetaTrainer
from leap_rl.cli import main
from leap_rl.core import Initialization, InProcess, Workers
from leap_rl.ending import EXTRAS, exit_code
from leap_rl.families import (
    ACROBOT,
    CARTPOLE,
    FAMILIES,
    HALFCHEETAH,
    LUNARLANDER,
    MINIGRID,
    PENDULUM,
    Family,
    family_named,
)

PPO_KWARGS = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}
SPLITS = ("training", "validation", "test")


def needs(name: str) -> Family:
    family = family_named(name)
    if family.module is not None and find_spec(family.module) is None:
        pytest.skip(f"needs {family.module}")
    return family


def played(env: Any, actions: list[Any]) -> tuple[np.ndarray, list[float]]:
    """
    :return: what was observed last, and the rewards, until an episode ends
    """
    observation, _ = env.reset(seed=3)
    rewards = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    env.close()
    return observation, rewards


# -- what is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_cartpoles_are_the_ones_they_always_were(split: str) -> None:
    """The draws of the released figures, written out as they were made."""
    rng = np.random.default_rng(SPLITS.index(split))
    wanted = []
    for i in range({"training": 60, "validation": 6, "test": 10}[split]):
        length, mass = rng.uniform(0.25, 1.5), rng.uniform(0.05, 0.5)
        force, gravity = rng.uniform(5, 15), rng.uniform(7, 15)
        wanted.append({"length": length, "mass": mass, "force": force, "gravity": gravity, "swapped": i % 2 == 1})
    assert CARTPOLE.variants(split) == wanted  # type: ignore[arg-type]
    assert list(CARTPOLE.envs(split)) == [f"cartpole/{split}-{i}" for i in range(len(wanted))]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_variant_of_a_split_is_in_another(name: str) -> None:
    family = family_named(name)
    drawn = {split: family.variants(split) for split in SPLITS}  # type: ignore[arg-type]
    assert {split: len(variants) for split, variants in drawn.items()} == family.sizes
    for parameter, (low, high) in family.parameters.items():
        values = [variant[parameter] for variants in drawn.values() for variant in variants]
        assert len(set(values)) == len(values), f"{parameter} comes twice"
        assert low <= min(values) < low + (high - low) / 4 and high - (high - low) / 4 < max(values) <= high
    if family.every_second is not None:
        assert [v[family.every_second] for v in drawn["test"]] == [False, True] * 5
    assert family.variants("test") == drawn["test"], "the same ones always"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_makes_what_its_parameters_say(name: str) -> None:
    family = needs(name)
    known = [*family.parameters, *([family.every_second] if family.every_second else [])]
    assert list(inspect.signature(family.make).parameters) == known
    assert family.name == name and family.documentation
    for variant in family.variants("validation")[:2]:
        family.variant(**variant).close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 3.0}, "length=3 is out of its range, 0.7 to 1.3"),
        ({"gravity": float("nan")}, "gravity=nan is out of its range, 7 to 13"),
        ({"mirrored": "no"}, "mirrored='no' must be True or False"),
        ({"weight": 1.0}, "pendulum takes gravity, length, mass, mirrored, not"),
    ],
)
def test_a_parameter_out_of_its_range_is_one_clear_error(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PENDULUM.variant(**{**PENDULUM.variants("test")[0], **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parameters": {}}, "mine has no parameters"),
        ({"parameters": {"mass": (1, 1)}}, "mass is drawn from 1 to 1, which is no interval"),
        ({"parameters": {"mass": (2, 1)}}, "mass is drawn from 2 to 1"),
        ({"parameters": {"mass": (0, float("inf"))}}, "mass is drawn from 0 to inf"),
        ({"every_second": "mass"}, "mass is drawn already"),
        ({"sizes": {"train": 3}}, "sizes has 'train': 3"),
        ({"sizes": {"training": 0}}, "sizes has 'training': 0"),
    ],
)
def test_what_is_no_distribution_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Family(**{"name": "mine", "make": gym.make, "parameters": {"mass": (1, 2)}, **given})


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="no family 'hopper': there are cartpole, acrobot"):
        family_named("hopper")
    with pytest.raises(ValueError, match="cartpole has no split 'train': there are training, validation, test"):
        CARTPOLE.tasks("train", LeapPPO, 64)  # type: ignore[arg-type]


# -- physics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_each_parameter_changes_what_happens(name: str) -> None:
    """One at a time from its lower to its upper end, with the same seed and actions."""
    family = needs(name)
    middle: dict[str, Any] = {p: (low + high) / 2 for p, (low, high) in family.parameters.items()}
    flag = {} if family.every_second is None else {family.every_second: False}
    space = family.variant(**middle, **flag).action_space
    space.seed(0)
    actions = [space.sample() for _ in range(60)]
    for parameter, (low, high) in family.parameters.items():
        ends = [played(family.variant(**{**middle, parameter: end}, **flag), actions) for end in (low, high)]
        differs = ends[0][1] != ends[1][1] or not np.allclose(ends[0][0], ends[1][0], atol=1e-4)
        assert differs, f"{parameter} changes nothing"


@pytest.mark.parametrize(
    ("family", "opposite"),
    [
        (CARTPOLE, {0: 1, 1: 0}.__getitem__),
        (ACROBOT, {0: 2, 1: 1, 2: 0}.__getitem__),
        (PENDULUM, lambda torque: -torque),
        pytest.param(
            LUNARLANDER,
            {0: 0, 1: 3, 2: 2, 3: 1}.__getitem__,
            marks=pytest.mark.skipif(find_spec("Box2D") is None, reason="needs Box2D"),
        ),
    ],
)
def test_in_every_second_variant_the_opposite_action_does_the_same(family: Family, opposite: Any) -> None:
    assert family.every_second is not None
    variant = family.variants("test")[1]
    assert variant[family.every_second] is True
    plain = family.variant(**{**variant, family.every_second: False})
    plain.action_space.seed(1)
    actions = [plain.action_space.sample() for _ in range(40)]
    mirrored = [opposite(action) for action in actions]
    (ours, rewards), (theirs, other) = played(family.variant(**variant), actions), played(plain, mirrored)
    np.testing.assert_array_equal(ours, theirs)
    assert rewards == other
    assert not np.array_equal(ours, played(family.variant(**{**variant, family.every_second: False}), actions)[0])


def test_a_cartpole_moves_as_the_equations_say() -> None:
    """Barto, Sutton and Anderson (1983) without friction, in float64, for one variant."""
    v = CARTPOLE.variants("test")[4]
    env = CARTPOLE.variant(**v)
    env.reset(seed=0)
    x, dx, angle, spin = map(float, env.unwrapped.state)  # type: ignore[attr-defined]
    observed, *_ = env.step(1)
    total, tau = v["mass"] + 1.0, 0.02
    push = (v["force"] + v["mass"] * v["length"] * spin**2 * np.sin(angle)) / total
    turn = (v["gravity"] * np.sin(angle) - np.cos(angle) * push) / (
        v["length"] * (4 / 3 - v["mass"] * np.cos(angle) ** 2 / total)
    )
    move = push - v["mass"] * v["length"] * turn * np.cos(angle) / total
    wanted = [x + tau * dx, dx + tau * move, angle + tau * spin, spin + tau * turn]
    np.testing.assert_allclose(observed, wanted, rtol=1e-5)


def test_a_pendulum_moves_as_the_equation_says() -> None:
    """3 g / (2 l) sin θ + 3 u / (m l²), the torque with its other sign in a mirrored one."""
    v = PENDULUM.variants("test")[1]
    env = PENDULUM.variant(**v)
    env.reset(seed=0)
    angle, speed = map(float, env.unwrapped.state)  # type: ignore[attr-defined]
    env.step(np.array([0.7], np.float32))
    turn = 3 * v["gravity"] / (2 * v["length"]) * np.sin(angle) - 3 / (v["mass"] * v["length"] ** 2) * 0.7
    np.testing.assert_allclose(env.unwrapped.state[1], speed + 0.05 * turn, rtol=1e-5)  # type: ignore[attr-defined]


@pytest.mark.skipif(find_spec("mujoco") is None, reason="needs mujoco")
def test_a_half_cheetah_is_paid_for_its_speed_and_ends_after_200_steps() -> None:
    slow, fast = (HALFCHEETAH.variant(velocity=v) for v in (0.25, 1.75))
    actions = [slow.action_space.sample() for _ in range(200)]
    slow.reset(seed=0)
    fast.reset(seed=0)
    for step, action in enumerate(actions):
        of_slow, of_fast = slow.step(action), fast.step(action)
        np.testing.assert_array_equal(of_slow[0], of_fast[0])
        speed, cost = of_slow[4]["x_velocity"], 0.05 * float(np.square(action).sum())
        for (_, reward, *_), wanted in ((of_slow, 0.25), (of_fast, 1.75)):
            assert reward == pytest.approx(-abs(speed - wanted) - cost)
        assert of_slow[2:4] == (False, step == 199)


@pytest.mark.skipif(find_spec("minigrid") is None, reason="needs minigrid")
def test_a_room_can_be_crossed_and_is_the_same_in_every_episode() -> None:
    """By a walk over its cells; and no two rooms of the family are alike."""
    rooms = set()
    for variant in [v for split in SPLITS for v in MINIGRID.variants(split)]:  # type: ignore[arg-type]
        env = MINIGRID.variant(**variant)
        room: Any = env.unwrapped
        for seed in (0, 1):
            env.reset(seed=seed)
            rooms.add((room.grid.encode().tobytes(), room.agent_pos, room.agent_dir))
        reached = {room.agent_pos}
        while new := {(x + dx, y + dy) for x, y in reached for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))} - reached:
            free = {c for c in new if (there := room.grid.get(*c)) is None or there.can_overlap()}
            if not free:
                break
            reached |= free
        kinds = {there.type for c in reached if (there := room.grid.get(*c)) is not None}
        assert kinds == {"goal"} and len(reached) == 7 * 6 + 1  # all but the wall, whose gap is one cell
        assert env.observation_space.contains(env.reset(seed=0)[0]) and env.action_space.n == 3  # type: ignore[attr-defined]
    assert len(rooms) == sum(MINIGRID.sizes.values())


# -- learning --------------------------------------------------------------------------------------


def meta_trained(engine: Any) -> Initialization:
    few = dataclasses.replace(PENDULUM, sizes={"training": 3})
    tasks = few.tasks("training", LeapPPO, 64, 2, PPO_KWARGS)
    trainer = MetaTrainer(tasks, Leap(), 2, engine=engine, seed=0, device="cpu")
    return trainer.learn(2).initialization


def test_every_engine_gives_the_same_bits() -> None:
    here, elsewhere = meta_trained(InProcess()), meta_trained(Workers(2))
    for name, tensor in here.parameters.items():
        assert torch.equal(tensor, elsewhere.parameters[name])


def test_a_family_of_ones_own_needs_a_function_and_intervals() -> None:
    """And one that is defined in a function reaches another process, too."""

    def make(sutton_barto: bool, mass: float) -> gym.Env[Any, Any]:
        env = gym.make("CartPole-v1", sutton_barto_reward=sutton_barto)
        env.unwrapped.masscart = mass  # type: ignore[attr-defined]
        return env

    family = Family("mine", make, {"mass": (0.5, 2)}, every_second="sutton_barto", sizes={"training": 2, "test": 1})
    tasks = family.tasks("training", LeapPPO, 64, 2, PPO_KWARGS)
    assert [task.name for task in tasks] == ["mine/training-0", "mine/training-1"]
    MetaTrainer(tasks, Leap(), 2, engine=Workers(1), seed=0, device="cpu").learn(1)
    with pytest.raises(ValueError, match="mine has no split 'validation': there are training, test"):
        family.tasks("validation", LeapPPO, 64)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("leap_rl.families.family.find_spec", lambda name: None)
    for family, extra in ((LUNARLANDER, "box2d"), (HALFCHEETAH, "mujoco"), (MINIGRID, "minigrid")):
        assert family.module is not None and EXTRAS[family.module] == extra
        assert exit_code("x", lambda family=family: family.tasks("test", LeapPPO, 64)) == 2  # type: ignore[misc]
        said = capsys.readouterr().err
        assert f"{family.module} is not installed" in said and extra in said and said.count("\n") == 1
    CARTPOLE.variant(**CARTPOLE.variants("test")[0])


# -- the command line ------------------------------------------------------------------------------

TINY = ["--timesteps", "64", "--agent.algorithm", "PPO", "--agent.n-envs", "2", "--agent.n-steps", "16"]
TINY += ["--agent.batch-size", "32", "--n-workers", "1"]


def test_a_run_of_a_family_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    run = ["meta-train", "--family", "cartpole", *TINY, "--meta-batch-size", "2"]
    run += ["--eval-family", "--eval-freq", "2", "--learner", "reptile"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main([*run, "--meta-steps", "2", "--run-dir", str(whole)]) == 0
    assert main([*run, "--meta-steps", "1", "--run-dir", str(halves)]) == 0
    assert main(["meta-train", "--resume", str(halves), "--meta-steps", "2"]) == 0
    first, second = (Initialization.load(folder / "initialization") for folder in (whole, halves))
    assert first.sha256 == second.sha256
    assert (whole / "best_initialization" / "model.safetensors").is_file()
    compared = tmp_path / "compared"
    starts = ["--starts", f"mine={whole / 'initialization'}", "--seeds", "0"]
    assert main(["compare", "--family", "cartpole", *starts, *TINY, "--run-dir", str(compared)]) == 0
    assert "cartpole/test-9" in (compared / "table.md").read_text()
    assert main(["show", str(compared)]) == 0


def test_a_variant_is_trained_and_evaluated_by_its_name(tmp_path: Path, capsys: Any) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "--env", "cartpole/test-3", *TINY[:-2], "--run-dir", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--episodes", "1"]) == 0
    assert "cartpole/test-3: mean return" in capsys.readouterr().out


@pytest.mark.skipif(find_spec("pygame") is None, reason="draws with pygame")
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "halfcheetah"])  # which needs OpenGL
def test_a_variant_can_be_drawn(name: str) -> None:
    env = needs(name).variant(**family_named(name).variants("test")[0])
    env.reset(seed=0)
    picture = env.render()
    assert isinstance(picture, np.ndarray) and picture.shape[2] == 3 and picture.std() > 0
    env.close()


def test_what_cannot_be_drawn_is_said_before_anything_is_played(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("leap_rl.commands.evaluate._play", lambda *_: pytest.fail("it was played"))
    assert main(["train", "--env", "pendulum/test-0", *TINY[:-2], "--run-dir", str(tmp_path / "run")]) == 0
    monkeypatch.setattr("gymnasium.envs.classic_control.PendulumEnv.render", lambda env: None)
    assert main(["evaluate", str(tmp_path / "run"), "--video", str(tmp_path / "v.mp4")]) == 2
    assert "pendulum/test-0 can't be drawn (it has no picture): leave --video out" in capsys.readouterr().err
