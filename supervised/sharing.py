"""What tasks that are learned at once may share: convolutions, a pull towards each other, or features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from supervised.networks import Classifier
from supervised.visits import TaskNetwork


def _convolutions(channels: int, n_blocks: int, n_filters: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Conv2d(n_filters if i else channels, n_filters, kernel_size=3, padding=1) for i in range(n_blocks)
    )


def _norms(n_blocks: int, n_filters: int) -> nn.ModuleList:
    return nn.ModuleList(nn.BatchNorm2d(n_filters) for _ in range(n_blocks))


class Blocks(nn.Module):
    """
    The encoder of a ``ConvNet``, of convolutions and norms that may also be others'.

    :param convolutions: of the blocks
    :param norms: batch norm of each
    """

    def __init__(self, convolutions: nn.ModuleList, norms: nn.ModuleList) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.norms = norms

    def block(self, i: int, x: Tensor) -> Tensor:
        """:param i: which"""
        return nn.functional.max_pool2d(self.norms[i](self.convolutions[i](x)), 2).relu()

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for i in range(len(self.convolutions)):
            x = self.block(i, x)
        return x.flatten(1)


class SharingNetwork(TaskNetwork):
    """
    The shape that these networks have in common: that of ``ConvNet``, with a head for each task. Batch norm is each
    task's own throughout (ours): tasks whose images look different would else be tested with each other's statistics.

    :param n_classes: of each task
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_blocks: as of ``ConvNet``
    :param n_filters: as of ``ConvNet``
    """

    def __init__(
        self,
        n_classes: Sequence[int] = (),
        channels: int = 3,
        image_size: int = 32,
        n_blocks: int = 4,
        n_filters: int = 64,
    ) -> None:
        super().__init__()
        self.channels, self.n_blocks, self.n_filters = channels, n_blocks, n_filters
        self.n_features = n_filters * (image_size // 2**n_blocks) ** 2
        self.heads = nn.ModuleList()
        self._drawn = False
        self._begin()
        for n in n_classes:
            self.add_task(n)
        self._drawn = True  # what is added from now on joins what may have learned

    def _begin(self) -> None:
        """Draw what there is without any task."""

    def add_task(self, n_classes: int) -> None:
        device = next(self.parameters(), torch.zeros(0)).device
        self._add_column(device)
        self.heads.append(nn.Linear(self.n_features, n_classes).to(device))

    def _add_column(self, device: torch.device) -> None:
        """Draw what the next task has before its head."""
        raise NotImplementedError

    def _task(self, task: int) -> int:
        return range(len(self.heads))[task]


class HardSharing(SharingNetwork):
    """One set of convolutions for all tasks (Caruana, 1997). A new task has norms and a head of its own."""

    def _begin(self) -> None:
        self.convolutions = _convolutions(self.channels, self.n_blocks, self.n_filters)
        self.norms = nn.ModuleList()

    def _add_column(self, device: torch.device) -> None:
        self.norms.append(_norms(self.n_blocks, self.n_filters).to(device))

    def of_task(self, task: int) -> Classifier:
        task = self._task(task)
        norms: nn.ModuleList = self.norms[task]  # type: ignore[assignment]
        return Classifier(Blocks(self.convolutions, norms), self.heads[task])


class SoftSharing(SharingNetwork):
    """
    A column for each task, and a penalty weight · ‖θ - θ̄‖² on the distance of its convolutions from the mean of all
    (as Duong et al., 2015, pull two networks together). With weight 0 tasks are learned each alone. A new task starts
    from the mean.

    :param weight: of the penalty
    """

    def __init__(self, n_classes: Sequence[int] = (), weight: float = 0.01, **shape: int) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight={weight} of soft sharing must be at least 0, and finite")
        self.weight = weight
        super().__init__(n_classes, **shape)

    def _begin(self) -> None:
        self.columns = nn.ModuleList()

    def _add_column(self, device: torch.device) -> None:
        shape = (self.n_blocks, self.n_filters)
        column = Blocks(_convolutions(self.channels, *shape), _norms(*shape)).to(device)
        if self._drawn and self.weight:
            with torch.no_grad():
                for parameter, mean in zip(column.convolutions.parameters(), self.means(), strict=True):
                    parameter.copy_(mean)
        self.columns.append(column)

    def means(self) -> list[Tensor]:
        """θ̄, of the convolutions, detached."""
        of_columns = [list(c.convolutions.parameters()) for c in self.columns]  # type: ignore[union-attr]
        return [torch.stack([p.detach() for p in same]).mean(dim=0) for same in zip(*of_columns, strict=True)]

    def of_task(self, task: int) -> Classifier:
        return PulledClassifier(self, self._task(task))


class PulledClassifier(Classifier):
    """
    One task of ``SoftSharing``.

    :param network: the whole
    :param task: which
    """

    encoder: Blocks

    def __init__(self, network: SoftSharing, task: int) -> None:
        super().__init__(network.columns[task], network.heads[task])
        self._means: Callable[[], list[Tensor]] = network.means
        self._weight = network.weight

    def penalty(self, labels: Tensor) -> Tensor | float:
        """
        Σ over tasks of ‖θ - θ̄‖² has the gradient 2 (θ - θ̄), with θ̄ held constant as without: its own part is zero.
        """
        if not self._weight:
            return 0.0
        own = self.encoder.convolutions.parameters()
        distances = [(p - mean).square().sum() for p, mean in zip(own, self._means(), strict=True)]
        return self._weight * torch.stack(distances).sum()


SAME = 0.9
"""What a column has of its own features at first; the others have the rest (Misra et al., 2016, section 4.1)."""


class CrossStitch(SharingNetwork):
    """
    Cross-stitch networks (Misra et al., 2016): a column for each task, and behind each block every column goes on with
    a mixture of the features of all, channel by channel, whose weights are learned. An image of any task goes through
    all columns (in the paper, tasks have the same images), so time grows with the square of their number.

    What a new task brings is at first nothing to the tasks before it.

    :param same: weight of a column's own features at first; the others share the rest: 1 keeps columns apart
    """

    stitches: nn.Parameter
    """α: what column i takes of column j behind a block, shape (blocks, tasks, tasks, filters)."""

    def __init__(self, n_classes: Sequence[int] = (), same: float = SAME, **shape: int) -> None:
        if not 0 <= same <= 1:
            raise ValueError(f"same={same} of cross-stitch must be 0 to 1")
        super().__init__((), **shape)
        for n in n_classes:
            self.add_task(n)
        self.stitches = nn.Parameter(self._mixture(len(self.heads), same))

    def _begin(self) -> None:
        self.columns = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.stitches = nn.Parameter(torch.zeros(self.n_blocks, 0, 0, self.n_filters))

    def _mixture(self, n: int, same: float) -> Tensor:
        apart = torch.eye(n)
        mixed = same * apart + ((1 - same) / (n - 1) * (1 - apart) if n > 1 else (1 - same) * apart)
        return mixed[None, :, :, None].repeat(self.n_blocks, 1, 1, self.n_filters)

    def _add_column(self, device: torch.device) -> None:
        """Norms are of each pair of a task, whose images they see, and a column."""
        n = len(self.columns)
        self.columns.append(_convolutions(self.channels, self.n_blocks, self.n_filters).to(device))
        for of_task in self.norms:
            of_task.append(_norms(self.n_blocks, self.n_filters).to(device))  # type: ignore[operator]
        self.norms.append(nn.ModuleList(_norms(self.n_blocks, self.n_filters) for _ in range(n + 1)).to(device))
        grown = torch.zeros(self.n_blocks, n + 1, n + 1, self.n_filters, device=device)
        grown[:, :n, :n] = self.stitches.detach()
        grown[:, n] = self._mixture(n + 1, SAME)[:, n].to(device)
        self.stitches = nn.Parameter(grown)

    def of_task(self, task: int) -> Classifier:
        task = self._task(task)
        return Classifier(StitchedEncoder(self, task), self.heads[task])


class StitchedEncoder(nn.Module):
    """
    What a task sees of a ``CrossStitch``: all columns, with norms of its own.

    :param network: the whole
    :param task: which
    """

    def __init__(self, network: CrossStitch, task: int) -> None:
        super().__init__()
        self.task = task
        self.columns, self.stitches = network.columns, network.stitches
        self.norms: nn.ModuleList = network.norms[task]  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        columns = [Blocks(c, n) for c, n in zip(self.columns, self.norms, strict=True)]  # type: ignore[arg-type]
        features = [images for _ in columns]
        for i, alpha in enumerate(self.stitches):
            features = [column.block(i, x) for column, x in zip(columns, features, strict=True)]
            stacked = torch.stack(features)
            last = i == len(self.stitches) - 1
            features = [
                (alpha[to, :, None, :, None, None] * stacked).sum(dim=0)
                for to in ([self.task] if last else range(len(columns)))
            ]
        return features[0].flatten(1)
