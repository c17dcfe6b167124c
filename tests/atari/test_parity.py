"""
The native preprocessing against gymnasium's single environment and SB3's wrappers.

``pytest tests/atari/test_parity.py -m "slow or not slow" -s`` prints the tables of
docs/evidence/preprocessing/parity.md.
"""

import ale_py
import cv2
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv, WarpFrame
from stable_baselines3.common.env_util import make_atari_env as make_sb3_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from leap_rl.atari import PAPER_GAMES, game_name, make_atari_env

gym.register_envs(ale_py)


def grey(env: gym.Env) -> np.ndarray:
    """
    The emulator's screen in grey levels. AirRaid is a PAL game that makes ALE show it without colours, and ALE's
    grey levels are then wrong (docs/preprocessing.md); so there the two can't be the same, and ALE's are taken.
    """
    ale = env.unwrapped.ale
    if env.spec.kwargs["game"] == "air_raid":
        return ale.getScreenGrayscale().reshape(ale.getScreenDims())
    return cv2.cvtColor(ale.getScreenRGB(), cv2.COLOR_RGB2GRAY)


class GreyFrames(gym.Wrapper):
    """Keeps the grey emulator frames since the list was last emptied."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.frames: list[np.ndarray] = []

    def step(self, action):
        result = super().step(action)
        self.frames.append(grey(self.env))
        return result


class Reference:
    """One game behind SB3's wrappers, without its random no-ops, with FIRE where the adapter presses it."""

    def __init__(self, game: str) -> None:
        env = gym.make(f"ALE/{game_name(game)}-v5", frameskip=1, repeat_action_probability=0.0, max_episode_steps=-1)
        self.single = env.unwrapped
        self.grey = GreyFrames(env)
        self.env = WarpFrame(MaxAndSkipEnv(self.grey, skip=4))
        meanings = self.single.get_action_meanings()
        self.fire = meanings.index("FIRE") if "FIRE" in meanings else None
        # Once: a seed reloads the cartridge, and Assault plays its second game differently on a fresh one.
        self.start(seed=1)

    def start(self, seed: int | None = None) -> None:
        self.env.reset(seed=seed)
        self.lives = self.single.ale.lives()
        self.must_fire = True
        self.episode_return, self.length = 0.0, 0
        self.pooled = grey(self.single)

    def step(self, action: int) -> None:
        self.grey.frames = []
        if self.must_fire and self.fire is not None:
            action = self.fire
        frame, self.reward, self.is_over, truncated, _ = self.env.step(action)
        assert not truncated
        self.sb3_frame = frame[:, :, 0]
        lives = self.single.ale.lives()
        self.must_fire = self.has_lost_life = not self.is_over and 0 < lives < self.lives
        self.lives = lives
        self.episode_return += self.reward
        self.length += 1
        if not self.is_over:
            self.pooled = np.maximum(*self.grey.frames[-2:])
        elif len(self.grey.frames) == 4:  # the native code has captured the third frame, not the last one
            self.pooled = np.maximum(self.pooled, self.grey.frames[2])
        self.native_frame = cv2.resize(self.pooled, (84, 84), interpolation=cv2.INTER_AREA)


def compare(game: str, n_steps: int) -> tuple[np.ndarray, int]:
    """
    Play the same random actions in both and require equal results, step by step.

    :return: Of each step that does not end a game, the largest and the mean difference in grey levels between the
        newest frame and that of SB3's wrappers, shape (steps, 2); and the number of games that ended
    """
    env = make_atari_env(game, seed=0, noop_max=0, clip_reward=False, n_threads=1)
    reference = Reference(game)
    env.reset()
    rng = np.random.default_rng(0)
    differences, n_games = [], 0
    for _ in range(n_steps):
        action = int(rng.integers(env.action_space.n))
        reference.step(action)
        observations, rewards, dones, (info,) = env.step(np.array([action]))
        assert rewards[0] == reference.reward
        assert dones[0] == (reference.is_over or reference.has_lost_life)
        assert info["lives"] == (0 if reference.is_over else reference.lives)
        assert not info["TimeLimit.truncated"]
        assert ("terminal_observation" in info) == dones[0]
        assert ("episode" in info) == reference.is_over
        seen = info["terminal_observation"] if dones[0] else observations[0]
        np.testing.assert_array_equal(seen[-1], reference.native_frame)
        if reference.is_over:
            assert (info["episode"]["r"], info["episode"]["l"]) == (reference.episode_return, reference.length)
            n_games += 1
            reference.start()
            assert env.get_attr("lives") == [reference.lives]
        else:
            difference = np.abs(seen[-1].astype(int) - reference.sb3_frame)
            differences.append((difference.max(), difference.mean()))
    env.close()
    return np.array(differences), n_games


