"""Multi-head fine-tuning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from leap_rl.core import CheckpointError, InProcess, Job, NoPretraining
from supervised.multihead import MultiHeadTrainer
from tests.supervised.noise import noise

PER_PASS = 5  # 40 images in minibatches of 8


def trainer(**kwargs: object) -> MultiHeadTrainer:
    return MultiHeadTrainer(noise(3), 0.1, device="cpu", **kwargs)  # type: ignore[arg-type]


def test_a_pass_sees_every_image_of_every_task_once_in_one_shuffled_order() -> None:
    joint = trainer()
    seen = [(task, x, y) for task, x, y in joint._pass()]
    order = [task for task, _, _ in seen]
    assert Counter(order) == {0: PER_PASS, 1: PER_PASS, 2: PER_PASS}
    assert order != sorted(order) and order != [0, 1, 2] * PER_PASS
    for i, task in enumerate(joint.tasks):
        images = torch.cat([x for t, x, _ in seen if t == i]).flatten(1)
        torch.testing.assert_close(
            images.sort(dim=0).values, task.images().train.flatten(1).sort(dim=0).values, rtol=0, atol=0
        )
    joint.n_updates = 3 * PER_PASS  # the next pass
    assert [task for task, _, _ in joint._pass()] != order


def test_an_update_is_plain_sgd_on_the_encoder_and_one_head() -> None:
    joint = trainer()
    task, x, y = next(joint._pass())
    torch.manual_seed(0)
    networks = [t.network() for t in joint.tasks]
    reference = nn.Sequential(networks[0].encoder, networks[task].head)
    others = {i: network.head.weight.detach().clone() for i, network in enumerate(networks) if i != task}
    loss = nn.functional.cross_entropy(reference(x), y)
    loss.backward()
    with torch.no_grad():
        for p in reference.parameters():
            p -= 0.1 * p.grad  # type: ignore[operator]
    joint.learn(1)
    for p, q in zip(reference[0].parameters(), joint.encoder.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(joint.heads[task].weight, reference[1].weight, rtol=1e-5, atol=1e-6)
    for i, weight in others.items():
        assert torch.equal(joint.heads[i].weight, weight)


def test_it_learns_all_tasks_and_a_new_one_starts_from_the_encoder() -> None:
    joint = trainer().learn(90)
    for task, head in zip(joint.tasks, joint.heads, strict=True):
        images = task.images()
        wrong = head(joint.encoder(images.train)).argmax(dim=1) != images.train_labels
        assert wrong.float().mean() < 0.5 < 0.75  # of four classes
    start = joint.initialization
    assert start.scope == "encoder" and all(name.startswith("encoder.") for name in start.parameters)
    new = noise(4, updates=10)[3]
    model = new.start(Job(new, start, NoPretraining(), 7, "cpu")).model
    torch.manual_seed(7)
    assert torch.equal(model.head.weight, new.network().head.weight)  # its own
    assert torch.equal(next(model.encoder.parameters()), next(joint.encoder.parameters()))
    assert torch.equal(model.encoder[1].running_mean, joint.encoder[1].running_mean)
    (_, result), *_ = InProcess().run([Job(new, start, NoPretraining(), 7, "cpu")], lambda *_: None)
    assert result.status == "ok"


def test_resuming_is_exact_also_amid_a_pass(tmp_path: Path) -> None:
    whole = trainer().learn(20)
    trainer(run_dir=tmp_path).learn(12)
    resumed = trainer(run_dir=tmp_path).learn(8)
    assert resumed.n_updates == 20
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(CheckpointError, match="trained with seed 0, not 1"):
        trainer(run_dir=tmp_path, seed=1)
    with pytest.raises(CheckpointError, match=r"trained with tasks \['noise0', 'noise1', 'noise2'\], not \['noise0'\]"):
        MultiHeadTrainer(noise(1), 0.1, tmp_path)


def test_what_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        MultiHeadTrainer([], 0.1)
    with pytest.raises(ValueError, match="noise0 has another encoder than noise0"):
        MultiHeadTrainer([*noise(1), *noise(1, n_blocks=3)], 0.1)
    with pytest.raises(RuntimeError, match=r"diverged before update .* than 1e\+30"):
        MultiHeadTrainer(noise(1), 1e30, device="cpu").learn(5)


def test_an_update_that_diverges_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    begun = trainer(run_dir=tmp_path).learn(4)
    kept = {name: tensor.clone() for name, tensor in begun.model.state_dict().items()}
    with torch.no_grad():
        next(begun.model.parameters()).fill_(torch.inf)
    with pytest.raises(RuntimeError, match=r"after step 4 encoder\S+ is not finite, and not saved"):
        begun.save()
    resumed = trainer(run_dir=tmp_path)
    assert resumed.n_updates == 4
    assert all(torch.equal(tensor, kept[name]) for name, tensor in resumed.model.state_dict().items())
    # Statistics of one task's batch norm may diverge where those of others don't.
    next(b for n, b in resumed.model.named_buffers() if n.endswith("running_var")).fill_(torch.inf)
    resumed.save()
    assert trainer(run_dir=tmp_path).n_updates == 4


def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    mine = trainer(run_dir=tmp_path, tensorboard_log=tmp_path / "log").learn(2)
    logged = sorted((tmp_path / "log").iterdir())
    assert mine.checkpoints is not None
    with mine.checkpoints.alone(2), pytest.raises(ValueError, match="in use by"):
        trainer(run_dir=tmp_path, tensorboard_log=tmp_path / "log").learn(2)
    assert sorted((tmp_path / "log").iterdir()) == logged
