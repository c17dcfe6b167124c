"""Several tasks at once: what they share, how their losses are balanced, and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from leap_rl.core import InProcess, Job, NoPretraining
from leap_rl.running.checkpoint import CheckpointError
from supervised.balancing import BALANCING
from supervised.hat import HAT
from supervised.joint import JointTrainer
from supervised.multi_cv.__main__ import main
from supervised.multi_cv.data import load
from supervised.multi_task.experiment import SHARING
from supervised.networks import ConvNet
from supervised.progressive import ProgressiveNet
from supervised.sharing import CrossStitch, HardSharing, SoftSharing
from supervised.visits import NextTask, TaskNetwork, VisitsTrainer
from tests.supervised.noise import noise

SHAPE: dict[str, int] = {"channels": 1, "image_size": 16, "n_blocks": 2, "n_filters": 4}
NETWORKS = {"hard": HardSharing, "soft": SoftSharing, "cross-stitch": CrossStitch}


def network(kind: Any, n: int = 3, **settings: Any) -> TaskNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: TaskNetwork = kind([4] * n, **settings, **SHAPE)
    return made


def trainer(kind: Any = HardSharing, n: int = 3, run_dir: Path | None = None, **settings: Any) -> JointTrainer:
    of_network = {name: settings.pop(name) for name in ("weight", "same") if name in settings}
    given: dict[str, Any] = {"learning_rate": 0.05, "passes": 3, "updates_per_pass": 4} | settings
    return JointTrainer(network(kind, n, **of_network), noise(n, n_blocks=2), run_dir=run_dir, device="cpu", **given)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# -- sharing -------------------------------------------------------------------------------------------


def columns_alone(joint: JointTrainer) -> list[nn.Module]:
    """Each task learned alone: a plain network from the same start, on the same minibatches, by plain SGD."""
    learned = []
    for index in range(len(joint.tasks)):
        model = ConvNet(4, n_filters=4, **{k: v for k, v in SHAPE.items() if k != "n_filters"})
        part = joint.network.of_task(index)
        blocks = part.encoder
        own = {}
        for i in range(2):
            column = blocks.convolutions if hasattr(blocks, "convolutions") else blocks.columns[index]
            norms = blocks.norms if hasattr(blocks, "convolutions") else blocks.norms[index]
            own |= {f"encoder.{4 * i}.{k}": v for k, v in column[i].state_dict().items()}
            own |= {f"encoder.{4 * i + 1}.{k}": v for k, v in norms[i].state_dict().items()}
        model.load_state_dict(own | {f"head.{k}": v for k, v in part.head.state_dict().items()})
        learned.append(model)
    for n_pass in range(3):
        seeds = np.random.SeedSequence([0, n_pass]).generate_state(4)
        for index, task in enumerate(joint.tasks):
            stream = task.minibatches(int(seeds[index]) & 0x7FFFFFFF, False, torch.device("cpu"))
            for i in range(4):
                rate = 0.05 * (1 + np.cos(np.pi * (n_pass * 4 + i) / 12)) / 2
                optimizer = torch.optim.SGD(learned[index].parameters(), lr=rate)
                x, y = stream.next()
                optimizer.zero_grad()
                nn.functional.cross_entropy(learned[index].train()(x), y).backward()
                optimizer.step()
    return learned


@pytest.mark.parametrize(("kind", "settings"), [(SoftSharing, {"weight": 0.0}), (CrossStitch, {"same": 1.0})])
def test_sharing_nothing_is_learning_each_task_alone(kind: Any, settings: dict[str, float]) -> None:
    """A penalty of 0, and stitches that are the identity and stay it."""
    joint = trainer(kind, **settings)
    if kind is CrossStitch:
        joint.network.stitches.requires_grad_(False)
        joint.network.stitches.grad = None
    expected = columns_alone(joint)
    joint.learn()
    x = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for i, alone in enumerate(expected):
        torch.testing.assert_close(joint.network.of_task(i).eval()(x), alone.eval()(x), atol=1e-5, rtol=1e-4)


def test_the_pull_is_the_gradient_of_the_sum_of_distances_from_the_mean() -> None:
    soft = network(SoftSharing, weight=0.3).double()
    of_tasks = [soft.of_task(i) for i in range(3)]
    sum(part.penalty(torch.zeros(1)) for part in of_tasks).backward()
    weights = [part.encoder.convolutions[1].weight for part in of_tasks]
    copies = [w.detach().clone().requires_grad_() for w in weights]
    mean = torch.stack(copies).mean(dim=0)
    (0.3 * sum((w - mean).square().sum() for w in copies)).backward()
    for w, copy in zip(weights, copies, strict=True):
        torch.testing.assert_close(w.grad, copy.grad)


def test_hard_sharing_sums_the_gradients_of_all_tasks() -> None:
    joint = trainer(passes=1, updates_per_pass=1)
    before = {n: p.detach().clone() for n, p in joint.network.named_parameters()}
    seeds = np.random.SeedSequence([0, 0]).generate_state(4)
    losses = []
    for i, task in enumerate(joint.tasks):
        x, y = task.minibatches(int(seeds[i]) & 0x7FFFFFFF, False, torch.device("cpu")).next()
        losses.append(nn.functional.cross_entropy(joint.network.of_task(i).train()(x), y))
    gradients = torch.autograd.grad(sum(losses), list(joint.network.parameters()))
    fresh = trainer(passes=1, updates_per_pass=1).learn()
    for (name, p), gradient in zip(fresh.network.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(p.detach(), before[name] - 0.05 * gradient, atol=1e-6, rtol=1e-4)


def test_a_stitch_mixes_channel_by_channel() -> None:
    stitched = network(CrossStitch, 2)
    assert stitched.stitches.shape == (2, 2, 2, 4)
    assert torch.equal(stitched.stitches[0, 0, :, 0], torch.tensor([0.9, 0.1]))
    with torch.no_grad():
        stitched.stitches.uniform_(-1, 1)
    x = torch.rand(3, 1, 16, 16)
    encoder = stitched.of_task(1).encoder
    h = [x, x]
    for block in range(2):
        h = [
            nn.functional.max_pool2d(encoder.norms[j][block](encoder.columns[j][block](h[j])), 2).relu()
            for j in range(2)
        ]
        alpha = stitched.stitches[block]
        h = [sum(h[j] * alpha[i, j][:, None, None] for j in range(2)) for i in range(2)]
    stitched.of_task(1).train()
    torch.testing.assert_close(stitched.of_task(1)(x), stitched.heads[1](h[1].flatten(1)), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_a_new_task_joins_and_leaves_the_others_as_they_were(kind: Any) -> None:
    tasks = noise(3, n_blocks=2)
    visits = VisitsTrainer(network(kind, 2), tasks[:2], [0, 1], device="cpu").learn()
    x = torch.rand(5, 1, 16, 16)
    before = [visits.network.of_task(i).eval()(x) for i in range(2)]
    means = visits.network.means() if isinstance(visits.network, SoftSharing) else []
    next_task = NextTask.of(tasks[2], 4, lambda: network(kind, 2))
    job = Job(next_task, visits.initialization, NoPretraining(), 7, "cpu")
    ((_, result),) = InProcess().run([job], lambda *_: None)
    assert result.status == "ok" and "test_error" in result.scores
    visits.network.add_task(4)
    for p, mean in zip(visits.network.of_task(-1).encoder.convolutions.parameters() if means else (), means,
                       strict=True):  # fmt: skip
        assert torch.equal(p, mean)
    for i in range(2):
        torch.testing.assert_close(visits.network.of_task(i).eval()(x), before[i])
    assert visits.network.of_task(-1)(x).shape == (5, 4)


# -- balancing -----------------------------------------------------------------------------------------


def test_scale_makes_the_unit_of_a_loss_irrelevant_to_the_bit() -> None:
    pytest.importorskip("torchjd")
    plain, other_unit = (trainer(balancing="scale", factors=f).learn() for f in ([1, 1, 1], [1, 128, 1]))
    assert same(plain.network, other_unit.network)
    assert not same(trainer().learn().network, trainer(factors=[1, 128, 1]).learn().network)


def test_uncertainty_and_dynamic_weights_are_the_papers() -> None:
    pytest.importorskip("torchjd")
    losses = torch.tensor([3.0, 0.5], requires_grad=True)
    uncertainty = BALANCING["uncertainty"](2)
    with torch.no_grad():
        next(uncertainty.parameters()).copy_(torch.tensor([1.0, -1.0]))
    expected = 0.5 * (3 * np.exp(-1) + 0.5 * np.exp(1)) + 0.5 * (1 - 1)
    assert uncertainty.combined(losses).item() == pytest.approx(expected)
    uncertainty.backward([losses[0] * 1000, losses[1]], [losses])
    assert next(uncertainty.parameters()).grad.abs().max() <= 1
    imtl = BALANCING["imtl-l"](2)
    with torch.no_grad():
        next(imtl.parameters()).copy_(torch.tensor([1.0, -1.0]))
    assert imtl.combined(losses).item() == pytest.approx(3 * np.exp(1) - 1 + 0.5 * np.exp(-1) + 1)
    dynamic = BALANCING["dynamic"](2)
    for of_pass in ([4.0, 1.0], [1.0, 1.0]):
        dynamic.combined(torch.tensor(of_pass))
        dynamic.end_pass()
    rates = np.exp(np.array([1 / 4, 1.0]) / 2)
    np.testing.assert_allclose(dynamic.weights(losses).detach().numpy(), 2 * rates / rates.sum(), rtol=1e-6)


def test_pcgrad_projects_where_gradients_conflict() -> None:
    pytest.importorskip("torchjd")
    shared, own = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    losses = [shared @ torch.tensor([1.0, 0.0]) + 3 * own.sum(), shared @ torch.tensor([-1.0, 1.0])]
    BALANCING["pcgrad"](2).backward(losses, [shared, own])
    # (1, 0) without its part along (-1, 1) is (½, ½); (-1, 1) without its part along (1, 0) is (0, 1).
    torch.testing.assert_close(shared.grad, torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(own.grad, torch.tensor([3.0]))


def test_mgda_takes_the_shortest_of_all_mixtures() -> None:
    """Of (2, 0) and (0, 1) that is (2, 4) / 5, by weights 1/5 and 4/5."""
    pytest.importorskip("torchjd")
    shared, mgda = torch.zeros(2, requires_grad=True), BALANCING["mgda"](2)
    losses = [shared @ torch.tensor([2.0, 0.0]), shared @ torch.tensor([0.0, 1.0])]
    mgda.backward(losses, [shared])
    torch.testing.assert_close(shared.grad, torch.tensor([0.4, 0.8]), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(mgda.weights(torch.stack(losses)), torch.tensor([0.2, 0.8]), atol=1e-2, rtol=1e-2)


# -- training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balancing", BALANCING)
def test_resuming_is_exact(tmp_path: Path, balancing: str) -> None:
    pytest.importorskip("torchjd")
    whole = trainer(CrossStitch, balancing=balancing, passes=4).learn()
    trainer(CrossStitch, run_dir=tmp_path, balancing=balancing, passes=4).learn(2)
    torch.rand(3)  # what others draw meanwhile changes nothing
    resumed = trainer(CrossStitch, run_dir=tmp_path, balancing=balancing, passes=4).learn()
    assert resumed.n_passes == 4 and same(whole.network, resumed.network) and same(whole.balancing, resumed.balancing)
    with pytest.raises(CheckpointError, match=r"trained with learning_rate 0\.05, not 0\.1"):
        trainer(CrossStitch, run_dir=tmp_path, balancing=balancing, passes=4, learning_rate=0.1)


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
def test_all_tasks_are_learned(kind: Any) -> None:
    errors = trainer(kind, passes=5, updates_per_pass=20).learn().test_errors()
    assert set(errors) == {"noise0", "noise1", "noise2"} and max(errors.values()) < 0.5 < 0.75  # of four classes


def test_what_cannot_be_trained() -> None:
    for settings, message in (
        ({"balancing": "fair"}, "balancing='fair' is unknown, choose one of equal, scale"),
        ({"factors": [1, 1]}, "must be 3, one of each task"),
        ({"factors": [1, 0, 1]}, "above 0 and finite"),
        ({"passes": 0}, "passes=0"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(**settings)
    for alone in (HAT, ProgressiveNet):
        with pytest.raises(ValueError, match=f"{alone.__name__} learns one task at a time: VisitsTrainer trains it"):
            JointTrainer(alone([4], **SHAPE), noise(1, n_blocks=2), 0.1, 1)
    with pytest.raises(ValueError, match="weight=-1 of soft sharing"):
        network(SoftSharing, weight=-1)
    with pytest.raises(ValueError, match="same=2 of cross-stitch"):
        network(CrossStitch, same=2)
    with pytest.raises(RuntimeError, match=r"pass 1 diverged: a smaller learning rate than 1e\+30"):
        trainer(learning_rate=1e30).learn()


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """notMNIST and MNIST in folders, a few images of noise of each class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, classes in (("notmnist", "ABCDEFGHIJ"), ("mnist", "0123456789")):
        for half, n in (("train", 8), ("test", 2)):
            for of_class in classes:
                folder = tmp_path / "data" / name / half / of_class
                folder.mkdir(parents=True)
                for i in range(n):
                    Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_all_kinds_run_and_are_in_the_table(data: Path, tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "runs"
    given = ["multi-task", "--data-dir", str(data), "--tasks", "mnist", "notmnist", "--passes", "1"]
    given += ["--n-filters", "2", "--root", str(root), "--large", "mnist", "--balancing", "equal", "scale"]
    assert main([*given, "--dry-run"]) == 0
    assert f"7 runs, {7 * 20 * 32 * 2:,} images" in capsys.readouterr().out and not root.exists()
    assert main(given) == 0 and main(given) == 0
    found = {f.parent.name: json.loads(f.read_text())["scores"] for f in root.glob("*/found.json")}
    assert len(found) == 7 and set(found["hard-scale-mnist-times-100-mnist-notmnist-seed0"]) == {
        "mean error",
        "mnist",
        "notmnist",
    }
    capsys.readouterr()
    assert main(["multi-task", "table", str(root), "--figure", str(tmp_path / "f.png")]) == 0
    shown = capsys.readouterr().out
    mean = found["hard-equal-mnist-times-100-mnist-notmnist-seed0"]["mean error"]
    # Alone a task has no loss that is larger than another's, nor anything to be balanced with.
    alone = found["single-equal-mnist-notmnist-seed0"]["mean error"]
    less = mean - alone
    balanced = found["hard-scale-mnist-times-100-mnist-notmnist-seed0"]["mean error"]
    row = f"| hard | scale | mnist times 100 | mnist notmnist | 1,280 | 1 | {balanced:.1f} | {balanced - alone:+.1f}"
    assert row in shown
    assert f"| hard | equal | mnist times 100 | mnist notmnist | 1,280 | 1 | {mean:.1f} | {less:+.1f}" in shown
    (data / "mnist" / "train" / "3" / "0.png").unlink()  # other data is another run
    load.cache_clear()
    assert main(given) == 2 and "is of another run: its data is {'mnist': 80, " in capsys.readouterr().err
    assert tuple(SHARING) == ("single", "hard", "soft", "cross-stitch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sharing", "firm"], "no sharing 'firm': there are single, hard, soft, cross-stitch"),
        (["--balancing", "fair"], "no balancing 'fair': there are equal"),
        (["--tasks", "mnist"], "tasks are mnist: two at least"),
        (["--tasks", "mnist", "mnist"], "mnist is named 2 times"),
        (["--tasks", "mnist", "notmnist", "--large", "gtsrb"], "gtsrb is not one of the tasks"),
        (["--tasks", "mnist", "notmnist", "--factor", "0"], "Must be > 0"),
        (["--tasks", "mnist", "notmnist", "--limit", "30"], "images to learn from"),
        (["--tasks", "mnist", "mist"], "mist"),
    ],
)
def test_bad_input_is_one_line(data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: Any) -> None:
    root = tmp_path / "runs"
    assert main(["multi-task", "--data-dir", str(data), "--root", str(root), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1 and not root.exists()
