"""Negative transfer: a start from an initialization that falls behind starts from scratch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from leap_rl.core import LearningCurve
from leap_rl.core.lead import FEWEST_SEEDS, NEGATIVE, lead
from leap_rl.transfer.episodes import Episodes

_log = logging.getLogger(__name__)


class WatchTransfer(Episodes):
    """
    Compare a training with others of the same task that started at random, as it goes: ``transfer/lead`` in TensorBoard
    is how far it is ahead, in standard deviations over their seeds. It warns when it falls behind by more than two, and
    again only after it had caught up. After ``steps`` nothing is known of them, and nothing said.

    :param from_scratch: of each seed the steps and the moving averages of the returns, both of shape ``(n,)``
    :param steps: for so many steps the others learned
    :raises ValueError: with fewer than three seeds, whose spread says nothing
    """

    def __init__(self, from_scratch: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> None:
        super().__init__()
        curves = [(np.asarray(steps), np.asarray(values)) for steps, values in from_scratch if len(steps)]
        if len(curves) < FEWEST_SEEDS:
            raise ValueError(
                f"{len(curves)} curves from scratch: at least {FEWEST_SEEDS} seeds are needed to know how much they "
                "differ"
            )
        self.from_scratch = curves
        self.known_for = steps
        self.is_behind = False

    def _on_rollout_end(self) -> None:
        if len(self.returns) < LearningCurve.window or self.num_timesteps > self.known_for:
            return
        known = [values[steps <= self.num_timesteps] for steps, values in self.from_scratch]
        now = np.array([values[-1] for values in known if len(values)])
        own = float(np.mean(self.returns[-LearningCurve.window :]))
        ahead = lead(own, now)
        if math.isnan(ahead):
            return
        self.logger.record("transfer/lead", ahead)
        if ahead < NEGATIVE and not self.is_behind:
            _log.warning(
                "negative transfer after %s steps: the last %d episodes returned %.1f; started at random they returned "
                "%.1f ± %.1f over %d seeds",
                f"{self.num_timesteps:,}",
                LearningCurve.window,
                own,
                now.mean(),
                now.std(ddof=1),
                len(now),
            )
        self.is_behind = ahead < NEGATIVE
