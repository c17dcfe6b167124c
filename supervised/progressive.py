"""Progressive Nets (Rusu et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from supervised.networks import Classifier
from supervised.visits import TaskNetwork


class Adapter(nn.Module):
    """
    A lateral connection, U·relu(V·[α₁h₁, α₂h₂, ...]): features of other columns, each scaled, reduced to as many as one
    column has, and mapped to what they are added to (Rusu et al., equation 2).

    :param n_sources: columns that it comes from
    :param reduce: V
    :param expand: U, without a bias: the layer that it adds to has one
    """

    def __init__(self, n_sources: int, reduce: nn.Conv2d | nn.Linear, expand: nn.Module) -> None:
        super().__init__()
        self.alpha = nn.Parameter(0.01 * torch.randn(n_sources))
        self.reduce = reduce
        self.expand = expand

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        # α scales V's columns in place of the features, of which there are more: the same products.
        v = self.reduce.weight
        scaled = v * self.alpha.repeat_interleave(v.shape[1] // len(self.alpha)).view(1, -1, *[1] * (v.dim() - 2))
        reduced = torch.func.functional_call(self.reduce, {"weight": scaled}, torch.cat(list(features), dim=1))
        added: Tensor = self.expand(reduced.relu())
        return added


class Column(nn.Module):
    """
    A ``ConvNet`` to each of whose layers but the first other columns contribute.

    :param n_classes: of its head
    :param sources: the columns that contribute
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_blocks: as of ``ConvNet``
    :param n_filters: as of ``ConvNet``
    """

    def __init__(
        self, n_classes: int, sources: Sequence[int], channels: int, image_size: int, n_blocks: int, n_filters: int
    ) -> None:
        super().__init__()
        self.sources = list(sources)
        n, f, features = len(self.sources), n_filters, n_filters * (image_size // 2**n_blocks) ** 2
        self.convolutions = nn.ModuleList(
            nn.Conv2d(f if i else channels, f, kernel_size=3, padding=1) for i in range(n_blocks)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(f) for _ in range(n_blocks))
        self.head = nn.Linear(features, n_classes)
        self.adapters = nn.ModuleList()
        if n:
            for _ in range(n_blocks - 1):
                expand = nn.Conv2d(f, f, kernel_size=3, padding=1, bias=False)
                self.adapters.append(Adapter(n, nn.Conv2d(n * f, f, kernel_size=1), expand))
            expand_head = nn.Linear(features, n_classes, bias=False)
            self.adapters.append(Adapter(n, nn.Linear(n * features, features), expand_head))

    def block(self, i: int, below: Tensor, others: Sequence[Tensor]) -> Tensor:
        """
        :param i: which block
        :param below: what this column's block below gave
        :param others: what the same block of the other columns gave
        """
        x = self.convolutions[i](below)
        if i and self.sources:
            x = x + self.adapters[i - 1](others)
        return nn.functional.max_pool2d(self.norms[i](x), 2).relu()

    def logits(self, features: Tensor, others: Sequence[Tensor]) -> Tensor:
        """As ``block``, for the head."""
        computed: Tensor = self.head(features.flatten(1))
        if self.sources:
            computed = computed + self.adapters[-1]([h.flatten(1) for h in others])
        return computed


class ProgressiveNet(TaskNetwork):
    """
    A column per task, and lateral connections into each from others. Only the column of the task that is visited, with
    the connections into it, is learned; the others give features, as they are in deployment.

    :param n_classes: of each task
    :param lateral: ``"earlier"``: from the columns before, as in the paper; ``"all"``: between all of these tasks, as
        Flennerhag et al. have it. One that is added later has them from all before, and gives none
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_blocks: as of ``ConvNet``
    :param n_filters: as of ``ConvNet``
    """

    def __init__(
        self,
        n_classes: Sequence[int] = (),
        lateral: Literal["earlier", "all"] = "earlier",
        channels: int = 3,
        image_size: int = 32,
        n_blocks: int = 4,
        n_filters: int = 64,
    ) -> None:
        super().__init__()
        self.shape = (channels, image_size, n_blocks, n_filters)
        everyone = range(len(n_classes))
        self.columns = nn.ModuleList(
            Column(n, [j for j in everyone if (j != i if lateral == "all" else j < i)], *self.shape)
            for i, n in enumerate(n_classes)
        )

    def add_task(self, n_classes: int) -> None:
        column = Column(n_classes, range(len(self.columns)), *self.shape)
        self.columns.append(column.to(next(self.parameters(), torch.zeros(0)).device))

    def of_task(self, task: int) -> ColumnClassifier:
        return ColumnClassifier(self, range(len(self.columns))[task])


class ColumnClassifier(Classifier):
    """
    One task of a ``ProgressiveNet``.

    :param network: the whole
    :param task: which
    """

    encoder: Column
    one_at_a_time = True  # the statistics of columns that are looked at stay

    def __init__(self, network: ProgressiveNet, task: int) -> None:
        column: Column = network.columns[task]  # type: ignore[assignment]
        super().__init__(column, column.head)
        # Out of sight of `parameters` and `train`: the other columns are only looked at.
        self._others: dict[int, Column] = {}
        wanted = list(column.sources)
        while wanted:
            j = wanted.pop()
            if j != task and j not in self._others:
                other: Column = network.columns[j]  # type: ignore[assignment]
                self._others[j] = other.eval()
                wanted += other.sources
        self._task = task

    def forward(self, images: Tensor) -> Tensor:
        own, others = images, dict.fromkeys(self._others, images)
        for i in range(len(self.encoder.convolutions)):
            with torch.no_grad():
                below = {**others, self._task: own.detach()}
                above = {
                    j: other.block(i, below[j], [below[k] for k in other.sources]) for j, other in self._others.items()
                }
            own = self.encoder.block(i, own, [others[k] for k in self.encoder.sources])
            others = above
        return self.encoder.logits(own, [others[k] for k in self.encoder.sources])
