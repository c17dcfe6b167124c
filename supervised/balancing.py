"""How the losses of tasks that are learned at once are brought together, by torchjd where it has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Balancing(nn.Module):
    """Gives parameters the gradient of many losses: of their sum. Its ``state_dict`` holds all that it remembers."""

    def backward(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """
        Fill ``grad``.

        :param losses: scalar, one of each task
        :param parameters: of the network, with ``grad`` empty
        """
        self.combined(torch.stack(list(losses))).backward()

    def combined(self, losses: Tensor) -> Tensor:
        """
        One loss of many.

        :param losses: shape (tasks,)
        """
        return losses.sum()

    def end_pass(self) -> None:
        """When as many updates were made as a pass has."""

    def weights(self, losses: Tensor) -> Tensor:
        """What each loss counts at present, for the log, shape (tasks,)."""
        leaf = losses.detach().clone().requires_grad_()
        (weights,) = torch.autograd.grad(self.combined(leaf), leaf)
        return weights


class Scale(Balancing):
    """
    Each loss by its own running mean: what unit it has changes nothing.

    :param n_tasks: how many losses
    :param momentum: share of the present loss in the mean
    """

    mean: Tensor
    """Shape (tasks,); 0 before the first update."""

    def __init__(self, n_tasks: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(n_tasks))

    def backward(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        now = torch.stack([loss.detach() for loss in losses])
        self.mean = torch.where(self.mean == 0, now, self.mean + self.momentum * (now - self.mean))
        super().backward(losses, parameters)

    def combined(self, losses: Tensor) -> Tensor:
        return (losses / self.mean.clamp_min(torch.finfo(self.mean.dtype).tiny)).sum()


def _scalarization() -> Any:
    import torchjd.scalarization

    return torchjd.scalarization


class Learned(Balancing):
    """
    Weights that are learned with the network, by a scalarizer of torchjd: ``UW``, Σ ½ exp(-sᵢ) lossᵢ + ½ sᵢ (Kendall et
    al., 2018), or ``IMTLL``, Σ exp(sᵢ) lossᵢ - sᵢ (Liu et al., 2021), which has the same optima. The gradient of s is
    held within ±1 (ours): that of a loss of some hundreds would else throw it beyond any use.

    :param n_tasks: how many losses
    :param name: of the scalarizer
    """

    def __init__(self, n_tasks: int, name: str) -> None:
        super().__init__()
        self.scalarizer = getattr(_scalarization(), name)(n_tasks)

    def combined(self, losses: Tensor) -> Tensor:
        combined: Tensor = self.scalarizer(losses)
        return combined

    def backward(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        super().backward(losses, parameters)
        nn.utils.clip_grad_value_(self.parameters(), 1.0)


class DynamicWeights(Balancing):
    """
    Dynamic weight average (Liu et al., 2019), of torchjd: what fell less from the pass before the last to the last
    counts more. What torchjd remembers is kept here, since its ``state_dict`` is empty; passes are saved when they are
    over, so that of the running one there is nothing to keep.

    :param n_tasks: how many losses
    """

    averages: Tensor
    """Of the last two passes, shape (passes, tasks)."""
    passes: Tensor
    """That are over."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self._scalarizer = _scalarization().DWA()
        self.register_buffer("averages", torch.zeros(2, n_tasks))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def combined(self, losses: Tensor) -> Tensor:
        combined: Tensor = self._scalarizer(losses)
        return combined

    def weights(self, losses: Tensor) -> Tensor:
        return self._scalarizer._compute_weights(losses)  # a call would count these losses into the pass

    def end_pass(self) -> None:
        self._scalarizer.step()
        last = self._scalarizer._previous_averages[-1]
        self.averages = torch.stack([self.averages[1], last.to(self.averages)])
        self.passes = self.passes + 1

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_state_dict(*args, **kwargs)
        n = min(int(self.passes), 2)
        self._scalarizer._previous_averages = list(self.averages[2 - n :].clone())
        return loaded


class Gradients(Balancing):
    """
    Not losses, but gradients are brought together, where tasks share parameters, by an aggregator of torchjd.

    :param n_tasks: how many losses
    :param name: of the aggregator
    """

    def __init__(self, n_tasks: int, name: str) -> None:
        super().__init__()
        import torchjd.aggregation

        self._aggregate = getattr(torchjd.aggregation, name)()
        self._last = torch.ones(n_tasks)
        self._aggregate.weighting.register_forward_hook(self._keep_weights)

    def _keep_weights(self, _weighting: nn.Module, _given: Any, weights: Tensor) -> None:
        self._last = weights.detach()

    def backward(self, losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        of_tasks = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
        shared = []
        for i, parameter in enumerate(parameters):
            there = [gradients[i] for gradients in of_tasks if gradients[i] is not None]
            if len(there) > 1:
                shared.append(i)
            elif there:
                parameter.grad = there[0]
        if not shared:
            return
        rows = [
            torch.cat([(torch.zeros_like(parameters[i]) if g[i] is None else g[i]).flatten() for i in shared])
            for g in of_tasks
        ]
        parts = self._aggregate(torch.stack(rows)).split([parameters[i].numel() for i in shared])
        for i, part in zip(shared, parts, strict=True):
            parameters[i].grad = part.view(parameters[i].shape)

    def weights(self, losses: Tensor) -> Tensor:
        """Of each gradient in the last update, where tasks share parameters."""
        return self._last.to(losses)


BALANCING: dict[str, Callable[[int], Balancing]] = {
    "equal": lambda n_tasks: Balancing(),
    "scale": Scale,
    "uncertainty": lambda n_tasks: Learned(n_tasks, "UW"),
    "imtl-l": lambda n_tasks: Learned(n_tasks, "IMTLL"),
    "dynamic": DynamicWeights,
    "pcgrad": lambda n_tasks: Gradients(n_tasks, "PCGrad"),
    "mgda": lambda n_tasks: Gradients(n_tasks, "MGDA"),
}
"""By name, made for so many tasks."""