def check_parity(game: str, n_steps: int, n_games: int) -> None:
    differences, ended = compare(game, n_steps)
    largest, mean = differences[:, 0].max(), differences[:, 1].mean()
    print(f"\n| {game} | {largest} | {mean:.4f} | {(differences[:, 0] > 0).mean():.0%} | {ended} |")
    assert ended >= n_games
    # Only pixels where two moving or flickering things overlap differ: SB3 takes the larger of each colour.
    assert mean < 0.5 or game == "AirRaid"


@pytest.mark.parametrize(("game", "n_games"), [("Assault", 1), ("Breakout", 3)])
def test_steps_equal_those_of_a_single_environment(game: str, n_games: int) -> None:
    check_parity(game, 800, n_games)


@pytest.mark.slow
@pytest.mark.parametrize("game", PAPER_GAMES)
def test_steps_equal_those_of_a_single_environment_in_all_games(game: str) -> None:
    check_parity(game, 1200, 0)


class FollowTheBall:
    """Breakout, seen: move the paddle under the ball; one action in five is random."""

    def __init__(self, n_actions: int) -> None:
        self.rng = np.random.default_rng(0)
        self.n_actions = n_actions

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        actions = self.rng.integers(self.n_actions, size=len(observations))
        for i, frame in enumerate(observations[:, -1]):
            ball = np.flatnonzero(frame[38:74, 5:79].any(axis=0))
            paddle = np.flatnonzero(frame[76, 5:79])
            if self.rng.random() >= 0.2 and len(paddle):
                error = ball.mean() - paddle.mean() if len(ball) else 0
                actions[i] = 2 if error > 1.5 else 3 if error < -1.5 else 0
        return actions, state


class Random:
    """Uniform actions."""

    def __init__(self, n_actions: int) -> None:
        self.rng = np.random.default_rng(0)
        self.n_actions = n_actions

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        return self.rng.integers(self.n_actions, size=len(observations)), state


def scores(policy: type, env: VecEnv, n_episodes: int) -> np.ndarray:
    returns, _ = evaluate_policy(policy(env.action_space.n), env, n_episodes, return_episode_rewards=True)
    env.close()
    return np.array(returns)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "policy"),
    [("Breakout", FollowTheBall), ("SpaceInvaders", Random), ("MsPacman", Random), ("Qbert", Random)],
)
def test_a_policy_scores_as_behind_sb3s_wrappers(game: str, policy: type) -> None:
    n_episodes = 64
    sb3 = VecTransposeImage(VecFrameStack(make_sb3_atari_env(f"{game}NoFrameskip-v4", 8, seed=0), 4))
    theirs = scores(policy, sb3, n_episodes)
    ours = scores(policy, make_atari_env(game, 8, seed=0), n_episodes)
    errors = [np.std(returns, ddof=1) / np.sqrt(n_episodes) for returns in (ours, theirs)]
    # 2.5 standard errors: a confidence of 95 % that all four games at once are inside (Bonferroni)
    difference, margin = ours.mean() - theirs.mean(), 2.5 * np.hypot(*errors)
    print(
        f"\n| {game} | {policy.__name__} | {ours.mean():.1f} ± {errors[0]:.1f} | {theirs.mean():.1f} ± {errors[1]:.1f} "
        f"| {difference:.1f} ± {margin:.1f} |"
    )
    assert abs(difference) < margin
