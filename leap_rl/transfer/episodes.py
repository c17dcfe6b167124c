"""The episodes of a training."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from leap_rl.core import LearningCurve


class Episodes(BaseCallback):
    """Collects the returns of the episodes that end, and the steps at which they did."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps)
                self.returns.append(float(info["episode"]["r"]))
        return True

    def curve(self, budget: int) -> LearningCurve:
        """:param budget: of the training, in steps summed over environments"""
        return LearningCurve(np.asarray(self.steps), np.asarray(self.returns), budget)
