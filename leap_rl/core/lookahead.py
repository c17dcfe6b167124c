"""The gradient at the end of a learning process, on data that it has not learned from: what FOMAML needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from leap_rl.core.path_statistics import PathStatistics


class LookAhead:
    """
    Observes a learning process that makes one rollout more than it has a budget for. The first update after
    ``new_rollout()`` is on data that nothing was learned from, at the θ where the rollout before it ended. The last of
    them gives the meta gradient ∇f(θ^K), and θ^K, to which ``rewind`` goes back.

    :param parameters: the parameters in scope, by name
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = dict(parameters)
        self._end = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._gradient = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self._is_first = True
        self._updates_before = 0
        self.n_updates = 0

    def new_rollout(self) -> None:
        """The next minibatch comes from new data."""
        self._is_first = True

    def attach(self, optimizer: Optimizer) -> Callable[[], None]:
        """
        :param optimizer: owns every parameter in scope
        :return: a function that detaches again
        """
        return optimizer.register_step_pre_hook(lambda *_: self.before_update()).remove

    @contextmanager
    def observe(self, optimizer: Optimizer) -> Iterator[LookAhead]:
        """:param optimizer: as in ``attach``"""
        detach = self.attach(optimizer)
        try:
            yield self
        finally:
            detach()

    def backward(self, loss: Tensor) -> None:
        """``loss.backward()``; for loops that are written for a ``GradientPath``."""
        loss.backward()

    @torch.no_grad()
    def before_update(self, loss: Tensor | float | None = None) -> None:
        """
        At θ^i, as ``GradientPath.before_update``, for loops without a torch optimizer.

        :param loss: is not needed
        """
        if self._is_first:
            for name, p in self._parameters.items():
                self._end[name].copy_(p)
                if p.grad is None:
                    self._gradient[name].zero_()
                else:
                    self._gradient[name].copy_(p.grad)
            self._updates_before = self.n_updates
            self._is_first = False
        self.n_updates += 1

    def after_update(self, loss: Tensor | float | None = None) -> None:
        """For loops that are written for a ``GradientPath``."""

    @torch.no_grad()
    def rewind(self) -> None:
        """Back to θ^K: the look ahead is no part of the learning process."""
        for name, p in self._parameters.items():
            p.copy_(self._end[name])

    def meta_gradient(self) -> dict[str, Tensor]:
        """
        ∇f(θ^K) by name, as the update rule clipped it.

        :raises RuntimeError: before the second rollout
        """
        if not self._updates_before:
            raise RuntimeError("FOMAML needs one rollout more than is learned from: nothing was seen after an update")
        return {name: g.clone() for name, g in self._gradient.items()}

    def statistics(self) -> PathStatistics:
        """Only what is known without following the path: updates, and the norm of the meta gradient."""
        squared = sum(g.double().square().sum().item() for g in self._gradient.values())
        return PathStatistics(
            updates=self._updates_before,
            segments=self._updates_before,
            length=math.nan,
            energy=math.nan,
            loss_share=math.nan,
            top_share=math.nan,
            loss_to_step=math.nan,
            meta_gradient_norm=math.sqrt(squared),
            non_finite_update=None,
        )
