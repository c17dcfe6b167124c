"""Atari games as an SB3 ``VecEnv``, on ALE's native vector environment or on an emulator each."""

import difflib
import inspect
import os
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from leap_rl.atari.emulator import Emulators, action_set
from leap_rl.atari.games import flavour_of

PREPROCESSING_VERSION = "ale-vector-2"
"""
What an agent sees and what its actions do: ALE's native frame skip, max-pooling, grey levels from the palette, resizing
and frame stack, and this module's FIRE at the start of a game and after a lost life. Agents and initializations are
comparable only where it is the same; whoever changes any of this gives it a new version. See docs/preprocessing.md.
"""

LARGEST_OBSERVATIONS = 4 * 2**30
"""Bytes of the observations of one step; more would be taken for each, until no memory is left."""


class GameView:
    """
    One of the games of an :class:`AtariVecEnv`, as ``get_attr``, ``set_attr`` and ``env_method`` see it. What a user
    sets with ``set_attr`` is kept here.

    :param vec_env: The environment the game belongs to
    :param index: Its place there
    """

    def __init__(self, vec_env: "AtariVecEnv", index: int) -> None:
        # Weak: a cycle would keep the native threads of a forgotten environment alive until the garbage is collected.
        self._vec_env: AtariVecEnv = weakref.proxy(vec_env)
        self._index = index
        self.game = vec_env.flavours[index].name
        self.render_mode = vec_env.render_mode

    @property
    def lives(self) -> int:
        """Lives left in the running game; 0 in a game without lives."""
        return int(self._vec_env.lives[self._index])

    def get_action_meanings(self) -> list[str]:
        """What the actions do, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``."""
        return list(self._vec_env.action_meanings)

    def render(self) -> np.ndarray:
        """
        The screen, in colour, as a person would see it. ALE's native environment gives no access to it (``n_threads=1``
        does without that one): there it is the newest frame that the agent sees, as small and as grey.

        :return: uint8, shape (210, 160, 3) in most games, or (screen_size, screen_size, 3), red, green and blue
        :raises RuntimeError: Before the first ``reset()``
        """
        return self._vec_env.screen(self._index)


