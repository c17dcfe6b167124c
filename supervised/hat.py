"""Hard attention to the task (Serrà et al., ICML 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supervised.networks import Classifier
from supervised.visits import TaskNetwork

# Serrà et al., section 2 and appendix.
S_MAX = 400.0
CAPACITY = 0.75
"""c, the weight of the regularizer: what it costs to open a gate that no other task has open."""
LARGEST_EMBEDDING = 6.0
LARGEST_EXPONENT = 50.0
LARGEST_GRADIENT = 10_000.0


class HAT(TaskNetwork):
    """
    ``ConvNet`` with a gate on every filter, for every task: σ(s·e), where e is learned with the task, and s grows
    within each pass over its images from 1/s_max to s_max, so that gates end open or shut. What other tasks have open
    is protected: the gradient of a weight from filter j to filter i is multiplied with 1 - min(aᵢ, aⱼ), where a is the
    largest gate of the tasks visited so far, without that of the visited one. So a task that is visited once protects
    what it claims from all later ones, as in the paper; one that is visited again may change what it alone claims, as
    revisits need it (ours).

    Batch norm (ours, the paper has none): scale and shift are shared and protected as the weights are; the running
    statistics are each task's own, without which no task's output could stay what it was.

    :param n_classes: of each task
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_blocks: as of ``ConvNet``
    :param n_filters: as of ``ConvNet``
    """

    gates: Tensor
    """Of each task at s_max when its last visit ended, zero before its first, shape (tasks, blocks, filters)."""

    def __init__(
        self,
        n_classes: Sequence[int] = (),
        channels: int = 3,
        image_size: int = 32,
        n_blocks: int = 4,
        n_filters: int = 64,
    ) -> None:
        super().__init__()
        self.n_filters = n_filters
        self.n_features = n_filters * (image_size // 2**n_blocks) ** 2
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n_filters if i else channels, n_filters, kernel_size=3, padding=1) for i in range(n_blocks)
        )
        self.scales = nn.ParameterList(torch.ones(n_filters) for _ in range(n_blocks))
        self.shifts = nn.ParameterList(torch.zeros(n_filters) for _ in range(n_blocks))
        self.norms = nn.ModuleList()
        self.embeddings = nn.ParameterList()
        self.heads = nn.ModuleList()
        self.register_buffer("gates", torch.zeros(0, n_blocks, n_filters))
        for n in n_classes:
            self.add_task(n)

    def add_task(self, n_classes: int) -> None:
        n_blocks = len(self.convolutions)
        device = self.gates.device
        norms = [nn.BatchNorm2d(self.n_filters, affine=False) for _ in range(n_blocks)]
        self.norms.append(nn.ModuleList(norms).to(device))
        self.embeddings.append(nn.Parameter(torch.randn(n_blocks, self.n_filters).to(device)))
        self.heads.append(nn.Linear(self.n_features, n_classes).to(device))
        self.gates = torch.cat([self.gates, self.gates.new_zeros(1, n_blocks, self.n_filters)])

    def of_task(self, task: int) -> GatedClassifier:
        return GatedClassifier(self, range(len(self.heads))[task])

    @torch.no_grad()
    def end_visit(self, task: int) -> dict[str, float]:
        self.gates[task] = torch.sigmoid(S_MAX * self.embeddings[task])
        return {
            "share of filters open": self.gates[task].mean().item(),
            "share of filters claimed by any task": self.gates.amax(dim=0).mean().item(),
        }

    def claimed_by_others(self, task: int) -> Tensor:
        """Largest gate of the other tasks that were visited, shape (blocks, filters)."""
        others = [i for i in range(len(self.gates)) if i != task]
        return self.gates[others].amax(dim=0) if others else torch.zeros_like(self.gates[0])


class GatedEncoder(nn.Module):
    """
    What a task sees of a ``HAT``: shared convolutions, and norms and gates of its own.

    :param network: the whole
    :param task: whose gates
    """

    def __init__(self, network: HAT, task: int) -> None:
        super().__init__()
        self.convolutions, self.scales, self.shifts = network.convolutions, network.scales, network.shifts
        self.norms: nn.ModuleList = network.norms[task]  # type: ignore[assignment]
        self.embedding = network.embeddings[task]
        self.s = 1 / S_MAX

    def gates(self) -> Tensor:
        """Shape (blocks, filters). A network that is not in training has them open or shut."""
        return torch.sigmoid((self.s if self.training else S_MAX) * self.embedding)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        blocks = zip(self.convolutions, self.norms, self.scales, self.shifts, self.gates(), strict=True)
        for convolution, norm, scale, shift, gate in blocks:
            x = norm(convolution(x)) * scale[:, None, None] + shift[:, None, None]
            x = nn.functional.max_pool2d(x, 2).relu() * gate[:, None, None]
        return x.flatten(1)


class GatedClassifier(Classifier):
    """
    One task of a ``HAT``.

    :param network: the whole
    :param task: which
    """

    encoder: GatedEncoder
    one_at_a_time = True  # what it does around a step is of one task

    def __init__(self, network: HAT, task: int) -> None:
        super().__init__(GatedEncoder(network, task), network.heads[task])
        self.free = 1 - network.claimed_by_others(task)
        # Shared parameters, and what their gradients are multiplied with.
        self._shares: list[tuple[Tensor, Tensor]] = []
        below = torch.ones_like(self.free[0])  # unused: images are no task's own
        for i, free in enumerate(self.free):
            convolution: nn.Conv2d = network.convolutions[i]  # type: ignore[assignment]
            assert convolution.bias is not None
            of_weight = torch.maximum(free[:, None], below[None, :]) if i else free[:, None]
            self._shares.append((convolution.weight, of_weight[:, :, None, None]))
            self._shares += [(p, free) for p in (convolution.bias, network.scales[i], network.shifts[i])]
            below = free

    def before_update(self, progress: float, overall: float) -> None:
        self.encoder.s = 1 / S_MAX + (S_MAX - 1 / S_MAX) * progress

    def penalty(self, labels: Tensor) -> Tensor:
        penalty: Tensor = CAPACITY * (self.encoder.gates() * self.free).sum() / self.free.sum().clamp_min(1e-9)
        return penalty

    @torch.no_grad()
    def before_step(self) -> None:
        for parameter, share in self._shares:
            assert parameter.grad is not None
            parameter.grad *= share
        # The derivative of a gate, s·σ'(s·e), is most often 0: it is made s_max·σ'(e) = s_max / (2·(cosh e + 1)).
        s, e = self.encoder.s, self.encoder.embedding
        assert e.grad is not None
        steep = torch.cosh((s * e).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)) + 1
        e.grad *= S_MAX / s * steep / (torch.cosh(e) + 1)
        nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT)

    @torch.no_grad()
    def after_step(self) -> None:
        self.encoder.embedding.clamp_(-LARGEST_EMBEDDING, LARGEST_EMBEDDING)
