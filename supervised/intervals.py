"""Intervals of 95 %, over the seeds of an experiment, and what they make of a difference."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

from leap_rl.core.lead import NEGATIVE, lead

_log = logging.getLogger(__name__)


def bootstrap_interval(values: Sequence[np.ndarray], reps: int = 2000) -> tuple[float, float]:
    """
    Of the mean, by the bootstrap: seeds are drawn first, then tasks within them.

    :param values: of the tasks, by seed, as many of each
    """
    rng, stacked = np.random.default_rng(0), np.stack(values)
    n_seeds, n_tasks = stacked.shape
    seeds = rng.integers(n_seeds, size=(reps, n_seeds, 1))
    tasks = rng.integers(n_tasks, size=(reps, n_seeds, n_tasks))
    low, high = np.percentile(stacked[seeds, tasks].mean(axis=(1, 2)), [2.5, 97.5])
    return float(low), float(high)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """
    Of the mean, Student's: a bootstrap of three seeds is far too narrow. Of one value it is all there is.

    :param values: one for each seed
    """
    if len(values) < 2:
        return -math.inf, math.inf
    reach = float(student_t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - reach, float(np.mean(values)) + reach


def mean_cell(values: Sequence[float], sign: str = "") -> str:
    """
    For a table: mean and ``t_interval``; nothing without a value.

    :param values: one for each seed
    :param sign: ``"+"`` to have one before the mean
    """
    if len(values) < 2:
        return "".join(f"{value:{sign}.1f}" for value in values)
    low, high = t_interval(values)
    return f"{np.mean(values):{sign}.1f} ({low:.1f} to {high:.1f})"


def difference_cell(values: Sequence[float]) -> str:
    """
    As ``mean_cell``, of differences in error; it says worse or better where the interval has no zero in it.

    :param values: one for each seed
    """
    low, high = t_interval(values)
    return mean_cell(values, "+") + (" worse" if low > 0 else " better" if high < 0 else "")


def negative_transfer(what: str, errors: Sequence[float], reference: str, random: Sequence[float]) -> list[str]:
    """
    A line for below a table, which is warned of as well; none where a learner is not clearly behind.

    :param what: is behind, as in ``"on mnist leap"``
    :param errors: areas under its error curves, one for each seed
    :param reference: the same network without pretraining
    :param random: errors of that
    """
    ahead = lead(errors, random, maximize=False) if len(errors) else math.nan
    if not ahead < NEGATIVE:
        return []
    line = (
        f"Negative transfer: {what} is {-ahead:.1f} standard deviations behind {reference} in the area "
        f"({len(random)} seeds)."
    )
    _log.warning("%s", line)
    return [line]
