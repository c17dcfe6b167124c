"""What a person watches while one agent learns."""

from __future__ import annotations

import math
import sys

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from leap_rl.running.progress import JobsProgress, return_spec

LINES = 10
"""Where there is no terminal, which a bar needs."""


class ScoreBar(BaseCallback):
    """
    The bar that all commands have, with the mean return of the last episodes beside it; some lines, if the output is
    no terminal.

    :param bar: drawn by whoever made it
    :param what: is learned
    :param steps: to come
    """

    def __init__(self, bar: JobsProgress, what: str, steps: int) -> None:
        super().__init__()
        self.bar, self.what, self.steps = bar, what, steps

    def _on_training_start(self) -> None:
        self._before = self._said = self.num_timesteps
        self.bar.jobs([self.what], [self.steps])

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        score = float(np.mean(returns)) if returns else math.nan
        self.bar.job_at(0, self.num_timesteps - self._before, score)
        if not sys.stderr.isatty() and self.num_timesteps - self._said >= self.steps / LINES:
            self._said = self.num_timesteps
            scores = "no episode has ended" if math.isnan(score) else f"mean return {score:{return_spec(score)}}"
            print(f"{self.num_timesteps:,} steps: {scores}", flush=True)
