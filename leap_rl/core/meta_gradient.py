"""The meta gradient of a meta batch, summed as its tasks end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class MetaGradient:
    r"""
    1/\|B\| Σ ∇F over the tasks of a meta batch, of the last line of Algorithm 1. However many tasks there are, it holds
    two vectors. Sums are in float64 and in the order in which gradients are added: the same order has the same bits.

    :param like: the parameters, by name; what is added has their names and shapes
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self._dtypes = {name: tensor.dtype for name, tensor in like.items()}
        self._sum = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in like.items()}
        self._directions = {name: torch.zeros_like(tensor) for name, tensor in self._sum.items()}
        self.n_tasks = 0
        self._n_directions = 0

    @torch.no_grad()
    def add(self, gradient: Mapping[str, Tensor]) -> None:
        """:param gradient: ∇F of one task, on any device"""
        gradient = {name: gradient[name].cpu().double() for name in self._sum}
        norm = _norm(gradient)
        for name, tensor in gradient.items():
            self._sum[name] += tensor
            if norm > 0:
                self._directions[name].add_(tensor, alpha=1 / norm)
        self.n_tasks += 1
        self._n_directions += norm > 0

    def mean(self) -> dict[str, Tensor]:
        """:return: by name, in the parameters' dtypes"""
        return {name: (tensor / self.n_tasks).to(self._dtypes[name]) for name, tensor in self._sum.items()}

    @property
    def norm(self) -> float:
        """Of the mean."""
        return _norm(self._sum) / self.n_tasks

    @property
    def cosine(self) -> float:
        """
        Mean cosine between the meta gradients of two tasks, over all pairs: 1 if all pull the same way. With unit
        vectors u, Σ u·u' over the pairs is ‖Σu‖² - Σ‖u‖². A gradient of zeros has no direction, and counts as 0.
        """
        n = self.n_tasks
        return (_norm(self._directions) ** 2 - self._n_directions) / (n * (n - 1))


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return torch.stack([tensor.norm() for tensor in tensors.values()]).norm().item()
