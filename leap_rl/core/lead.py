"""How far a start is ahead of random ones, negative transfer (it lies clearly behind them), and what few seeds tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

NEGATIVE = -2.0
"""A lead below this is negative transfer."""
FEWEST_SEEDS = 3
"""Random starts that a spread is told from: that of two is next to nothing as often as not."""


def learner_of(start: str) -> str:
    """``"leap"`` for ``"leap/0"``, the first of its meta-trainings; a start that is none is its own."""
    return start.partition("/")[0]


def by_learner(starts: Iterable[str]) -> dict[str, list[str]]:
    """The starts of each learner: its meta-trainings, or one start that is none."""
    found: dict[str, list[str]] = {}
    for start in starts:
        found.setdefault(learner_of(start), []).append(start)
    return found


def lead(
    own: float | Sequence[float] | np.ndarray, random: Sequence[float] | np.ndarray, maximize: bool = True
) -> float:
    """
    In standard deviations of the random starts over their seeds: (mean of own − mean of random) / spread of random.

    :param own: areas, returns or errors, one for each seed
    :param random: the same of random starts
    :param maximize: whether more is better, as of returns; if not, less, as of errors
    :return: NaN where nothing of the own is known, or no spread of the random starts: fewer than three seeds, no
        difference, or one that is not finite
    """
    reference = np.asarray(random, dtype=np.float64)
    spread = float(reference.std(ddof=1)) if len(reference) >= FEWEST_SEEDS else 0.0
    if not spread > 0:
        return float("nan")
    if not np.size(own):
        return float("nan")
    difference = float(np.mean(own)) - float(reference.mean())
    return (difference if maximize else -difference) / spread


def too_narrow(n_seeds: int) -> str:
    """What is to be said of bootstrap intervals of few seeds; ``benchmarks/coverage.py`` measured it."""
    if n_seeds < 5:
        return "too narrow, of so few seeds: of three they are the range, which holds the truth three times in four"
    if n_seeds < 10:
        return (
            "too narrow of one game alone: of five seeds they hold the truth nine times in ten, and less often where "
            "it is a probability near 0 or 1"
        )
    return ""
