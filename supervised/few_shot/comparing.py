"""Networks that learn nothing in an episode, but compare its queries with its support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leap_rl.core import MetaLearner
from supervised.networks import Classifier, ConvNet, conv_blocks


class Comparison(nn.Module):
    """What a comparing network has in place of a head."""

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        """
        :param support: features, shape (n, features)
        :param labels: of them, shape (n,)
        :param queries: features, shape (m, features)
        :param ways: classes
        :return: logits of the queries, shape (m, ways)
        """
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of the queries."""
        return nn.functional.cross_entropy(logits, labels)


def class_sums(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Sum of the features of each class, shape (ways, features)."""
    return nn.functional.one_hot(labels, ways).to(features).T @ features


class Prototypes(Comparison):
    """
    Prototypical networks (Snell et al., 2017): a class is the mean of its support, and a logit is the negative squared
    Euclidean distance to it (equations 1 and 2).
    """

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        counts = labels.bincount(minlength=ways).to(support)
        prototypes = class_sums(support, labels, ways) / counts[:, None]
        return -(queries[:, None] - prototypes).square().sum(dim=2)


class Attention(Comparison):
    """
    Matching networks (Vinyals et al., 2016) without full context embeddings: a class's probability is the attention
    that a query pays to its support, a softmax of cosines (section 2.1.1).

    :param scale: of the cosines. The paper has none, which is 1; but then the most attention that one of five may get
        is 0.65, and where no feature is negative 0.40, so ours is 10
    """

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        cosines = nn.functional.normalize(queries, dim=1) @ nn.functional.normalize(support, dim=1).T
        attention = (self.scale * cosines).log_softmax(dim=1)
        # log of a sum of attention, without leaving the logarithm
        masked = attention[:, None] + torch.where(nn.functional.one_hot(labels, ways).T.bool(), 0.0, -torch.inf)
        return masked.logsumexp(dim=2)


class Relation(Comparison):
    """
    Relation networks (Sung et al., 2018): a module that is learned looks at the feature maps of a query and of a class,
    the sum over its support, and gives their relation; its squared error to 1 and 0 is the loss (equations 1 and 2).
    Convolutions are padded (ours: the paper's first two are not).

    :param n_filters: of the encoder
    :param size: height and width of its feature maps
    """

    def __init__(self, n_filters: int, size: int) -> None:
        super().__init__()
        self.n_filters, self.size = n_filters, size
        self.blocks = conv_blocks(2 * n_filters, n_filters, n_blocks=2)
        self.score = nn.Sequential(nn.Linear(n_filters * (size // 4) ** 2, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        classes = class_sums(support, labels, ways)
        pairs = torch.cat(
            [
                classes.expand(len(queries), ways, -1).unflatten(2, (self.n_filters, self.size, self.size)),
                queries[:, None].expand(-1, ways, -1).unflatten(2, (self.n_filters, self.size, self.size)),
            ],
            dim=2,
        )
        relations: Tensor = self.score(self.blocks(pairs.flatten(0, 1)).flatten(1))
        return relations.sigmoid().view(len(queries), ways)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(logits, nn.functional.one_hot(labels, logits.shape[1]).to(logits))


class Comparing(Classifier):
    """
    An encoder, and a comparison in place of a head.

    :param encoder: of images
    :param comparison: of their features
    """

    head: Comparison

    def logits(self, support: Tensor, labels: Tensor, queries: Tensor, ways: int) -> Tensor:
        """
        Support and queries go through the encoder together, so that batch norm in training sees all of the episode.

        :param support: images, shape (n, channels, height, width)
        :param labels: of them, shape (n,)
        :param queries: images
        :param ways: classes
        :return: logits of the queries, shape (m, ways)
        """
        features = self.encoder(torch.cat([support, queries]))
        compared: Tensor = self.head(features[: len(support)], labels, features[len(support) :], ways)
        return compared


@dataclass(frozen=True)
class Shape:
    """
    :param channels: of the images
    :param image_size: height and width of the images
    :param n_filters: as of ``ConvNet``
    """

    channels: int = 1
    image_size: int = 28
    n_filters: int = 64


def _relation_net(shape: Shape) -> Comparing:
    encoder = nn.Sequential(*conv_blocks(shape.channels, shape.n_filters, n_blocks=4, n_pools=2), nn.Flatten())
    return Comparing(encoder, Relation(shape.n_filters, shape.image_size // 4))


def _on_conv_net(comparison: Callable[[], Comparison]) -> Callable[[Shape], Comparing]:
    def network(shape: Shape) -> Comparing:
        encoder = ConvNet(1, shape.channels, shape.image_size, n_filters=shape.n_filters).encoder
        return Comparing(encoder, comparison())

    return network


NETWORKS: dict[str, Callable[[Shape], Comparing]] = {
    "protonet": _on_conv_net(Prototypes),
    "matching": _on_conv_net(Attention),
    "relation": _relation_net,
}


@dataclass(frozen=True)
class QueryLoss(MetaLearner):
    """
    What meta-learns a comparing network: a learning process makes no update, and its meta gradient is that of the loss
    of the queries, ∇f(θ⁰).
    """

    inner = "differentiable"

    @property
    def meta_optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        return torch.optim.Adam, {"lr": 1e-3}  # Snell et al., section 3.1

    def observe(self, parameters: object) -> None:
        raise TypeError("QueryLoss is for episodes of networks that compare, which make no update to observe")