class AtariVecEnv(VecEnv):
    """
    Atari games behind SB3's ``VecEnv`` interface: copies of one, or of several flavours and games.

    Copies of one game in its default flavour on more than one thread are run by ALE's native environment, all others by
    an emulator each, on one thread. Both give the same observations, rewards and ends, to the bit.

    An observation is a stack of frames, channels first: uint8 of shape (frame_stack, screen_size, screen_size), or
    (3 * frame_stack, screen_size, screen_size) in colour, the newest frame last. An episode, for the agent, ends with
    the game, at ``max_episode_frames``, and with each lost life if ``terminal_on_life_loss``. The infos hold

    - ``lives``: lives left after the step; 0 when the game is over,
    - ``TimeLimit.truncated``: whether the game was cut off by ``max_episode_frames``,
    - ``terminal_observation``, at every end of an episode,
    - ``episode``, only where the game itself ended or was cut off: return ``r`` before clipping, length ``l`` in agent
      steps and time ``t`` in seconds, as SB3's ``Monitor`` reports it. So ``evaluate_policy``, ``EvalCallback`` and
      ``ep_rew_mean`` score whole games.

    ``reset()`` always starts new games, also in the middle of one.

    :param game: The game, in any spelling that :func:`~leap_rl.atari.games.rom_id` takes, or a flavour of it, such as
        ``SpaceInvaders-m3-d1``; a sequence of them is given to the environments in turn, from the first one again
        after the last
    :param n_envs: Number of environments, at least as many as games
    :param mode: Of the game, as ALE counts them. None: that of its name, or its default
    :param difficulty: Of the game, as ALE counts them. None: that of its name, or its default
    :param noop_max: A game starts with fewer than this many frames of waiting, drawn at random; 0 and 1 mean none
    :param frame_skip: Emulator frames per agent step
    :param screen_size: Height and width of the observations, in pixels
    :param terminal_on_life_loss: Whether a lost life ends the episode for the agent. The game goes on.
    :param clip_reward: True clips rewards to [-1, 1], a positive number c to [-c, c], False not at all
    :param action_repeat_probability: Probability that the emulator repeats its last action in a frame (sticky actions)
    :param frame_stack: Number of frames in an observation
    :param grayscale: Whether frames have one channel of grey instead of three of colour
    :param full_action_space: Whether all games have ALE's 18 actions, instead of the ones they need
    :param max_episode_frames: Emulator frames after which a game is cut off
    :param n_threads: Number of native threads. None: as many as cores. The results do not depend on it, but with 1
        ``render()`` shows the screen of any game, in colour.
    :param render_mode: ``"rgb_array"`` or None
    :param monitor_dir: A folder for the episodes of environment i, as ``{i}.monitor.csv``, for SB3's ``load_results``.
        None writes nothing.
    :raises ValueError: If the game is unknown or a setting out of range
    """

    def __init__(
        self,
        game: str | Sequence[str],
        n_envs: int = 1,
        *,
        mode: int | None = None,
        difficulty: int | None = None,
        noop_max: int = 30,
        frame_skip: int = 4,
        screen_size: int = 84,
        terminal_on_life_loss: bool = True,
        clip_reward: bool | float = True,
        action_repeat_probability: float = 0.0,
        frame_stack: int = 4,
        grayscale: bool = True,
        full_action_space: bool = False,
        max_episode_frames: int = 108_000,
        n_threads: int | None = None,
        render_mode: str | None = "rgb_array",
        monitor_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        # What the native code makes of such values is a crash or nonsense, so none of them gets there.
        for name, value, lowest, highest in (
            ("n_envs", n_envs, 1, 4_096),
            ("noop_max", noop_max, 0, 10_000),
            ("frame_skip", frame_skip, 1, 1_000),
            ("screen_size", screen_size, 1, 1_024),
            ("frame_stack", frame_stack, 1, 256),
            ("max_episode_frames", max_episode_frames, 1, 2**31 - 1),
            ("n_threads", 1 if n_threads is None else n_threads, 1, 1_024),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not lowest <= value <= highest:
                raise ValueError(f"{name} must be an integer from {lowest:,} to {highest:,}, not {value!r}.")
        for name, switch in (
            ("terminal_on_life_loss", terminal_on_life_loss),
            ("grayscale", grayscale),
            ("full_action_space", full_action_space),
        ):
            if not isinstance(switch, bool | np.bool):
                raise ValueError(f"{name} must be True or False, not {switch!r}.")
        number = int | float | np.integer | np.floating
        if not (isinstance(action_repeat_probability, number) and 0 <= action_repeat_probability < 1):
            raise ValueError(f"action_repeat_probability must be in [0, 1), not {action_repeat_probability!r}.")
        if clip_reward is not False and not (isinstance(clip_reward, number) and 0 < clip_reward < np.inf):
            raise ValueError(f"clip_reward must be True, False or a positive number, not {clip_reward!r}.")
        if not (render_mode is None or (isinstance(render_mode, str) and render_mode == "rgb_array")):
            raise ValueError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}.")
        # NumPy's integers would overflow below, and the native code does not take all of them.
        n_envs, noop_max, frame_skip, screen_size, frame_stack, max_episode_frames = map(
            int, (n_envs, noop_max, frame_skip, screen_size, frame_stack, max_episode_frames)
        )
        channels = frame_stack if grayscale else 3 * frame_stack
        needed = n_envs * channels * screen_size**2
        if needed > LARGEST_OBSERVATIONS:
            raise ValueError(
                f"n_envs must be smaller: observations of {n_envs:,} environments, {channels} x {screen_size} x "
                f"{screen_size}, are {needed / 2**30:,.0f} GiB each step; so must frame_stack or screen_size."
            )

        games = [game] if isinstance(game, str) else game
        if not isinstance(games, Sequence) or not all(isinstance(name, str) for name in games):
            raise ValueError(f"game must be a name or a sequence of names, not {game!r}.")
        if not games or n_envs < len(games):
            raise ValueError(f"n_envs={n_envs} environments can't hold {len(games)} games: give each at least one.")
        named = [flavour_of(name, mode, difficulty) for name in games]
        self.flavours = [named[index % len(named)] for index in range(n_envs)]
        self.game = ", ".join(dict.fromkeys(flavour.name for flavour in named))
        self.render_mode = render_mode
        self.games = [GameView(self, index) for index in range(n_envs)]
        self._terminal_on_life_loss = terminal_on_life_loss
        self._max_reward = None if clip_reward is False else float(clip_reward)
        action_sets = {tuple(action_set(flavour.rom, full_action_space)): flavour for flavour in named}
        if len(action_sets) > 1:
            sizes = ", ".join(f"{flavour.game} {len(actions)}" for actions, flavour in action_sets.items())
            raise ValueError(f"games of different actions ({sizes}) need full_action_space=True.")
        self.action_meanings = [action.name for action in next(iter(action_sets))]
        shared: dict[str, Any] = {
            "full_action_space": bool(full_action_space),
            "noop_max": noop_max,
            "grayscale": bool(grayscale),
        }
        self._native: AtariVectorEnv | Emulators | None
        if len(set(self.flavours)) == 1 and named[0].is_default and n_envs > 1 and _threads(n_threads) > 1:
            # With life_loss_info the native `terminated` would also mean a lost life, whose `final_obs` is never
            # written. Without it `terminated` is the end of the game, and lost lives show in `lives`.
            self._native = AtariVectorEnv(
                named[0].rom,
                n_envs,
                num_threads=int(n_threads or 0),
                max_num_frames_per_episode=max_episode_frames,
                repeat_action_probability=float(action_repeat_probability),
                autoreset_mode=AutoresetMode.SAME_STEP,
                img_height=screen_size,
                img_width=screen_size,
                stack_num=frame_stack,
                frameskip=frame_skip,
                episodic_life=False,
                life_loss_info=False,
                reward_clipping=False,
                # It presses FIRE before the waiting, and then Breakout's first ball is the same in every game.
                use_fire_reset=False,
                **shared,
            )
        else:
            self._native = Emulators(
                self.flavours,
                screen_size,
                frame_stack,
                max_frames=max_episode_frames,
                action_repeat_probability=float(action_repeat_probability),
                frame_skip=frame_skip,
                **shared,
            )
        self._n_actions = len(self.action_meanings)
        self._fire = self.action_meanings.index("FIRE") if "FIRE" in self.action_meanings else None
        self._grayscale = grayscale
        super().__init__(
            n_envs,
            spaces.Box(0, 255, (channels, screen_size, screen_size), np.uint8),
            spaces.Discrete(self._n_actions),
        )

        self.lives = np.zeros(n_envs, dtype=np.int32)
        self._observations: np.ndarray | None = None
        self._must_fire = np.zeros(n_envs, dtype=bool)
        self._returns = np.zeros(n_envs, dtype=np.float64)
        self._lengths = np.zeros(n_envs, dtype=np.int64)
        self._is_stepping = False
        self._start_time = time.time()
        self._writers: list[ResultsWriter] = []
        if monitor_dir is not None:
            for i, flavour in enumerate(self.flavours):
                header: dict[str, float | str] = {"t_start": self._start_time, "env_id": f"ALE/{flavour.name}-v5"}
                self._writers.append(ResultsWriter(os.path.join(monitor_dir, str(i)), header))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Set the seeds of all games, which they take at the next ``reset()``.

        They are drawn from ``seed``, not counted up from it: else runs seeded 0 to 4 would share most of their games.

        :param seed: A non-negative integer; None draws fresh seeds
        :return: The seed of each game
        :raises ValueError: If it is none
        """
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
            raise ValueError(f"seed must be a non-negative integer or None, not {seed!r}.")
        # ALE holds a seed in a signed 32-bit integer, where a negative one means "none".
        self._seeds = (np.random.SeedSequence(seed).generate_state(self.num_envs) & 0x7FFFFFFF).tolist()
        return self._seeds

    def reset(self) -> np.ndarray:
        """
        Start a new game in every environment, with the seeds of the last ``seed()`` since the last ``reset()``.

        :return: The observations, uint8 of shape (n_envs, channels, screen_size, screen_size)
        :raises RuntimeError: After ``close()``
        """
        native = self._open_native()
        if self._is_stepping:  # the native code would mix the results of the step into those of the reset
            self._is_stepping = False
            native.recv()
        seeds = None if None in self._seeds else np.array(self._seeds)
        observations, info = native.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        self.lives = info["lives"]
        self.reset_infos = [{"lives": lives} for lives in self.lives.tolist()]
        self._must_fire[:] = True
        self._returns[:] = 0
        self._lengths[:] = 0
        self._observations = self._channels_first(observations)
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """
        Send the actions to the native threads.

        :param actions: Integers in [0, number of actions), shape (n_envs,)
        :raises ValueError: If they are not. The native code would never return from such a step.
        :raises RuntimeError: After ``close()``, before ``reset()``, and before the last step was waited for
        """
        native = self._open_native()
        if self._observations is None:
            raise RuntimeError("Call reset() before the first step.")
        if self._is_stepping:
            raise RuntimeError("Call step_wait() before the next step_async().")
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"{self.game} takes integer actions of shape ({self.num_envs},), "
                f"not {actions.dtype} of shape {actions.shape}: {actions.tolist()}."
            )
        if actions.min() < 0 or actions.max() >= self._n_actions:
            wrong = next(action for action in actions.tolist() if not 0 <= action < self._n_actions)
            raise ValueError(f"{self.game} has {self._n_actions} actions, 0 to {self._n_actions - 1}, not {wrong}.")
        actions = actions.astype(np.int64)
        # At the start and after a lost life some games (Breakout) wait for FIRE. SB3's wrappers press it inside
        # reset(); one environment of a vector cannot be stepped alone, so here FIRE takes the place of the action. What
        # the agent chose has then no effect, so the expectation of that step's policy gradient, given the rest, is
        # zero: noise, not bias.
        if self._fire is not None and self._must_fire.any():
            actions[self._must_fire] = self._fire
        # Before the call: Ctrl-C is raised when it returns, and what is on its way must not be forgotten then.
        self._is_stepping = True
        native.send(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """
        Receive what the native threads made of the step.

        :return: Observations, uint8 of shape (n_envs, channels, screen_size, screen_size); rewards, float32 of shape
            (n_envs,); ends of episodes, bool of shape (n_envs,); and an info per environment
        :raises RuntimeError: After ``close()`` and before ``step_async()``
        """
        native = self._open_native()
        if not self._is_stepping:
            raise RuntimeError("Call step_async() before step_wait().")
        self._is_stepping = False
        observations, rewards, terminated, truncated, info = native.recv()
        observations = self._channels_first(observations)
        self._observations = observations
        lives = info["lives"]
        is_over = terminated | truncated
        # As SB3's EpisodicLifeEnv: Qbert stays at 0 lives for some frames before its game is over. In a row whose game
        # is over, `lives` are already those of the next game.
        has_lost_life = (lives < self.lives) & (lives > 0) & ~is_over
        self._must_fire = has_lost_life | is_over
        dones = is_over | has_lost_life if self._terminal_on_life_loss else is_over
        self._returns += rewards
        self._lengths += 1

        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False, "lives": left} for left in lives.tolist()]
        if dones.any():
            for i in np.flatnonzero(dones).tolist():
                if is_over[i]:
                    self.reset_infos[i] = {"lives": infos[i]["lives"]}
                    infos[i]["lives"] = 0 if terminated[i] else int(self.lives[i])
                    infos[i]["TimeLimit.truncated"] = bool(truncated[i])
                    infos[i]["terminal_observation"] = self._channels_first(info["final_obs"][i : i + 1])[0]
                    infos[i]["episode"] = self._finish_episode(i)
                else:
                    infos[i]["terminal_observation"] = observations[i].copy()
        self.lives = lives
        rewards = rewards.astype(np.float32)
        if self._max_reward is not None:
            np.clip(rewards, -self._max_reward, self._max_reward, out=rewards)
        return observations, rewards, dones, infos

    def close(self) -> None:
        """
        End the native threads and close the monitor files. Closing twice is fine. Another environment of the same game
        is made faster then, see ``leap_rl.atari.emulator``.
        """
        native, self._native = self._native, None
        if isinstance(native, Emulators):
            native.close()
        for writer in self._writers:
            writer.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        :return: The screen of each environment, or the newest frame that its agent sees (see :meth:`GameView.render`);
            None each if ``render_mode`` is None
        :raises RuntimeError: Before the first ``reset()``
        """
        return [None if self.render_mode is None else game.render() for game in self.games]

    def screen(self, index: int) -> np.ndarray:
        """
        :param index: Which environment
        :return: As :meth:`GameView.render`
        :raises RuntimeError: Before the first ``reset()``
        """
        if self._observations is None:
            raise RuntimeError("There is nothing to render before the first reset().")
        if isinstance(self._native, Emulators):
            return self._native.copies[index].screen()
        if self._grayscale:
            return np.repeat(self._observations[index, -1, :, :, None], 3, axis=2)
        return np.ascontiguousarray(self._observations[index, -3:].transpose(1, 2, 0))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: An attribute of :class:`GameView`, or one set with :meth:`set_attr`
        :param indices: Of which environments, None: all
        :return: Its value in each
        :raises AttributeError: If there is none of this name
        """
        return [getattr(game, attr_name) for game in self._target_games(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: The name under which :meth:`get_attr` will find the value. The games do not look at it.
        :param value: The value
        :param indices: In which environments, None: all
        """
        for game in self._target_games(indices):
            setattr(game, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        :param method_name: A method of :class:`GameView`
        :param method_args: Its positional arguments
        :param indices: Of which environments, None: all
        :param method_kwargs: Its keyword arguments
        :return: What it returned for each
        :raises AttributeError: If there is none of this name
        """
        return [getattr(game, method_name)(*method_args, **method_kwargs) for game in self._target_games(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: A gymnasium wrapper
        :param indices: Of which environments, None: all
        :return: True for SB3's ``Monitor``, whose work this class does: whole games, before rewards are clipped
        """
        return [wrapper_class is Monitor for _ in self._target_games(indices)]

    def _target_games(self, indices: VecEnvIndices) -> Iterable[GameView]:
        return [self.games[i] for i in self._get_indices(indices)]

    def _open_native(self) -> AtariVectorEnv | Emulators:
        if self._native is None:
            raise RuntimeError(f"This environment of {self.game} is closed.")
        return self._native

    def _channels_first(self, observations: np.ndarray) -> np.ndarray:
        """Grey frames come as (n, stack, height, width); colour as (n, stack, height, width, 3)."""
        if self._grayscale:
            return observations
        n, stack, height, width, channels = observations.shape
        observations = observations.transpose(0, 1, 4, 2, 3).reshape(n, stack * channels, height, width)
        return np.ascontiguousarray(observations)  # a stack of one is reshaped without a copy

    def _finish_episode(self, index: int) -> dict[str, float]:
        """Report and forget the return and the length of the game that has ended in environment ``index``."""
        episode = {
            "r": float(self._returns[index]),
            "l": int(self._lengths[index]),
            "t": round(time.time() - self._start_time, 6),
        }
        self._returns[index] = 0
        self._lengths[index] = 0
        if self._writers:
            self._writers[index].write_row(episode)
        return episode


def _threads(n_threads: int | None) -> int:
    """How many there would be."""
    return (os.cpu_count() or 1) if n_threads is None else n_threads


def make_atari_env(
    game: str | Sequence[str],
    n_envs: int = 1,
    seed: int | None = None,
    monitor_dir: str | os.PathLike[str] | None = None,
    wrapper_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> AtariVecEnv:
    """
    Make copies of an Atari game, seeded: what SB3's ``make_atari_env`` is, on ALE's own emulators; or of its flavours::

        make_atari_env("SpaceInvaders", n_envs=8, mode=3, difficulty=1)
        make_atari_env(["SpaceInvaders", "SpaceInvaders-m3-d1"], n_envs=8)  # four of each

    Every spelling of a game makes the same environment. The names of gymnasium's ids carry frame skip and sticky
    actions (``ALE/Pong-v5`` has them, ``PongNoFrameskip-v4`` has not); here these are arguments, and sticky actions are
    off unless ``action_repeat_probability`` is given.

    :param game: The game or a flavour of it, in any spelling, or a sequence of them, as :class:`AtariVecEnv` takes it
    :param n_envs: Number of environments
    :param seed: Seed of the first ``reset()``; None draws fresh ones
    :param monitor_dir: A folder for the monitor files; None writes none
    :param wrapper_kwargs: Settings under the names of SB3's ``AtariWrapper``, or any other of :class:`AtariVecEnv`
    :param kwargs: The same, as keyword arguments
    :return: The environment
    :raises TypeError: If a setting is unknown or given twice
    :raises ValueError: If the game is unknown or a setting out of range
    """
    wrapper_kwargs = wrapper_kwargs or {}
    known = inspect.signature(AtariVecEnv).parameters.keys() - {"game", "n_envs", "monitor_dir"}
    for name in (*wrapper_kwargs, *kwargs):
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise TypeError(f"make_atari_env has no setting {name!r}. Did you mean {nearest!r}?")
        if name in wrapper_kwargs and name in kwargs:
            raise TypeError(f"make_atari_env was given {name!r} twice, in wrapper_kwargs too.")
    env = AtariVecEnv(game, n_envs, monitor_dir=monitor_dir, **wrapper_kwargs, **kwargs)
    env.seed(seed)
    return env
