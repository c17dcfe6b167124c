"""
Games on ALE's own interface, one emulator each: what its native vector environment does, for any mode and difficulty.

The native environment of one game knows the default flavour alone. This one gives the same observations, rewards and
ends to the bit, costs as much on one thread, and its copies may be of different games. It has one thread: ALE's
interface does not release Python's global lock.

To load a ROM takes ALE a tenth of a second, nearly all of it for a table of colours that nobody looks at. So a game
that was closed is kept, as it was when it was loaded, for whoever needs another copy of it in this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from ale_py import Action, ALEInterface, ALEState

from leap_rl.atari.games import Flavour, cartridge, rom_file


def action_set(rom: str, full: bool) -> list[Action]:
    """
    :param rom: id of a game's ROM
    :param full: all 18 actions, instead of those that the game needs
    """
    ale = cartridge(rom)
    return list(ale.getLegalActionSet() if full else ale.getMinimalActionSet())


class _Waiting:
    """
    How many frames a game waits at its start, by the native environment's draws: libstdc++'s uniform integers (Lemire,
    2019) from its Mersenne twister.

    :param noop_max: fewer frames than this
    """

    def __init__(self, noop_max: int) -> None:
        self.range = max(noop_max, 1)
        self.seed(np.random.SeedSequence().generate_state(1)[0])

    def seed(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed)._bit_generator  # by its one 32-bit seed, as C++ does

    def draw(self) -> int:
        product = int(self._twister.random_raw()) * self.range
        while product % 2**32 < 2**32 % self.range:
            product = int(self._twister.random_raw()) * self.range
        return product >> 32


_closed: deque[tuple[str, ALEInterface, ALEState]] = deque(maxlen=128)
"""
Games that were closed: the ROM, the game, and how it was when it was loaded; 0.7 MB each, the oldest are forgotten.
None of them draws from the seed that ALE takes with a load.
"""


class Emulator:
    """
    One copy of a game.

    :param flavour: the game, its mode and difficulty
    :param max_frames: after which an episode is cut off
    :param action_repeat_probability: of sticky actions
    :param full_action_space: all 18 actions
    :param frame_skip: frames per step; the last two are maximized over
    :param noop_max: fewer frames than this are waited at the start of an episode
    :param grayscale: grey or RGB
    """

    def __init__(
        self,
        flavour: Flavour,
        max_frames: int,
        action_repeat_probability: float,
        full_action_space: bool,
        frame_skip: int,
        noop_max: int,
        grayscale: bool,
    ) -> None:
        self.flavour = flavour
        self.actions = action_set(flavour.rom, full_action_space)
        self.max_frames = max_frames
        self.frame_skip = frame_skip
        self.waiting = _Waiting(noop_max)
        # Sticky actions do, and the hidden rooms of Adventure's later modes.
        self._draws = action_repeat_probability > 0 or flavour.rom == "adventure"
        self._loaded: ALEState | None = None
        kept = None if self._draws else next((kept for kept in _closed if kept[0] == flavour.rom), None)
        if kept is not None:
            _closed.remove(kept)
            _, self.ale, self._loaded = kept
        else:
            self.ale = ALEInterface()
            self.ale.setFloat("repeat_action_probability", action_repeat_probability)
        self._get_screen = self.ale.getScreenGrayscale if grayscale else self.ale.getScreenRGB
        self._screens: list[np.ndarray] = []
        self._channels = () if grayscale else (3,)
        self.frames = 0
        self.is_over = False

    @property
    def is_truncated(self) -> bool:
        return self.frames >= self.max_frames and not self.is_over

    def reset(self, seed: int | None) -> None:
        """
        Begin an episode.

        :param seed: of sticky actions and waiting; ``None`` goes on with those that there are
        """
        ale = self.ale
        if seed is not None or not self._screens:
            if seed is not None:
                self.waiting.seed(seed)
                ale.setInt("random_seed", seed)
            if self._loaded is not None:
                ale.restoreSystemState(self._loaded)
            else:
                ale.loadROM(rom_file(self.flavour.rom))  # which takes the seed
                self._loaded = None if self._draws else ale.cloneSystemState()
            ale.setMode(self.flavour.mode)
            ale.setDifficulty(self.flavour.difficulty)
            self._screens = [np.empty((*ale.getScreenDims(), *self._channels), dtype=np.uint8) for _ in range(2)]
        ale.reset_game()
        for _ in range(self.waiting.draw()):
            ale.act(Action.NOOP)
            if ale.game_over():
                ale.reset_game()
        self._get_screen(self._screens[0])
        self._screens[1].fill(0)
        self.frames, self.is_over = 0, False

    def step(self, action: int) -> float:
        """
        :param action: index of it
        :return: the reward of these frames
        """
        ale, chosen, reward = self.ale, self.actions[action], 0
        for left in range(self.frame_skip - 1, -1, -1):
            reward += ale.act(chosen)
            self.frames += 1
            self.is_over = ale.game_over()
            if self.is_over or self.frames >= self.max_frames:
                break  # with the screens of before, as the native environment
            if left < 2:
                self._get_screen(self._screens[left])
        return float(reward)

    def show(self, frame: np.ndarray) -> None:
        """:param frame: to write the maximum of the last two screens into, resized to it"""
        newest, before = self._screens
        np.maximum(newest, before, out=newest)
        cv2.resize(newest, frame.shape[1::-1], dst=frame, interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        """Keep what was loaded for another copy of this game; this one is not to be used again."""
        if self._loaded is not None:
            _closed.append((self.flavour.rom, self.ale, self._loaded))
            self._loaded = None

    def screen(self) -> np.ndarray:
        """What a person would see, uint8 of shape (height, width, 3), red, green and blue."""
        return self.ale.getScreenRGB()


class Emulators:
    """
    Copies of games, with what ``AtariVecEnv`` uses of ALE's native vector environment; episodes begin anew in the step
    that ends them.

    :param flavours: of the copies
    :param screen_size: height and width of the observations, in pixels
    :param frame_stack: frames in an observation
    :param settings: of each ``Emulator``
    """

    def __init__(self, flavours: Sequence[Flavour], screen_size: int, frame_stack: int, **settings: Any) -> None:
        self.copies = [Emulator(flavour, **settings) for flavour in flavours]
        channels = () if settings["grayscale"] else (3,)
        self._shape = (len(self.copies), frame_stack, screen_size, screen_size, *channels)
        self._observations = np.zeros(self._shape, dtype=np.uint8)
        self._actions: np.ndarray | None = None

    def reset(self, seed: np.ndarray | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """
        :param seed: of each copy, or ``None``
        :return: observations of shape (copies, frame_stack, screen_size, screen_size), with 3 channels last in colour;
            and ``lives``, int32 of shape (copies,)
        """
        self._observations = np.zeros(self._shape, dtype=np.uint8)
        for i, copy in enumerate(self.copies):
            copy.reset(None if seed is None else int(seed[i]))
            copy.show(self._observations[i, -1])
        return self._observations.copy(), {"lives": self._lives()}

    def send(self, actions: np.ndarray) -> None:
        """:param actions: an index for each copy"""
        self._actions = actions

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """
        Make the steps that were sent.

        :return: observations; rewards; which games are over; which were cut off; ``lives``, and in ``final_obs`` the
            last observation of what has ended
        """
        assert self._actions is not None
        actions, self._actions = self._actions.tolist(), None
        n = len(self.copies)
        observations = np.empty(self._shape, dtype=np.uint8)
        observations[:, :-1] = self._observations[:, 1:]
        rewards = np.empty(n)
        over, cut = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        info: dict[str, np.ndarray] = {}
        for i, copy in enumerate(self.copies):
            rewards[i] = copy.step(actions[i])
            copy.show(observations[i, -1])
            over[i], cut[i] = copy.is_over, copy.is_truncated
            if over[i] or cut[i]:
                final = info.setdefault("final_obs", np.zeros(self._shape, dtype=np.uint8))
                final[i] = observations[i]
                copy.reset(None)
                observations[i] = 0
                copy.show(observations[i, -1])
        self._observations = observations  # what is handed out may be written to
        return observations.copy(), rewards, over, cut, {**info, "lives": self._lives()}

    def close(self) -> None:
        for copy in self.copies:
            copy.close()

    def _lives(self) -> np.ndarray:
        return np.array([copy.ale.lives() for copy in self.copies], dtype=np.int32)
