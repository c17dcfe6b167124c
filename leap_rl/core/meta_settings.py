"""The settings of meta-training: what a trainer is told, a checkpoint keeps, and the command line offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from leap_rl.running.integers import integer

Sampling = Literal["without_replacement", "reshuffle", "with_replacement"]

# Streams of the trainer's own random numbers; SB3 reseeds the global generators.
_BATCHES, _JOBS, _EVALUATION = range(3)


@dataclass(frozen=True, kw_only=True)
class MetaSettings:
    """
    How tasks are drawn, evaluated and averaged over. All that is random follows from ``seed`` and the meta step, so
    that going on is exact.

    :param meta_batch_size: tasks per meta step
    :param scope: what of the model is meta-learned; ``None``: the encoder for images, else ``"all"``
    :param average_from: meta step from which on θ⁰ is averaged: the trainer's ``initialization`` is then the mean of θ⁰
        after each meta step from that one (Polyak and Juditsky, 1992), while meta-training goes on from θ⁰;
        ``None``: θ⁰ itself
    :param sampling: of a meta batch: ``"without_replacement"`` within it, ``"reshuffle"``: every task once per
        pass, or ``"with_replacement"``
    :param eval_freq: meta steps between two evaluations, beside those before the first and after the last; 0: none
    :param seed: of everything, below 2³¹; ``None`` draws one
    :param device: where the models of the tasks live
    :raises ValueError: for a setting that is none
    """

    meta_batch_size: int
    scope: str | None = None
    average_from: int | None = None
    sampling: Sampling = "without_replacement"
    eval_freq: int = 0
    seed: int = None  # type: ignore[assignment]
    device: str = "auto"

    def __post_init__(self) -> None:
        drawn: Any = np.random.SeedSequence().entropy
        checked = {
            "meta_batch_size": integer("meta_batch_size", self.meta_batch_size, least=1),
            "eval_freq": integer("eval_freq", self.eval_freq, least=0),
            "seed": integer("seed", drawn % 2**31 if self.seed is None else self.seed, least=0, below=2**31),
            "device": str(self.device),
        }
        if self.average_from is not None:
            checked["average_from"] = integer("average_from", self.average_from, least=1)
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling={self.sampling!r} is unknown, choose one of {', '.join(get_args(Sampling))}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def batch(self, meta_step: int, n_tasks: int) -> list[int]:
        """
        The tasks of a meta step.

        :param meta_step: from 0
        :param n_tasks: to draw from
        :return: their indices
        """
        return sample_batch(self.seed, meta_step, n_tasks, self.meta_batch_size, self.sampling)

    def visit_seed(self, meta_step: int, task: int, visit: int) -> int:
        """
        :param visit: of the task in this meta step, from 0: with replacement it may come twice
        """
        return self._seed(_JOBS, meta_step, task, visit)

    def evaluation_seed(self, task: int) -> int:
        """The same in every evaluation."""
        return self._seed(_EVALUATION, task)

    def _seed(self, *stream: int) -> int:
        return int(np.random.SeedSequence([self.seed, *stream]).generate_state(1)[0]) & 0x7FFFFFFF


def sample_batch(seed: int, meta_step: int, n_tasks: int, size: int, sampling: Sampling) -> list[int]:
    """
    Indices of the tasks of a meta step: a function of seed and meta step alone, so that resuming is exact.

    :param seed: of the meta-training
    :param meta_step: from 0
    :param n_tasks: to draw from
    :param size: of the meta batch
    :param sampling: as ``MetaSettings`` has it
    """

    def rng(position: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([seed, _BATCHES, position]))

    if sampling == "reshuffle":
        positions = range(meta_step * size, (meta_step + 1) * size)
        return [int(rng(p // n_tasks).permutation(n_tasks)[p % n_tasks]) for p in positions]
    return rng(meta_step).choice(n_tasks, size=size, replace=sampling == "with_replacement").tolist()
