"""Domain generalization: several domains with labels are learned, and one of which nothing was seen is the test."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from supervised.adaptation.domains import DIGITS, SIZE, TEST_IMAGES, check_pair, load_domain
from supervised.adaptation.experiment import TaskRun
from supervised.adaptation.methods import MMD, Computed, Coral, Method
from supervised.adaptation.tasks import LEARNING_RATE, check_weight
from supervised.images import Images, Minibatches, as_float
from supervised.networks import Classifier, ConvNet
from supervised.tasks import ClassificationTask

DOMAINS = ("mnist", "digits", "mnist-m", "rotated")
"""Where no others are asked for; a table names the others."""
POOLED = "pooled"
"""Nothing but the images of all domains together: what is to be surpassed."""
METHODS: dict[str, type[Method]] = {"coral": Coral, "mmd": MMD}
"""Penalties on the features of each two domains, as in Gulrajani and Lopez-Paz (2021)."""
BATCH_SIZE = 32
"""Images of each domain in an update, as theirs."""


@lru_cache(maxsize=4)
def load_others(data_dir: str, domains: tuple[str, ...], held_out: str, limit: int, seed: int) -> Images:
    """
    :param data_dir: as of ``load_domain``
    :param domains: names of those with labels
    :param held_out: name of another, the test
    :param limit: images of each domain, at most
    :param seed: of the draws
    :return: as many training images of each domain, one domain behind the other
    :raises ValueError: if a domain is unknown or missing, listed twice, or held out as well, or has other classes
    """
    if held_out in domains or len(set(domains)) < len(domains):
        raise ValueError(f"{', '.join(domains)} are learned and {held_out} is held out: name each domain once")
    if len(domains) < 2:
        raise ValueError(f"{len(domains)} domains are learned: what holds in several takes two at least")
    test, *learned = (load_domain(data_dir, name) for name in (held_out, *domains))
    for domain in learned:
        check_pair(domain, test)
    rng = np.random.default_rng([seed, 0])
    n = min(limit, *(len(domain.train) for domain in learned))
    if n < BATCH_SIZE:
        raise ValueError(f"{n} images of a domain are too few for minibatches of {BATCH_SIZE} of each")
    rows = [torch.from_numpy(rng.permutation(len(domain.train)))[:n] for domain in learned]
    tested = torch.from_numpy(rng.permutation(len(test.test)))[:TEST_IMAGES]
    return Images(
        torch.cat([domain.train[r] for domain, r in zip(learned, rows, strict=True)]),
        torch.cat([domain.train_labels[r] for domain, r in zip(learned, rows, strict=True)]),
        test.test[tested],
        test.test_labels[tested],
    )


class OfEachDomain(Minibatches):
    """As many images of each domain in each minibatch, one domain behind the other."""

    def __init__(self, task: GeneralizationTask, seed: int, device: torch.device) -> None:
        super().__init__(task, seed, False, device)
        self._domains = len(task.domains)

    def next(self) -> tuple[Tensor, Tensor]:
        if not self._pass:
            n = len(self.images.train) // self._domains
            orders = [torch.randperm(n, generator=self._generator) + n * number for number in range(self._domains)]
            self._pass = [torch.cat(parts) for parts in zip(*(o.split(BATCH_SIZE) for o in orders), strict=True)]
            self._pass = self._pass[: n // BATCH_SIZE]
        return self._train(self._pass.pop())


class Aligning(Classifier):
    """
    A classifier that learns from minibatches of several domains, one behind the other.

    :param encoder: of images
    :param head: to logits
    :param method: that draws the features of each two domains together
    :param weight: of its penalty
    :param domains: in a minibatch
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, method: Method, weight: float, domains: int) -> None:
        super().__init__(encoder, head)
        self.method, self.weight, self.domains = method, weight, domains
        self._features: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        if self.training:
            self._features = features
        logits: Tensor = self.head(features)
        return logits

    def penalty(self, labels: Tensor) -> Tensor:
        """The mean over pairs of domains."""
        assert self._features is not None
        parts, self._features = self._features.chunk(self.domains), None
        pairs = [Computed(a, b, labels, labels, 0.0) for a, b in combinations(parts, 2)]
        return self.weight * torch.stack([self.method(pair) for pair in pairs]).mean()


@dataclass(frozen=True)
class GeneralizationTask(ClassificationTask):
    """
    Learn several domains such that another is classified, see ``ClassificationTask``.

    :param data_dir: as of ``load_domain``
    :param domains: as of ``load_others``
    :param held_out: as of ``load_others``
    :param method: ``POOLED``, or one of ``METHODS``
    :param weight: of the method's penalty
    :param limit: as of ``load_others``
    :param run_seed: as of ``load_others``
    :param n_filters: as of ``ConvNet``
    """

    data_dir: str
    domains: tuple[str, ...]
    held_out: str
    method: str
    weight: float
    limit: int
    run_seed: int
    n_filters: int

    def images(self) -> Images:
        return load_others(self.data_dir, self.domains, self.held_out, self.limit, self.run_seed)

    def network(self) -> Classifier:
        network = ConvNet(len(DIGITS), channels=3, image_size=SIZE, n_filters=self.n_filters)
        if self.method == POOLED:
            return network
        return Aligning(network.encoder, network.head, METHODS[self.method](), self.weight, len(self.domains))

    def minibatches(self, seed: int, sets_aside: bool, device: torch.device) -> Minibatches:
        return OfEachDomain(self, seed, device)


@dataclass(frozen=True)
class GeneralizationRun(TaskRun):
    """
    The settings of a run.

    :param method: ``POOLED``, or one of ``METHODS``
    :param domains: all of them, that which is held out included
    :param held_out: name of one
    :param updates: of the learning process
    :param limit: images of each domain to learn from, at most
    :param weight: of the method's penalty
    :param n_filters: as of ``ConvNet``
    """

    experiment = "domain-generalization"

    method: str
    domains: tuple[str, ...]
    held_out: str
    updates: int
    limit: int
    weight: float = 1.0
    n_filters: int = 32

    @property
    def cells(self) -> dict[str, str]:
        domains = {} if self.domains == DOMAINS else {"domains": " ".join(self.domains)}
        return {"method": self.method, "held out": self.held_out, **domains}

    def task(self) -> GeneralizationTask:
        """
        :raises ValueError: as ``load_others``
        """
        check_weight(self.weight)
        learned = tuple(name for name in self.domains if name != self.held_out)
        task = GeneralizationTask(
            f"{self.held_out} held out", self.updates, BATCH_SIZE * len(learned), LEARNING_RATE, as_float,
            self.data_dir, learned, self.held_out, self.method, self.weight, self.limit, self.seed, self.n_filters,
            annealing=True,
        )  # fmt: skip
        task.images()  # says what is wrong with it
        return task

    def data(self) -> dict[str, int]:
        images = self.task().images()
        return {"train": len(images.train), "test": len(images.test)}
