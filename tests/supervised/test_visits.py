"""HAT and Progressive Nets: what their papers promise, and what resuming, revisiting and adding a task do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leap_rl.core import InProcess, Job, NoPretraining
from leap_rl.running.checkpoint import CheckpointError
from supervised.hat import HAT, GatedClassifier
from supervised.images import Images, Minibatches
from supervised.learning import make_updates
from supervised.networks import Classifier, ConvNet
from supervised.progressive import ProgressiveNet
from supervised.tasks import ClassificationTask
from supervised.visits import NextTask, TaskNetwork, VisitsTrainer

SMALL = {"image_size": 8, "n_blocks": 2, "n_filters": 8}
CLASSES = 4


@dataclass(frozen=True)
class Blobs(ClassificationTask):
    """Noise around an image for each class."""

    seed: int

    def images(self) -> Images:
        generator = torch.Generator().manual_seed(self.seed)
        centers = torch.randn(CLASSES, 3, 8, 8, generator=generator)
        labels = torch.arange(CLASSES).repeat(20)
        x = centers[labels] + 0.5 * torch.randn(len(labels), 3, 8, 8, generator=generator)
        return Images(x[:60], labels[:60], x[60:], labels[60:])

    def network(self) -> Classifier:
        return ConvNet(CLASSES, channels=3, **SMALL)


def blobs(n: int, updates: int = 12, **settings: object) -> list[Blobs]:
    return [Blobs(f"blobs{i}", updates, 10, 0.1, None, i, **settings) for i in range(n)]  # type: ignore[arg-type]


def hat(n: int = 2) -> HAT:
    torch.manual_seed(0)
    return HAT([CLASSES] * n, **SMALL)  # type: ignore[arg-type]


def progressive(lateral: str, n: int = 3) -> ProgressiveNet:
    torch.manual_seed(0)
    return ProgressiveNet([CLASSES] * n, lateral, **SMALL)  # type: ignore[arg-type]


def logits(network: TaskNetwork, task: int) -> torch.Tensor:
    x = blobs(task + 1)[task].images().test
    with torch.no_grad():
        return network.of_task(task).eval()(x)


# -- HAT -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), [(0, 1), (1, 0)])
def test_hat_keeps_what_a_task_claims(one: int, two: int) -> None:
    """Whichever comes first: tasks are revisited in any order."""
    network = hat()
    tasks = blobs(2, updates=60)
    trainer = VisitsTrainer(network, tasks, order=[one, two], seed=0).learn(1)
    embedding = network.embeddings[one]
    torch.testing.assert_close(network.gates[one], torch.sigmoid(400 * embedding))
    open_or_shut = (network.gates[one] < 1e-6) | (network.gates[one] > 1 - 1e-6)
    assert open_or_shut.float().mean() > 0.9 and 0.2 < network.gates[one].mean() < 0.8
    assert not network.gates[two].any()
    # To rounding where units are claimed: make the few that s_max left between into the one or the other.
    with torch.no_grad():
        embedding.copy_(torch.where(embedding > 0, 6.0, -6.0))
    network.end_visit(one)
    before, weights = logits(network, one), network.convolutions[1].weight.clone()  # type: ignore[operator]
    assert (before.argmax(1) == tasks[one].images().test_labels).float().mean() > 0.8
    trainer.learn(1)
    assert not torch.equal(network.convolutions[1].weight, weights)  # type: ignore[arg-type]
    assert torch.equal(logits(network, one), before)
    assert (logits(network, two).argmax(1) == tasks[two].images().test_labels).float().mean() > 0.8


def test_hat_counts_the_capacity_that_tasks_claim() -> None:
    network = hat(n=3)
    opened = torch.zeros(3, 2, 8, dtype=torch.bool)
    opened[0, 0, :4] = opened[1, 0, 2:6] = opened[1, 1, :1] = True
    for task in (0, 1):
        network.embeddings[task].data.copy_(torch.where(opened[task], 6.0, -6.0))
    assert network.end_visit(0) == {"share of filters open": 4 / 16, "share of filters claimed by any task": 4 / 16}
    assert network.end_visit(1) == {"share of filters open": 5 / 16, "share of filters claimed by any task": 7 / 16}
    # A task that is visited again may let go of what it had.
    network.embeddings[1].data.fill_(-6.0)
    assert network.end_visit(1) == {"share of filters open": 0, "share of filters claimed by any task": 4 / 16}


def test_hat_without_protection_would_not() -> None:
    """What the test above would see if the gradients were not compensated."""
    network = hat()
    trainer = VisitsTrainer(network, blobs(2, updates=60), order=[0, 1], seed=0).learn(1)
    before = logits(network, 0)
    network.gates.zero_()
    trainer.learn(1)
    assert not torch.allclose(logits(network, 0), before, atol=1e-3)


def test_hat_gradients_against_the_formulas() -> None:
    network = hat(n=3).double()
    network.gates.copy_(torch.rand(3, 2, 8))  # its own, of an earlier visit, too
    claimed = torch.maximum(network.gates[0], network.gates[1])
    model = network.of_task(2)
    x, y = torch.randn(10, 3, 8, 8, dtype=torch.float64), torch.randint(CLASSES, (10,))
    model.before_update(0.01, 0.5)
    s = 1 / 400 + (400 - 1 / 400) * 0.01
    gates = torch.sigmoid(s * network.embeddings[2])
    penalty = 0.75 * (gates * (1 - claimed)).sum() / (1 - claimed).sum()
    torch.testing.assert_close(model.penalty(y), penalty)
    (nn.functional.cross_entropy(model(x), y) + model.penalty(y)).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.before_step()
    second = torch.empty(8, 8)
    for i in range(8):
        for j in range(8):
            second[i, j] = 1 - min(claimed[1, i], claimed[0, j])
    for name, p in model.named_parameters():
        assert p.grad is not None
        expected = plain[name]
        if name.endswith("convolutions.0.weight"):
            expected = expected * (1 - claimed[0])[:, None, None, None]
        elif name.endswith("convolutions.1.weight"):
            expected = expected * second[:, :, None, None]
        elif name.endswith(("convolutions.0.bias", "scales.0", "shifts.0")):
            expected = expected * (1 - claimed[0])
        elif name.endswith(("convolutions.1.bias", "scales.1", "shifts.1")):
            expected = expected * (1 - claimed[1])
        elif name.endswith("embedding"):
            e = network.embeddings[2].detach()
            expected = expected * 400 * (torch.cosh(s * e) + 1) / (s * (torch.cosh(e) + 1))
        torch.testing.assert_close(p.grad, expected, msg=name)


def test_hat_learns_by_the_steps_of_its_paper() -> None:
    """One update written out: compensated and clipped gradients, the penalty, and embeddings that stay small."""
    task = blobs(1, updates=1)[0]
    networks = hat(), hat()
    for network in networks:
        network.gates[1] = torch.linspace(0, 1, 16).view(2, 8)
        network.embeddings[0].data.mul_(10)
    learned, expected = (network.of_task(0) for network in networks)
    make_updates(task, learned, Minibatches(task, 3, False, torch.device("cpu")), None, lambda *_: None)
    x, y = Minibatches(task, 3, False, torch.device("cpu")).next()
    expected.before_update(0.0, 0.5)
    (nn.functional.cross_entropy(expected(x), y) + expected.penalty(y)).backward()
    expected.before_step()
    with torch.no_grad():
        for p in expected.parameters():
            assert p.grad is not None
            p -= task.learning_rate * p.grad
        assert expected.encoder.embedding.abs().max() > 6
        expected.encoder.embedding.clamp_(-6, 6)
    for (name, p), q in zip(learned.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_hat_clips_what_compensation_makes_too_large() -> None:
    model = hat().of_task(0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e3)
    model.before_step()
    norm = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None) ** 0.5
    assert norm == pytest.approx(10_000, rel=1e-3)


def test_hat_anneals_its_gates_within_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(GatedClassifier, "after_step", lambda model: seen.append(model.encoder.s))
    VisitsTrainer(hat(), blobs(2, updates=12), order=[0]).learn()
    one_pass = torch.linspace(1 / 400, 400, 6).tolist()
    assert seen == pytest.approx(one_pass * 2)


def test_hat_lets_a_task_have_what_none_has_claimed_yet() -> None:
    network = hat()
    assert (network.of_task(0).free == 1).all()
    VisitsTrainer(network, blobs(2), order=[0]).learn()
    assert (network.of_task(0).free == 1).all()
    assert torch.equal(network.of_task(1).free, 1 - network.gates[0])
    network.add_task(CLASSES)
    assert torch.equal(network.of_task(1).free, 1 - network.gates[0])
    assert 0.2 < network.gates[0].mean() < 0.8


def test_hat_gates_end_open_or_shut_and_embeddings_stay_small() -> None:
    model = hat().of_task(0)
    model.before_update(0.0, 0.5)
    assert model.encoder.s == pytest.approx(1 / 400)
    assert (model.encoder.gates() - 0.5).abs().max() < 0.01
    model.before_update(1.0, 0.5)
    assert model.encoder.s == pytest.approx(400)
    model.encoder.embedding.data.mul_(100)
    model.after_step()
    assert model.encoder.embedding.abs().max() <= 6


# -- Progressive Nets ------------------------------------------------------------------------------


def test_progressive_nets_freeze_earlier_columns_and_learn_the_laterals() -> None:
    network = progressive("earlier")
    trainer = VisitsTrainer(network, blobs(3), order=[0, 1, 2], seed=0).learn(2)
    before = [logits(network, 0), logits(network, 1)]
    parts = {name: t.clone() for name, t in network.state_dict().items()}
    network.train()  # which `logits` has ended; earlier columns keep their running statistics nevertheless
    trainer.learn()
    assert torch.equal(logits(network, 0), before[0]) and torch.equal(logits(network, 1), before[1])
    for name, t in network.state_dict().items():
        changed = not torch.equal(t, parts[name])
        assert changed == name.startswith("columns.2."), name
    assert any("columns.2.adapters.0" in name for name in parts)


@pytest.mark.parametrize("lateral", ["earlier", "all"])
def test_every_part_of_a_column_gets_a_gradient_and_nothing_else_does(lateral: str) -> None:
    network = progressive(lateral)
    x, y = torch.randn(10, 3, 8, 8), torch.randint(CLASSES, (10,))
    nn.functional.cross_entropy(network.of_task(1)(x), y).backward()
    for name, p in network.named_parameters():
        assert (p.grad is not None and bool(p.grad.abs().max() > 0)) == name.startswith("columns.1."), name


@pytest.mark.parametrize("lateral", ["earlier", "all"])
def test_columns_against_the_formula(lateral: str) -> None:
    """Equation 2 of Rusu et al., written out layer by layer for all columns at once: three of three blocks."""
    torch.manual_seed(0)
    network: Any = ProgressiveNet([CLASSES] * 3, lateral, image_size=8, n_blocks=3, n_filters=8)  # type: ignore[arg-type]
    network.add_task(CLASSES)
    for p in (p for name, p in network.named_parameters() if name.endswith("alpha")):
        p.data.normal_()  # else what comes from the side is hardly seen
    sources = [[j for j in range(3) if (j < i if lateral == "earlier" else j != i)] for i in range(3)] + [[0, 1, 2]]
    assert [column.sources for column in network.columns] == sources
    x = torch.randn(5, 3, 8, 8)

    def lateral_of(i: int, layer: int, h: list[torch.Tensor]) -> torch.Tensor:
        adapter = network.columns[i].adapters[layer]
        scaled = [alpha * h[j] for alpha, j in zip(adapter.alpha, sources[i], strict=True)]
        return adapter.expand(adapter.reduce(torch.cat(scaled, dim=1)).relu())

    h = [x] * 4
    for layer in range(3):
        added = [lateral_of(i, layer - 1, h) if layer and sources[i] else 0 for i in range(4)]
        sums = [column.convolutions[layer](h[i]) + added[i] for i, column in enumerate(network.eval().columns)]
        h = [nn.functional.max_pool2d(c.norms[layer](s), 2).relu() for c, s in zip(network.columns, sums, strict=True)]
    h = [features.flatten(1) for features in h]
    for i, column in enumerate(network.columns):
        expected = column.head(h[i]) + (lateral_of(i, -1, h) if sources[i] else 0)
        torch.testing.assert_close(network.of_task(i).eval()(x), expected)


@pytest.mark.parametrize("lateral", ["earlier", "all"])
def test_the_number_of_parameters_is_the_formulas(lateral: str) -> None:
    channels, f, blocks, features = 3, 8, 2, 8 * 2 * 2
    total = 0
    for task in range(3):
        m = task if lateral == "earlier" else 2
        total += (9 * channels * f + f) + (blocks - 1) * (9 * f * f + f) + blocks * 2 * f + features * CLASSES + CLASSES
        if m:
            total += (blocks - 1) * (m + (m * f * f + f) + 9 * f * f)
            total += m + (m * features * features + features) + features * CLASSES
    assert sum(p.numel() for p in progressive(lateral).parameters()) == total


# -- both ------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[], TaskNetwork]] = {
    "HAT": partial(HAT, [CLASSES] * 2, **SMALL),  # type: ignore[arg-type]
    # As wide as it is meant to be: so many filters convolve in another order in another layout.
    "Progressive Nets": partial(ProgressiveNet, [CLASSES] * 2, "all", image_size=8, n_blocks=2, n_filters=64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    def trainer(folder: Path, order: list[int]) -> VisitsTrainer:
        torch.manual_seed(0)
        return VisitsTrainer(KINDS[kind](), blobs(2, updates=4), order, folder, folder / "tensorboard", seed=3)

    order = [0, 1, 1, 0]
    whole = trainer(tmp_path / "whole", order).learn()
    trainer(tmp_path / "part", order).learn(2)
    rest = trainer(tmp_path / "part", order)
    assert rest.n_visits == 2
    rest.learn()
    for name, t in whole.network.state_dict().items():
        assert torch.equal(t, rest.network.state_dict()[name]), name
    assert list((tmp_path / "part" / "tensorboard").glob("events*"))
    with pytest.raises(CheckpointError, match="was trained with visits"):
        trainer(tmp_path / "part", [1, 1, 0, 0])
    longer = trainer(tmp_path / "part", [*order, 1])
    assert longer.n_visits == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_new_starts_from_the_trained_network(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = VisitsTrainer(KINDS[kind](), blobs(2), order=[0, 1, 0, 1], seed=0).learn()
    theta = trainer.initialization
    theta.save(tmp_path / "theta")
    task = NextTask.of(blobs(3, updates=60, annealing=True)[2], CLASSES, KINDS[kind])
    assert task.updates == 60 and task.annealing
    results = {}
    for name, start in (("trained", theta), ("again", type(theta).load(tmp_path / "theta"))):
        ((_, results[name]),) = InProcess().run([Job(task, start, NoPretraining(), 5)], lambda *_: None)
        assert results[name].status == "ok", results[name].error
    assert results["trained"].scores == results["again"].scores
    assert results["trained"].scores["test_error"] < 0.5
    for name, tensor in trainer.initialization.parameters.items():
        assert torch.equal(tensor, theta.parameters[name])
    # What the new task has of its own is not drawn as that of the first one was.
    own = task.start(Job(task, theta, NoPretraining(), 0)).model.head.weight
    torch.manual_seed(0)
    first = KINDS[kind]().of_task(0).head.weight
    assert own.shape == first.shape and not torch.equal(own, first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_is_whole_on_its_device(kind: str) -> None:
    """Also what is no parameter of it, such as the columns of other tasks. (``meta`` stands for a GPU.)"""
    trainer = VisitsTrainer(KINDS[kind](), blobs(2), order=[0, 1], seed=0).learn()
    task = NextTask.of(blobs(3)[2], CLASSES, KINDS[kind])
    model = task.start(Job(task, trainer.initialization, NoPretraining(), 0, "meta")).model
    held = [t for value in vars(model).values() for t in (value if isinstance(value, list | tuple) else [value])]
    tensors = [*model.parameters(), *model.buffers(), *(t for t in held if isinstance(t, torch.Tensor))]
    tensors += [p for module in held if isinstance(module, nn.Module) for p in module.parameters()]
    assert {t.device.type for t in tensors} == {"meta"}


def test_orders_of_other_tasks_and_divergence_are_said() -> None:
    with pytest.raises(ValueError, match=r"2 tasks, but the order of the visits is \[0, 2\]"):
        VisitsTrainer(hat(), blobs(2), order=[0, 2])
    wild = [Blobs("wild", 12, 10, 1e38, None, 0)]
    with pytest.raises(RuntimeError, match="visit 1, to wild, diverged"):
        VisitsTrainer(progressive("earlier", 1), wild, order=[0]).learn()
