"""An episode: a classification task of N ways and K shots, drawn from the seed of its visit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from leap_rl.core import Initialization, Job, LearningCurve, MetaLearner, NoPretraining, Report, Task, TaskResult
from supervised.batch_norm import batch_norms, recompute
from supervised.few_shot.classes import Part, load_classes
from supervised.few_shot.comparing import NETWORKS, Comparing, QueryLoss, Shape
from supervised.images import Images, Minibatches, as_float
from supervised.learning import ClassifierProcess
from supervised.networks import Classifier, ConvNet
from supervised.tasks import ClassificationTask, ClassificationTasks, chosen_device


class EpisodeMinibatches(Minibatches):
    """The support is what is learned from; what FOMAML and MAML look ahead at are the queries."""

    @property
    def n_unseen(self) -> int:
        return len(self.images.test)

    def unseen(self) -> tuple[Tensor, Tensor]:
        return self.test()


@dataclass(frozen=True)
class EpisodeTask(ClassificationTask):
    """
    Every visit draws classes, and of each so many images, from its seed: the support is learned, the queries are the
    test. Labels are the places of the classes in the draw.

    With ``comparison`` the network is one that learns nothing in an episode, and ``updates`` is 0.

    Batch norm: what makes updates takes the statistics of the batch at hand, in the test that of all queries, so its
    test is transductive. (After five updates running statistics would still be a fresh network's by 0.9⁵ = 0.59.) What
    compares takes the statistics of θ⁰ in a test, which ``with_statistics`` has computed on classes to learn from.

    :param data_dir: as of ``load_classes``
    :param part: ``"train"`` or ``"test"`` classes
    :param ways: classes of an episode
    :param shots: images of each in the support
    :param queries: images of each to test with
    :param comparison: one of ``NETWORKS``; ``None``: a network with a head of so many classes, which makes updates
    :param n_filters: as of ``ConvNet``
    :param episode: seed of the draw; a visit sets it
    """

    data_dir: str
    part: Part
    ways: int
    shots: int
    queries: int
    comparison: str | None = None
    n_filters: int = 64
    episode: int = field(default=0, kw_only=True)

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Images through forward and backward; those of a comparing network's whole episode."""
        return self.updates * self.batch_size or self.ways * (self.shots + self.queries)

    @property
    def judged_at_once(self) -> int:
        return self.ways * self.queries  # whose statistics are those of all queries

    def images(self) -> Images:
        rng = np.random.default_rng(self.episode)
        classes = load_classes(self.data_dir, self.part)
        n = self.shots + self.queries
        drawn = []
        for index in rng.choice(len(classes), self.ways, replace=False).tolist():
            of_class = classes[index]
            drawn.append(of_class[torch.from_numpy(rng.choice(len(of_class), n, replace=False))])
        images, labels = torch.stack(drawn), torch.arange(self.ways)
        return Images(
            images[:, : self.shots].flatten(0, 1),
            labels.repeat_interleave(self.shots),
            images[:, self.shots :].flatten(0, 1),
            labels.repeat_interleave(self.queries),
        )

    def network(self) -> Classifier:
        channels, size = load_classes(self.data_dir, self.part)[0].shape[1:3]
        if self.comparison is not None:
            return NETWORKS[self.comparison](Shape(channels, size, self.n_filters))
        network = ConvNet(self.ways, channels, size, n_filters=self.n_filters)
        torch.func.replace_all_batch_norm_modules_(network)
        return network

    def start(self, job: Job) -> ClassifierProcess:
        drawn = replace(self, episode=job.seed)
        if self.comparison is None:
            return super(EpisodeTask, drawn).start(job)
        device = chosen_device(job.device)
        return Compared(drawn, job, drawn.network_at(job, device), drawn.minibatches(job.seed, False, device))

    def compare(self, model: Comparing, minibatches: Minibatches) -> tuple[Tensor, Tensor]:
        """
        :param model: that compares
        :param minibatches: of an episode
        :return: logits of the queries, by what the support is, and their labels
        """
        (support, labels), (queries, of_queries) = minibatches.next(), minibatches.unseen()
        return self.logits(lambda x: model.logits(support, labels, x, self.ways), queries), of_queries

    def minibatches(self, seed: int, sets_aside: bool, device: torch.device) -> Minibatches:
        return EpisodeMinibatches(self, seed, False, device)


class Compared(ClassifierProcess):
    """An episode of a comparing network: forward, and with ``QueryLoss`` backward."""

    task: EpisodeTask

    def learn(self, report: Report) -> None:
        task, model, minibatches = self.task, self.model, self.minibatches
        assert isinstance(model, Comparing)
        learns = not isinstance(self.job.learner, NoPretraining)
        if not learns and _has_fresh_statistics(model):
            raise ValueError(
                "the batch norm of this initialization has the statistics of a fresh network: with_statistics computes "
                "them on classes to learn from"
            )
        model.train(learns)
        with torch.set_grad_enabled(learns):
            logits, of_queries = task.compare(model, minibatches)
            loss = model.head.loss(logits, of_queries)
        if learns:
            scope = {n: p for n, p in model.named_parameters() if n in self.job.initialization.parameters}
            self.gradient = dict(zip(scope, torch.autograd.grad(loss, list(scope.values())), strict=True))
        error = (logits.argmax(dim=1) != of_queries).float().mean().item()
        self.finite = bool(loss.isfinite())
        self.scores = {"test_loss": loss.item(), "test_error": error} if self.finite else {"test_error": error}
        self.differentiated([task.steps], [error])


def _has_fresh_statistics(model: torch.nn.Module) -> bool:
    means = [norm.running_mean for norm in batch_norms(model)]
    return bool(means) and not any(mean.any() for mean in means if mean is not None)


class Episodes(ClassificationTasks):
    """
    Episodes to meta-learn from. There is one task, and every visit to it is another episode: a meta batch has
    ``sampling="with_replacement"``.

    :param data_dir: as of ``load_classes``
    :param part: ``"train"`` or ``"test"`` classes
    :param ways: as of ``EpisodeTask``
    :param shots: as of ``EpisodeTask``
    :param queries: as of ``EpisodeTask``
    :param comparison: as of ``EpisodeTask``
    :param updates: of a learning process; 0 with a comparison
    :param learning_rate: of its SGD
    :param batch_size: images per update; ``None``: the whole support
    :param n_filters: as of ``ConvNet``
    :raises ValueError: if there are fewer classes than ways, a class has fewer images than shots and queries, or
        updates don't go with the network
    """

    def __init__(
        self,
        data_dir: str,
        part: Part,
        ways: int,
        shots: int,
        queries: int,
        comparison: str | None = None,
        updates: int = 0,
        learning_rate: float = 0.1,
        batch_size: int | None = None,
        n_filters: int = 64,
    ) -> None:
        for setting, value, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
            if value < least:
                raise ValueError(f"{setting}={value} must be at least {least}")
        if comparison is not None and comparison not in NETWORKS:
            raise ValueError(f"comparison={comparison!r} is unknown, choose one of {', '.join(NETWORKS)}")
        if (comparison is None) != (updates > 0):
            raise ValueError(
                f"updates={updates} with comparison={comparison!r}: a network that compares makes none, another some"
            )
        if comparison is not None and batch_size is not None:
            raise ValueError(f"batch_size={batch_size}, but {comparison} sees the whole support at once: leave it out")
        classes = load_classes(data_dir, part)
        if len(classes) < ways:
            raise ValueError(
                f"{data_dir} has {len(classes)} classes to {'learn from' if part == 'train' else 'test with'}, "
                f"fewer than {ways} ways"
            )
        fewest = min(map(len, classes))
        if fewest < shots + queries:
            raise ValueError(
                f"{shots} shots and {queries} queries are {shots + queries} images of a class, but one of {data_dir} "
                f"has {fewest}: take fewer"
            )
        support = ways * shots
        if batch_size is not None and not 1 <= batch_size <= support:
            raise ValueError(f"batch_size={batch_size} must be 1 to {support}, the images of the support")
        self.task = EpisodeTask(
            f"{ways}-way {shots}-shot",
            updates,
            batch_size or support,
            learning_rate,
            as_float,
            data_dir,
            part,
            ways,
            shots,
            queries,
            comparison,
            n_filters,
        )
        super().__init__([self.task], "all", {"data": "episodes", "ways": ways, "comparison": comparison})

    def check_learner(self, learner: MetaLearner) -> None:
        super().check_learner(learner)
        compares = self.task.comparison is not None
        if isinstance(learner, QueryLoss) != compares and not isinstance(learner, NoPretraining):
            raise ValueError(
                f"{type(learner).__name__} learns from updates, and {self.task.comparison} makes none: take QueryLoss"
                if compares
                else f"QueryLoss is for networks that compare: give Episodes a comparison, {' or '.join(NETWORKS)}"
            )


@dataclass(frozen=True)
class TestEpisodes(Task):
    """
    Many episodes, each from the same θ⁰: what a meta-learner is judged by. The curve has a value for each, the share of
    its queries that were classified wrongly.

    :param task: to draw episodes of
    :param n: how many
    """

    __test__ = False  # it is no test of pytest's

    task: EpisodeTask
    n: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.n} episodes of {self.task.name}"

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.n * self.task.steps

    def run(self, job: Job, report: Report) -> TaskResult:
        started = time.perf_counter()
        seeds = np.random.SeedSequence(job.seed).generate_state(self.n) & 0x7FFFFFFF
        results = []
        for i, seed in enumerate(seeds.tolist()):
            results.append(self.task.run(replace(job, task=self.task, seed=seed), lambda *_: None))
            report((i + 1) * self.task.steps)
        errors = [result.scores["test_error"] for result in results]
        scores = {"test_error": float(np.mean(errors))}
        return TaskResult(
            name=self.name,
            curve=LearningCurve((np.arange(self.n) + 1) * self.task.steps, np.array(errors), self.steps, 1, False),
            steps=self.steps,
            seconds=time.perf_counter() - started,
            status=next((result.status for result in results if result.status != "ok"), "ok"),
            scores=scores,
            log=[(self.steps, {f"score/{name}": score for name, score in scores.items()})],
        )


def with_statistics(initialization: Initialization, task: EpisodeTask, seed: int, n: int = 50) -> Initialization:
    """
    An initialization whose batch norm has the statistics of classes to learn from: those of a meta-learned θ⁰ are a
    fresh network's, as buffers are never meta-learned.

    :param initialization: of a comparing network
    :param task: to draw episodes of
    :param seed: of the draws
    :param n: how many episodes; the statistics are the mean of theirs
    """
    model = task.network()
    assert isinstance(model, Comparing)
    initialization.apply_to(model)
    draws = np.random.SeedSequence([seed, 1]).generate_state(n).tolist()
    episodes = (replace(task, episode=draw).minibatches(draw, False, torch.device("cpu")) for draw in draws)
    recompute(model, episodes, lambda episode: task.compare(model, episode))
    computed = Initialization.of(model, initialization.scope, initialization.config)
    return replace(computed, parameters=initialization.parameters)
