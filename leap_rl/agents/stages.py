"""Where the time of a learning process goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class TimedVecEnv(VecEnvWrapper):
    """Environments, and the seconds that they took for steps."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.seconds = 0.0

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        began = time.perf_counter()
        stepped = self.venv.step(actions)
        self.seconds += time.perf_counter() - began
        return stepped

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()

    def reset(self) -> VecEnvObs:
        return self.venv.reset()


class Stages:
    """
    Seconds of a learning process: in the environments; in acting, with buffers and callbacks; in learning; and in
    observing that. On a GPU, which computes behind the program's back, each has what the program waited for.

    :param steps: summed over environments, that were done before
    """

    def __init__(self, steps: int = 0) -> None:
        self.first = steps
        self.environment = self.act = self.learn = self.observe = 0.0
        self._timed: TimedVecEnv | None = None

    @contextmanager
    def collecting(self, env: VecEnv) -> Iterator[VecEnv]:
        """Steps made in the environments that it gives are told from the rest, which is acting."""
        if self._timed is None or self._timed.venv is not env:
            self._timed = TimedVecEnv(env)
        timed, before, started = self._timed, self._timed.seconds, time.perf_counter()
        try:
            yield timed
        finally:
            spent = timed.seconds - before
            self.environment += spent
            self.act += time.perf_counter() - started - spent

    def per_step(self, steps: int) -> dict[str, float]:
        """
        :param steps: summed over environments, that are done
        :return: microseconds per step, by what TensorBoard calls them
        """
        done = max(1, steps - self.first)
        stages = {"environment": self.environment, "act": self.act, "learn": self.learn, "observe": self.observe}
        return {f"time/{name}_us": 1e6 * seconds / done for name, seconds in stages.items()}
