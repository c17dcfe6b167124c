"""HAT and Progressive Nets: what their papers promise, and what resuming, revisiting and adding a task do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from leap_rl.core import InProcess, Job, NoPretraining
from leap_rl.core.checkpoint import CheckpointError
from supervised.hat import HAT, S_MAX, GatedClassifier
from supervised.networks import Classifier, ConvNet
from supervised.progressive import ProgressiveNet
from supervised.tasks import ClassificationTask, Images, Minibatches
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


def test_hat_keeps_what_a_task_claims() -> None:
    network = hat()
    tasks = blobs(2, updates=60)
    trainer = VisitsTrainer(network, tasks, order=[0, 1], seed=0).learn(1)
    open_or_shut = (network.gates[0] < 1e-6) | (network.gates[0] > 1 - 1e-6)
    assert open_or_shut.float().mean() > 0.9
    # To rounding where units are claimed: make the few that s_max left between into the one or the other.
    with torch.no_grad():
        network.embeddings[0].copy_(torch.where(network.gates[0] > 0.5, 6.0, -6.0))
    network.end_visit(0)
    before, weights = logits(network, 0), network.convolutions[1].weight.clone()  # type: ignore[operator]
    trainer.learn(1)
    assert not torch.equal(network.convolutions[1].weight, weights)  # type: ignore[arg-type]
    assert torch.equal(logits(network, 0), before)
    assert (logits(network, 1).argmax(1) == tasks[1].images().test_labels).float().mean() > 0.8
    used = network.end_visit(1)
    assert 0 < used["share of filters open"] <= used["share of filters claimed by any task"] <= 1
    assert used["share of filters open"] == pytest.approx(network.gates[1].mean().item())


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
    model.before_update(0.01)
    s = 1 / S_MAX + (S_MAX - 1 / S_MAX) * 0.01
    gates = torch.sigmoid(s * network.embeddings[2])
    penalty = 0.75 * (gates * (1 - claimed)).sum() / (1 - claimed).sum()
    torch.testing.assert_close(model.penalty(), penalty)
    (nn.functional.cross_entropy(model(x), y) + model.penalty()).backward()
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
            expected = expected * S_MAX * (torch.cosh(s * e) + 1) / (s * (torch.cosh(e) + 1))
        torch.testing.assert_close(p.grad, expected, msg=name)


def test_hat_learns_by_the_steps_of_its_paper() -> None:
    """One update written out: compensated and clipped gradients, the penalty, and embeddings that stay small."""
    task = blobs(1, updates=1)[0]
    networks = hat(), hat()
    for network in networks:
        network.gates[1] = torch.linspace(0, 1, 16).view(2, 8)
        network.embeddings[0].data.mul_(10)
    learned, expected = (network.of_task(0) for network in networks)
    task.learn(learned, Minibatches(task, 3, False, torch.device("cpu")), None, lambda steps: None)
    x, y = Minibatches(task, 3, False, torch.device("cpu")).next()
    expected.before_update(0.0)
    (nn.functional.cross_entropy(expected(x), y) + expected.penalty()).backward()
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
    one_pass = torch.linspace(1 / S_MAX, S_MAX, 6).tolist()
    assert seen == pytest.approx(one_pass * 2)


def test_hat_lets_a_task_have_what_none_has_claimed_yet() -> None:
    network = hat()
    assert (network.of_task(0).free == 1).all()
    VisitsTrainer(network, blobs(2), order=[0]).learn()
    assert (network.of_task(0).free == 1).all()
    assert torch.equal(network.of_task(1).free, 1 - network.gates[0])
    network.add_task(CLASSES)
    assert torch.equal(network.of_task(1).free, 1 - network.gates[0])


def test_hat_gates_end_open_or_shut_and_embeddings_stay_small() -> None:
    model = hat().of_task(0)
    model.before_update(0.0)
    assert model.encoder.s == pytest.approx(1 / S_MAX)
    assert (model.encoder.gates() - 0.5).abs().max() < 0.01
    model.before_update(1.0)
    assert model.encoder.s == pytest.approx(S_MAX)
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


def test_a_column_against_the_formula() -> None:
    """Equation 2 of Rusu et al., written out for two columns of two blocks."""
    network = progressive("earlier", n=2).eval()
    x = torch.randn(5, 3, 8, 8)

    def norm(column: nn.Module, i: int, h: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d(column.norms[i](h), 2).relu()  # type: ignore[index,operator]

    one, two = network.columns
    a0 = norm(one, 0, one.convolutions[0](x))  # type: ignore[index,operator]
    a1 = norm(one, 1, one.convolutions[1](a0))  # type: ignore[index,operator]
    b0 = norm(two, 0, two.convolutions[0](x))  # type: ignore[index,operator]
    first, last = two.adapters  # type: ignore[misc]
    b1 = norm(two, 1, two.convolutions[1](b0) + first.expand(first.reduce(first.alpha * a0).relu()))  # type: ignore
    expected = two.head(b1.flatten(1)) + last.expand(last.reduce(last.alpha * a1.flatten(1)).relu())  # type: ignore
    torch.testing.assert_close(network.of_task(1).eval()(x), expected)
    torch.testing.assert_close(network.of_task(0).eval()(x), one.head(a1.flatten(1)))  # type: ignore[operator]


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
    with pytest.raises(CheckpointError, match="made visits in another order"):
        trainer(tmp_path / "part", [1, 1, 0, 0])
    longer = trainer(tmp_path / "part", [*order, 1])
    assert longer.n_visits == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_new_starts_from_the_trained_network(kind: str, tmp_path: Path) -> None:
    trainer = VisitsTrainer(KINDS[kind](), blobs(2), order=[0, 1, 0, 1], seed=0).learn()
    theta = trainer.initialization
    theta.save(tmp_path / "theta")
    task = NextTask.of(blobs(3, updates=20, annealing=True)[2], CLASSES, KINDS[kind])
    assert task.updates == 20 and task.annealing
    results = {}
    for name, start in (("trained", theta), ("again", type(theta).load(tmp_path / "theta"))):
        ((_, results[name]),) = InProcess().run([Job(task, start, NoPretraining(), 5)], lambda index, steps: None)
        assert results[name].status == "ok", results[name].error
    assert results["trained"].scores == results["again"].scores
    assert results["trained"].scores["test_error"] < 0.5
    for name, tensor in trainer.initialization.parameters.items():
        assert torch.equal(tensor, theta.parameters[name])
    # What the new task has of its own is not drawn as that of the first one was.
    own = task.start(Job(task, theta, NoPretraining(), 0))[0].head.weight
    torch.manual_seed(0)
    first = KINDS[kind]().of_task(0).head.weight
    assert own.shape == first.shape and not torch.equal(own, first)


def test_orders_of_other_tasks_and_divergence_are_said() -> None:
    with pytest.raises(ValueError, match=r"2 tasks, but the order of the visits is \[0, 2\]"):
        VisitsTrainer(hat(), blobs(2), order=[0, 2])
    wild = [Blobs("wild", 12, 10, 1e38, None, 0)]
    with pytest.raises(RuntimeError, match="visit 1, to wild, diverged"):
        VisitsTrainer(progressive("earlier", 1), wild, order=[0]).learn()
