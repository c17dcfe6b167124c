"""Which strategies a search tries, and over which range of their setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

SEARCHED: dict[str, tuple[str, float, float, bool] | None] = {
    "full": None,
    "slow": ("factor", 0.01, 1, True),
    "discriminative": ("decay", 1, 10, True),
    "linear-probe": None,
    "lp-ft": ("probe", 0.02, 0.8, True),
    "gradual": ("over", 0.1, 1, False),
    "rgn": ("power", 0.25, 2, True),
    "l2": ("strength", 1e-6, 0.1, True),
}
"""By the names of ``STRATEGIES``: the setting that is searched, its least and largest value, and whether by its log."""


class Trial(Protocol):
    """As much of Optuna's as draws."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


def suggested_strategy(trial: Trial) -> str:
    """
    :param trial: that draws
    :return: as ``read_strategies`` takes it
    """
    name: str = trial.suggest_categorical("finetune", list(SEARCHED))
    searched = SEARCHED[name]
    if searched is None:
        return name
    setting, low, high, log = searched
    return f"{name}:{setting}={trial.suggest_float(setting, low, high, log=log):.4g}"
