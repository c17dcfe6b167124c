"""``AtariVecEnv`` as an SB3 ``VecEnv``: episodes, FIRE, seeds, actions, wrappers, evaluation, monitor files."""

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from leap_rl.atari import AtariVecEnv, make_atari_env

Step = tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]


def play(env: VecEnv, n_steps: int, seed: int = 0) -> list[Step]:
    """Random actions, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [env.step(rng.integers(env.action_space.n, size=env.num_envs)) for _ in range(n_steps)]


def bits(env: AtariVecEnv, n_steps: int = 30) -> list[bytes]:
    """The observations of a reset and of random play."""
    return [env.reset().tobytes(), *(step[0].tobytes() + step[1].tobytes() for step in play(env, n_steps))]


class NeverFire:
    """Right and left in Breakout, by turns; never the FIRE that launches the ball."""

    def __init__(self) -> None:
        self.n_steps = 0

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        self.n_steps += 1
        return np.full(len(observations), 2 + self.n_steps // 10 % 2), state


# Observations


@pytest.mark.parametrize(
    ("kwargs", "shape"),
    [
        ({}, (4, 84, 84)),
        ({"frame_stack": 1}, (1, 84, 84)),
        ({"grayscale": False}, (12, 84, 84)),
        ({"grayscale": False, "frame_stack": 1, "screen_size": 42}, (3, 42, 42)),
    ],
)
def test_observations_are_images_with_channels_first(kwargs: dict[str, Any], shape: tuple[int, ...]) -> None:
    env = make_atari_env("MsPacman", 2, seed=0, **kwargs)
    observations = [env.reset(), *(step[0] for step in play(env, 5))]
    assert env.observation_space.shape == shape
    for observation in observations:
        assert observation.shape == (2, *shape) and observation.dtype == np.uint8
        assert observation.flags.c_contiguous and env.observation_space.contains(observation[0])
    env.close()


def test_colour_frames_show_what_grey_frames_show() -> None:
    grey = make_atari_env("Breakout", seed=0, noop_max=0)
    colour = make_atari_env("Breakout", seed=0, noop_max=0, grayscale=False)
    grey.reset(), colour.reset()
    stack = play(colour, 4)[-1][0][0].reshape(4, 3, 84, 84)
    luminance = np.tensordot([0.299, 0.587, 0.114], stack, axes=(0, 1))
    assert np.abs(luminance - play(grey, 4)[-1][0][0]).max() < 2


def test_the_screen_is_what_the_newest_frame_shows() -> None:
    """A single game's is ALE's own, in colour; the native environment has no more than the observation."""
    env = make_atari_env("Breakout", seed=0, grayscale=False, frame_skip=1)
    env.reset()
    observation = play(env, 4)[-1][0][0, -3:].transpose(1, 2, 0)
    image = env.render()
    assert image.shape == (210, 160, 3)
    shrunk = cv2.resize(image, (84, 84), interpolation=cv2.INTER_AREA)
    assert (shrunk == observation).mean() > 0.99  # without the ball of the frame before
    native = make_atari_env("Breakout", 2, seed=0, n_threads=2)
    native.reset()
    np.testing.assert_array_equal(native.get_images()[0][:, :, 0], native.get_images()[0][:, :, 2])


@pytest.mark.parametrize("n_threads", [1, 2])
def test_observations_may_be_written_to(n_threads: int) -> None:
    """As what augments or blacks out images does; whatever the number of threads, on which no result depends."""
    kept, changed = (make_atari_env("Breakout", 2, seed=0, n_threads=n_threads) for _ in range(2))
    kept.reset()
    changed.reset()[:] = 0
    for expected, found in zip(play(kept, 30), play(changed, 30), strict=True):
        np.testing.assert_array_equal(expected[0], found[0])
        found[0][:] = 7


def test_observations_are_not_overwritten() -> None:
    env = make_atari_env("Breakout", 2, seed=0)
    kept = [env.reset(), *(step[0] for step in play(env, 30))]
    copies = [observation.copy() for observation in kept]
    play(env, 30)
    for observation, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(observation, copy)


# Episodes


@pytest.mark.parametrize("terminal_on_life_loss", [True, False])
def test_lost_lives_and_ended_games(terminal_on_life_loss: bool) -> None:
    env = make_atari_env("Breakout", 2, seed=0, terminal_on_life_loss=terminal_on_life_loss)
    env.reset()
    n_lost, n_over = 0, 0
    lives = [5, 5]
    for observations, rewards, dones, infos in play(env, 400):
        assert rewards.dtype == np.float32 and dones.dtype == bool
        for i, info in enumerate(infos):
            is_over, has_lost = "episode" in info, 0 < info["lives"] < lives[i]
            assert dones[i] == (is_over or (has_lost and terminal_on_life_loss))
            assert ("terminal_observation" in info) == dones[i]
            assert is_over == (info["lives"] == 0)
            if is_over:  # the observation is already of the next game, all but its newest frame empty
                assert not observations[i, :-1].any() and info["terminal_observation"][:-1].any()
            elif dones[i]:
                np.testing.assert_array_equal(info["terminal_observation"], observations[i])
                assert not np.shares_memory(info["terminal_observation"], observations)
            lives[i] = 5 if is_over else info["lives"]
            n_lost, n_over = n_lost + has_lost, n_over + is_over
    assert n_over >= 2 and n_lost >= 4 * n_over
    assert env.get_attr("lives") == lives
    env.close()


@pytest.mark.parametrize("max_episode_frames", [40, 42])
def test_truncation(max_episode_frames: int) -> None:
    env = make_atari_env("Pong", 2, seed=0, max_episode_frames=max_episode_frames, clip_reward=False)
    n_steps = -(-max_episode_frames // 4)
    env.reset()
    steps = play(env, 2 * n_steps)
    for t, (observations, _, dones, infos) in enumerate(steps, start=1):
        for i, info in enumerate(infos):
            assert dones[i] == info["TimeLimit.truncated"] == ("episode" in info) == (t % n_steps == 0)
            if dones[i]:
                assert info["episode"]["l"] == n_steps
                assert info["episode"]["r"] == sum(step[1][i] for step in steps[t - n_steps : t])
                np.testing.assert_array_equal(info["terminal_observation"][:-1], steps[t - 2][0][i, 1:])
                assert not observations[i, :-1].any()
    env.close()


@pytest.mark.parametrize(("clip_reward", "largest"), [(True, 1), (5, 5), (0.5, 0.5), (False, 10)])
def test_rewards_are_clipped_and_returns_are_not(clip_reward: bool | float, largest: float) -> None:
    env = make_atari_env("MsPacman", seed=0, clip_reward=clip_reward, max_episode_frames=400)
    raw = make_atari_env("MsPacman", seed=0, clip_reward=False, max_episode_frames=400)
    env.reset(), raw.reset()
    steps, raw_steps = play(env, 100), play(raw, 100)
    rewards = np.array([step[1] for step in raw_steps])
    np.testing.assert_array_equal(
        [step[1] for step in steps], rewards if clip_reward is False else np.clip(rewards, -largest, largest)
    )
    assert rewards.max() == 10
    assert steps[-1][3][0]["episode"]["r"] == rewards.sum()
    assert all(step[1].dtype == np.float32 for step in steps)


def test_reset_in_the_middle_starts_new_games_and_forgets_returns() -> None:
    env = make_atari_env("MsPacman", seed=0, max_episode_frames=80, clip_reward=False)
    env.reset()
    play(env, 15)
    env.reset()
    steps = play(env, 20)
    assert [bool(step[2][0]) for step in steps] == [False] * 19 + [True]
    assert steps[-1][3][0]["episode"]["l"] == 20
    assert steps[-1][3][0]["episode"]["r"] == sum(step[1][0] for step in steps)
    assert env.reset_infos == [{"lives": 3}]


# FIRE


@pytest.mark.parametrize("terminal_on_life_loss", [True, False])
def test_breakout_ends_without_an_agent_that_fires(terminal_on_life_loss: bool) -> None:
    env = make_atari_env("Breakout", 2, seed=0, terminal_on_life_loss=terminal_on_life_loss)
    _, lengths = evaluate_policy(NeverFire(), env, 4, return_episode_rewards=True)
    assert max(lengths) < 1000
    env.close()


def test_the_first_action_and_the_one_after_a_lost_life_have_no_effect() -> None:
    env, other = (make_atari_env("Breakout", seed=0) for _ in range(2))
    env.reset(), other.reset()
    rng = np.random.default_rng(0)
    must_fire, n_lives, n_games = True, 0, 0
    for _ in range(400):
        action = rng.integers(4, size=1)
        given = action.copy()
        observations, _, dones, (info,) = env.step(action)
        np.testing.assert_array_equal(action, given)  # the caller's array is left as it is
        np.testing.assert_array_equal(observations, other.step((action + must_fire) % 4)[0])
        must_fire = dones[0]
        n_lives, n_games = n_lives + dones[0], n_games + ("episode" in info)
    assert n_lives > 4
    assert n_games > 0


def test_the_first_ball_of_breakout_is_not_the_same_in_every_game() -> None:
    """It was, where ALE pressed FIRE before the random waiting."""
    env = make_atari_env("Breakout", 16, seed=0)
    env.reset()
    observations, *_ = env.step(np.zeros(16, dtype=int))
    balls = [np.flatnonzero(frame[38:74, 5:79].any(axis=0)).mean() for frame in observations[:, -1]]
    assert max(balls) - min(balls) > 40
    env.close()


# Seeds


def test_the_same_seed_gives_the_same_bits() -> None:
    first = bits(make_atari_env("Breakout", 2, seed=7))
    assert first == bits(make_atari_env("Breakout", 2, seed=7, n_threads=1))
    assert first == bits(make_atari_env("BreakoutNoFrameskip-v4", 2, seed=7, n_threads=2))
    assert first != bits(make_atari_env("Breakout", 2, seed=8))
    env = make_atari_env("Breakout", 2, seed=None)
    bits(env)
    env.seed(7)
    assert first == bits(env)


@pytest.mark.parametrize("call", ["send", "recv"])
def test_an_interrupted_step_is_forgotten_by_the_next_reset(call: str) -> None:
    """Ctrl-C is raised when the native call returns: what it has done is done."""
    clean, env = make_atari_env("Pong", 1, seed=3), make_atari_env("Pong", 1, seed=3)
    env.reset()
    native = env._native
    assert native is not None
    done = getattr(native, call)

    def interrupted(*args: Any) -> None:
        done(*args)
        raise KeyboardInterrupt

    setattr(native, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.step(np.array([0]))
    setattr(native, call, done)
    assert env._is_stepping == (call == "send")  # else the reset would wait for ever
    env.seed(3)
    assert bits(env) == bits(clean)


def test_sticky_actions_are_reproducible() -> None:
    kwargs = {"action_repeat_probability": 0.25, "noop_max": 0}
    sticky = bits(make_atari_env("Pong", 2, seed=0, n_threads=1, **kwargs))
    assert sticky == bits(make_atari_env("ALE/Pong-v5", 2, seed=0, n_threads=2, **kwargs))
    assert sticky != bits(make_atari_env("ALE/Pong-v5", 2, seed=0, noop_max=0))


def test_seeds_are_not_shared() -> None:
    env = AtariVecEnv("Pong", 8)
    streams = [set(env.seed(seed)) for seed in range(5)]
    assert len(set.union(*streams)) == 5 * 8
    assert all(type(seed) is int and 0 <= seed < 2**31 for stream in streams for seed in stream)
    assert env.seed(3) == env.seed(3)
    assert env.seed() != env.seed()


def test_seeds_are_used_once() -> None:
    env = make_atari_env("Breakout", 4, seed=0)

    def first_balls() -> np.ndarray:
        env.reset()
        return env.step(np.zeros(4, dtype=int))[0]

    first = first_balls()
    assert any(not np.array_equal(first, first_balls()) for _ in range(3))
    env.seed(0)
    np.testing.assert_array_equal(first, first_balls())


# Actions


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0, -1]), "Breakout has 4 actions, 0 to 3, not -1"),
        (np.array([4, 0]), "Breakout has 4 actions, 0 to 3, not 4"),
        (np.array([2**40, 0]), "not 1099511627776"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([True, False]), "bool"),
        (np.array([0]), r"\(1,\)"),
        (np.array([[0], [1]]), r"\(2, 1\)"),
        (np.array(0), r"\(\)"),
    ],
)
def test_wrong_actions_are_refused_and_the_environment_lives_on(actions: np.ndarray, message: str) -> None:
    env = make_atari_env("Breakout", 2, seed=0)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    assert env.step(np.array([0, 3], dtype=np.uint8))[0].shape == (2, 4, 84, 84)
    env.close()


def test_full_action_space() -> None:
    env = make_atari_env("Breakout", seed=0, full_action_space=True)
    assert env.action_space.n == 18
    assert len(env.env_method("get_action_meanings")[0]) == 18
    env.reset()
    env.step(np.array([17]))
    with pytest.raises(ValueError, match="18 actions"):
        env.step(np.array([18]))


def test_calls_out_of_order() -> None:
    env = make_atari_env("Breakout", 2, seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(2, dtype=int))
    with pytest.raises(RuntimeError, match="reset"):
        env.render()
    first = env.reset()
    with pytest.raises(RuntimeError, match="step_async"):
        env.step_wait()
    env.step_async(np.zeros(2, dtype=int))
    with pytest.raises(RuntimeError, match="step_wait"):
        env.step_async(np.zeros(2, dtype=int))
    env.seed(0)
    np.testing.assert_array_equal(env.reset(), first)  # cancels the step, as VecEnv asks
    env.step_async(np.zeros(2, dtype=int))
    env.close()
    env.close()
    for call in (env.reset, env.step_wait, lambda: env.step(np.zeros(2, dtype=int))):
        with pytest.raises(RuntimeError, match="environment of Breakout is closed"):
            call()


def test_an_environment_that_is_dropped_is_freed_at_once() -> None:
    env = make_atari_env("Breakout", 2, seed=0)
    play_on = weakref.ref(env)
    env.reset()
    gc.disable()
    try:
        del env
        assert play_on() is None
    finally:
        gc.enable()


# Settings


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_envs": 0},
        {"n_envs": 1.0},
        {"n_envs": 10**9},
        {"n_envs": "8"},
        {"n_envs": 4096, "screen_size": 1024},
        {"screen_size": 10**6},
        {"frame_stack": 10**6},
        {"frame_skip": 10**9},
        {"noop_max": 10**9},
        {"max_episode_frames": 2**31},
        {"n_threads": 10**6},
        {"grayscale": "yes"},
        {"full_action_space": 1},
        {"terminal_on_life_loss": None},
        {"clip_reward": "1"},
        {"action_repeat_probability": "0.25"},
        {"noop_max": -1},
        {"frame_skip": 0},
        {"screen_size": 0},
        {"frame_stack": 0},
        {"max_episode_frames": 0},
        {"n_threads": 0},
        {"clip_reward": -1.0},
        {"clip_reward": 0},
        {"clip_reward": float("nan")},
        {"action_repeat_probability": 1.0},
        {"action_repeat_probability": -0.1},
        {"render_mode": "human"},
        {"render_mode": np.array(["rgb_array", "human"])},
        {"n_envs": np.int32(4096), "frame_stack": np.int32(256), "screen_size": np.int32(1024)},  # 2 ** 40 overflows
    ],
)
def test_settings_out_of_range_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(kwargs))} must be"):
        AtariVecEnv("Pong", **kwargs)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"^seed must be a non-negative integer or None, not"):
        make_atari_env("Pong", seed=seed)


@pytest.mark.filterwarnings("error")
def test_numpys_numbers_are_numbers() -> None:
    env = make_atari_env(
        "Pong", np.uint8(1), frame_stack=np.uint8(100), grayscale=False, noop_max=np.uint8(30),
        clip_reward=np.float32(1.5), action_repeat_probability=np.float16(0.25),
    )  # fmt: skip
    assert env.reset().shape == (1, 300, 84, 84)


def test_settings_by_sb3s_names() -> None:
    settings = {
        "noop_max": 0,
        "frame_skip": 2,
        "screen_size": 42,
        "terminal_on_life_loss": False,
        "clip_reward": False,
        "action_repeat_probability": 0.1,
    }
    first = bits(make_atari_env("ALE/Pong-v5", 2, 0, wrapper_kwargs=settings))
    assert first == bits(make_atari_env("pong", 2, 0, **settings))
    with pytest.raises(TypeError, match=r"no setting 'clip_rewards'\. Did you mean 'clip_reward'"):
        make_atari_env("Pong", wrapper_kwargs={"clip_rewards": True})
    with pytest.raises(TypeError, match=r"no setting 'framestack'\. Did you mean 'frame_stack'"):
        make_atari_env("Pong", framestack=1)
    with pytest.raises(TypeError, match="'noop_max' twice"):
        make_atari_env("Pong", wrapper_kwargs={"noop_max": 1}, noop_max=2)
    with pytest.raises(ValueError, match=r"Unknown game 'Pung'\. Did you mean Pong"):
        make_atari_env("Pung")


# SB3's interface


def test_attributes_and_methods() -> None:
    env = make_atari_env("Breakout", 3, seed=0, n_threads=1)
    env.reset()
    assert env.get_attr("lives") == [5, 5, 5]
    assert env.get_attr("game", indices=1) == ["Breakout"]
    assert env.get_attr("get_action_meanings")[0]() == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert env.env_method("get_action_meanings", indices=[0, 2]) == [["NOOP", "FIRE", "RIGHT", "LEFT"]] * 2
    assert [image.shape for image in env.env_method("render")] == [(210, 160, 3)] * 3
    env.set_attr("difficulty", 3, indices=[0, 2])
    assert env.get_attr("difficulty", indices=[0, 2]) == [3, 3]
    assert not env.has_attr("difficulty")
    env.set_attr("difficulty", 4)
    assert env.has_attr("difficulty") and env.get_attr("difficulty") == [4, 4, 4]
    assert not env.has_attr("action_masks")
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(ClipRewardEnv, indices=0) == [False]


def test_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_atari_env("Breakout", 4, seed=0, n_threads=2)
    env.reset()
    assert env.render().shape == (168, 168, 3) and env.render().dtype == np.uint8
    monkeypatch.setitem(sys.modules, "moviepy", ModuleType("moviepy"))  # only encodes, which is left out here
    recorder = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=10)
    recorder.reset()
    play(recorder, 5)
    assert len(recorder.recorded_frames) == 6 and recorder.recorded_frames[0].shape == (168, 168, 3)
    recorder.recorded_frames = []
    recorder.close()
    unseen = make_atari_env("Breakout", seed=0, render_mode=None)
    unseen.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert unseen.render() is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: VecFrameStack(env, 2),
        lambda env: VecNormalize(env, norm_obs=False),
        VecNormalize,
        VecCheckNan,
        lambda env: VecTransposeImage(env, skip=True),
        pytest.param(VecMonitor, marks=pytest.mark.filterwarnings("ignore:The environment is already wrapped")),
    ],
)
def test_sb3s_wrappers(wrap: Callable[[VecEnv], VecEnv]) -> None:
    env = wrap(make_atari_env("Breakout", 2, seed=0))
    assert env.reset().shape == (2, *env.observation_space.shape)
    steps = play(env, 150)
    for observations, rewards, dones, infos in steps:
        assert observations.shape == (2, *env.observation_space.shape) and rewards.shape == dones.shape == (2,)
        assert all(("terminal_observation" in info) == done for info, done in zip(infos, dones, strict=True))
    assert any(step[2].any() for step in steps)
    env.close()


def test_evaluation_scores_whole_games_without_clipping() -> None:
    kwargs = {"seed": 0, "max_episode_frames": 1000}
    env = make_atari_env("MsPacman", 1, clip_reward=5, **kwargs)
    model = A2C("CnnPolicy", env, n_steps=5, seed=0)
    env.seed(0)
    returns, lengths = evaluate_policy(model, env, 1, return_episode_rewards=True)
    raw = make_atari_env("MsPacman", 1, clip_reward=False, terminal_on_life_loss=False, **kwargs)
    observations, total, length, done = raw.reset(), 0.0, 0, np.array([False])
    while not done[0]:
        observations, rewards, done, _ = raw.step(model.predict(observations, deterministic=True)[0])
        total, length = total + rewards[0], length + 1
    assert (returns, lengths) == ([total], [length])


def test_a2c_trains_is_evaluated_and_monitored(tmp_path: Path) -> None:
    env = make_atari_env("Breakout", 4, seed=0, monitor_dir=tmp_path / "monitor", max_episode_frames=100)
    eval_env = make_atari_env("Breakout", 1, seed=1, max_episode_frames=100)
    callback = EvalCallback(eval_env, eval_freq=30, n_eval_episodes=2, log_path=str(tmp_path), verbose=0)
    model = A2C("CnnPolicy", env, n_steps=5, seed=0).learn(200, callback=callback)
    assert len(model.ep_info_buffer) == 4 * 2
    assert callback.evaluations_length == [[25, 25]]
    env.close()
    results = load_results(str(tmp_path / "monitor"))
    assert sorted(path.name for path in (tmp_path / "monitor").iterdir()) == [f"{i}.monitor.csv" for i in range(4)]
    assert list(results["l"]) == [25] * 8
    assert sorted(results["r"]) == sorted(episode["r"] for episode in model.ep_info_buffer)
