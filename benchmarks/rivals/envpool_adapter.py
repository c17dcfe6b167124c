"""EnvPool's Atari games behind SB3's ``VecEnv``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from envpool_games import make_pool
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv


class EnvPoolVecEnv(VecEnv):
    """
    EnvPool begins an episode in the step after the one that ended it, whatever the action; SB3 expects it in the same.
    So environments that have ended make that step at once, on their own. (Its ``reset`` would begin a new game after
    each lost life.)

    ``infos`` hold what SB3 looks for: ``terminal_observation``, ``TimeLimit.truncated``, and ``episode`` where a whole
    game has ended, with its return before clipping.
    """

    def __init__(self, game: str, n_envs: int, seed: int, n_threads: int) -> None:
        self.pool = make_pool(game, n_envs, seed, n_threads)
        n_actions = int(self.pool.action_space.n)
        super().__init__(n_envs, spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(n_actions))
        self.started = time.time()
        self.returns, self.lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)

    def reset(self) -> np.ndarray:
        self.returns[:], self.lengths[:] = 0, 0
        observations, _ = self.pool.reset()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self.pool.send(actions.astype(np.int32))

    def step_wait(self) -> Any:
        observations, rewards, terminated, truncated, info = self.pool.recv()
        dones = terminated | truncated
        self.returns += info["reward"]
        self.lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        ended = np.flatnonzero(dones)
        if len(ended):
            over = truncated | (info["terminated"] != 0)  # the game, not a life
            for i in ended.tolist():
                infos[i]["terminal_observation"] = observations[i].copy()
                infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                if over[i]:
                    played = {"r": float(self.returns[i]), "l": int(self.lengths[i]), "t": time.time() - self.started}
                    infos[i]["episode"] = played
                    self.returns[i], self.lengths[i] = 0, 0
            first = self.pool.step(np.zeros(len(ended), dtype=np.int32), ended.astype(np.int32))
            observations[first[4]["env_id"]] = first[0]
        return observations, rewards, dones, infos

    def close(self) -> None:
        self.pool.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":  # SB3 asks for it
            return [None] * self.num_envs
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
