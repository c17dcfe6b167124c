"""What draws two domains together: penalties on the features and logits that a network just computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from supervised.networks import Classifier


class Computed(NamedTuple):
    """
    What a network computed of a minibatch of each domain.

    :param source: features, shape (n, features)
    :param target: features, shape (m, features)
    :param labels: of the source, shape (n,)
    :param target_logits: shape (m, classes)
    :param progress: of the whole learning process, from 0 to 1
    """

    source: Tensor
    target: Tensor
    labels: Tensor
    target_logits: Tensor
    progress: float


class Method(nn.Module):
    """A penalty; it may have parameters of its own, which are learned with the network's."""

    def forward(self, computed: Computed) -> Tensor:
        """Scalar."""
        raise NotImplementedError


class Nothing(Method):
    """Only batch norm sees the target: what its statistics alone change."""

    def forward(self, computed: Computed) -> Tensor:
        return computed.source.new_zeros(())


class Coral(Method):
    """Deep CORAL (Sun and Saenko, 2016, equation 1): ‖C_s - C_t‖² / (4 d²), of the covariances of d features."""

    def forward(self, computed: Computed) -> Tensor:
        d = computed.source.shape[1]
        difference = torch.cov(computed.source.T) - torch.cov(computed.target.T)
        return difference.square().sum() / (4 * d**2)


BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


class MMD(Method):
    """
    Maximum mean discrepancy (Gretton et al., 2012), its square, biased: mean k(s, s') + mean k(t, t') - 2 mean k(s, t),
    with k a mean of Gaussian kernels exp(-‖x - y‖² / b), where b is the mean squared distance of the minibatch times
    each of ``BANDWIDTHS`` (as Long et al., 2015, have several).
    """

    def forward(self, computed: Computed) -> Tensor:
        n = len(computed.source)
        both = torch.cat([computed.source, computed.target])
        squared = (both[:, None] - both).square().sum(dim=2)
        mean = squared.detach().sum() / (len(both) * (len(both) - 1))
        kernels = [(-squared / (b * mean.clamp_min(1e-12))).exp() for b in BANDWIDTHS]
        k = torch.stack(kernels).mean(dim=0)
        return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


class Transport(Method):
    """
    Joint optimal transport (Damodaran et al., 2018, DeepJDOT): the cheapest plan γ that carries source to target, both
    uniform, where it costs ‖s - t‖²/d, of d features, plus the cross entropy of t's logits with s's label. The plan is
    found by POT and held constant; what is learned from is Σ γ·cost. With one factor on both (ours: the paper has two).
    """

    def __init__(self) -> None:
        super().__init__()
        import ot

        self._plan: Callable[..., Any] = ot.emd

    def forward(self, computed: Computed) -> Tensor:
        source, target = computed.source, computed.target
        distance = (source[:, None] - target).square().mean(dim=2)
        cost = distance - computed.target_logits.log_softmax(dim=1)[:, computed.labels].T
        plan = self._plan([], [], cost.detach().double().cpu().numpy())
        return (torch.as_tensor(plan).to(cost) * cost).sum()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


class DANN(Method):
    """
    Domain-adversarial training (Ganin et al., 2016): a small network tells the domains apart, and the gradient that the
    features get from it is reversed, times λ = 2 / (1 + exp(-10 p)) - 1 with the progress p (section 5.2.2). A weight
    multiplies all of it, so that network's own learning, too (ours; in the paper it would be λ alone).

    :param n_features: of the encoder
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.domain = nn.Sequential(nn.Linear(n_features, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, computed: Computed) -> Tensor:
        factor = 2 / (1 + math.exp(-10 * computed.progress)) - 1
        both = torch.cat([computed.source, computed.target])
        logits = self.domain(_Reversed.apply(both, factor)).squeeze(1)
        is_target = torch.arange(len(both), device=both.device) >= len(computed.source)
        return nn.functional.binary_cross_entropy_with_logits(logits, is_target.to(logits))


CONFIDENT = 0.9


class SelfTraining(Method):
    """
    Pseudo-labels (Lee, 2013): the cross entropy of the target's logits with the class that they favour, where its
    probability is at least ``CONFIDENT`` (ours), as a mean over the minibatch; it grows with the progress.
    """

    def forward(self, computed: Computed) -> Tensor:
        confidence, favoured = computed.target_logits.detach().softmax(dim=1).max(dim=1)
        losses = nn.functional.cross_entropy(computed.target_logits, favoured, reduction="none")
        return computed.progress * (losses * (confidence >= CONFIDENT)).mean()


METHODS: dict[str, Callable[[int], Method]] = {
    "batch-norm": lambda n_features: Nothing(),
    "coral": lambda n_features: Coral(),
    "mmd": lambda n_features: MMD(),
    "transport": lambda n_features: Transport(),
    "dann": DANN,
    "self-training": lambda n_features: SelfTraining(),
}
"""By name, made for so many features."""


class Adapting(Classifier):
    """
    A classifier that learns from minibatches whose first half is of the source, and has labels, and whose second half
    is of the target.

    :param encoder: of images
    :param head: to logits
    :param method: that draws their features together
    :param weight: of its penalty
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, method: Method, weight: float) -> None:
        super().__init__(encoder, head)
        self.method = method
        self.weight = weight
        self._progress = 0.0
        self._computed: tuple[Tensor, Tensor] | None = None

    def before_update(self, progress: float, overall: float) -> None:
        self._progress = overall

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        logits: Tensor = self.head(features)
        if not self.training:
            return logits
        self._computed = features, logits
        return logits[: len(images) // 2]

    def penalty(self, labels: Tensor) -> Tensor:
        assert self._computed is not None
        (features, logits), n = self._computed, len(labels)
        self._computed = None
        computed = Computed(features[:n], features[n:], labels, logits[n:], self._progress)
        penalty: Tensor = self.weight * self.method(computed)
        return penalty
