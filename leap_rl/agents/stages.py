"""Where the time of a learning process goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.vec_env import VecEnv


class Stages:
    """
    Seconds of a learning process: in the environments; in acting, with buffers and callbacks; in learning; and in
    observing that. On a GPU, which computes behind the program's back, each has what the program waited for.

    :param steps: summed over environments, that were done before
    """

    def __init__(self, steps: int = 0) -> None:
        self.first = steps
        self.environment = self.act = self.learn = self.observe = 0.0

    @contextmanager
    def collecting(self, env: VecEnv) -> Iterator[None]:
        """Steps of the environments are told from the rest of the block, which is acting."""
        step, spent = env.step, 0.0

        def timed(actions: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            stepped = step(actions)
            spent += time.perf_counter() - began
            return stepped

        started = time.perf_counter()
        env.step = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            del env.step  # the class's shows again
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
