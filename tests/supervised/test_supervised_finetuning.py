"""Fine-tuning strategies, and batch norm, on classification."""

from __future__ import annotations

import gzip
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noise import Noise, noise
from torch import Tensor

from leap_rl.core import MAML, Initialization, InProcess, Job, NoPretraining, TaskResult
from supervised.batch_norm import check_batch_norm, recompute
from supervised.images import Images
from supervised.multi_cv.__main__ import main
from supervised.multi_cv.tasks import DataSets, _folds
from supervised.networks import ConvNet
from supervised.together import learn_together


@dataclass(frozen=True)
class Validated(Noise):
    """Its test images are those for validation, too."""

    def images(self) -> Images:
        images = super().images()
        return replace(images, validation=images.test, validation_labels=images.test_labels)


def task(**kwargs: Any) -> Noise:
    return replace(noise(1, updates=10)[0], **kwargs)


def pretrained() -> Initialization:
    """An encoder whose statistics are no fresh network's."""
    torch.manual_seed(5)
    network = ConvNet(4, image_size=16)
    recompute(network, [torch.rand(16, 1, 16, 16) for _ in range(3)])
    return Initialization.of(network, "encoder")


def learn(of: Noise, start: Initialization) -> TaskResult:
    return of.run(Job(of, start, NoPretraining(), 0, "cpu", return_final=True), lambda *_: None)


def final(result: TaskResult) -> Initialization:
    assert result.final is not None
    return result.final


def test_neutral_strategies_are_plain_training_to_the_bit() -> None:
    start = pretrained()
    plain = learn(task(), start)
    text = "full+slow:factor=1+discriminative:decay=1+lp-ft:probe=0+gradual:over=0+rgn:power=0+l2:strength=0"
    neutral = learn(task(finetune=text + "+surgical:blocks=encoder,head+shrink-perturb:shrink=1,perturb=0"), start)
    assert np.array_equal(plain.curve.values, neutral.curve.values) and plain.scores == neutral.scores
    for name, tensor in (final(plain).parameters | final(plain).buffers).items():
        assert torch.equal(tensor, (final(neutral).parameters | final(neutral).buffers)[name])
    assert learn(task(finetune="slow"), start).scores != plain.scores


def test_a_linear_probe_trains_the_head_alone() -> None:
    start = pretrained()
    result = learn(task(finetune="linear-probe", updates=60, learning_rate=0.3), start)
    for name, tensor in final(result).parameters.items():
        assert torch.equal(tensor, start.parameters[name])
    assert result.curve.values[-10:].mean() < 0.5 * result.curve.values[:5].mean()
    assert not torch.equal(final(result).buffers["encoder.1.running_mean"], start.buffers["encoder.1.running_mean"])


def test_early_stopping_waits_for_what_will_learn() -> None:
    """A probe that does not improve is no reason to end before the rest has learned."""
    start = pretrained()
    early = {"updates": 40, "learning_rate": 1e-12, "patience": 1, "validation_freq": 2, "name": "v", "seed": 0}
    of = Validated(**{**vars(task()), **early})
    assert learn(of, start).steps == 4 * 8
    assert learn(replace(of, finetune="lp-ft:probe=0.5"), start).steps == 22 * 8
    # Until the probe's own patience ends it, after validations 2 and 3; from then on the task's own counts.
    assert learn(replace(of, finetune="lp-ft:probe=1,patience=2"), start).steps == 8 * 8


def test_frozen_statistics_stay_and_normalize() -> None:
    start = pretrained()
    result = learn(task(batch_norm="freeze"), start)
    for name, tensor in final(result).buffers.items():
        assert torch.equal(tensor, start.buffers[name])
    assert not torch.equal(final(result).parameters["encoder.0.weight"], start.parameters["encoder.0.weight"])
    assert result.scores != learn(task(), start).scores


def test_statistics_are_recomputed_on_the_target() -> None:
    """Of the first layer they are those of all images to learn from, here in float64."""
    start = pretrained()
    of = task(batch_norm="recompute", finetune="linear-probe")
    buffers = final(learn(of, start)).buffers
    network = of.network()
    start.apply_to(network)
    with torch.no_grad():
        layer = network.encoder[0].double()(of.images().train.double())
    torch.testing.assert_close(buffers["encoder.1.running_mean"].double(), layer.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert (buffers["encoder.1.running_var"].double() / layer.var((0, 2, 3)) - 1).abs().max() < 0.1
    assert int(buffers["encoder.1.num_batches_tracked"]) == 5


def test_no_image_counts_more_than_another_where_the_last_minibatch_is_small() -> None:
    of = task(batch_norm="recompute", finetune="linear-probe", batch_size=13)
    buffers = final(learn(of, pretrained())).buffers
    network = of.network()
    pretrained().apply_to(network)
    with torch.no_grad():
        layer = network.encoder[0](of.images().train)
    assert len(layer) % 13 not in (0, 12) and int(buffers["encoder.1.num_batches_tracked"]) == -(-len(layer) // 13)
    torch.testing.assert_close(buffers["encoder.1.running_mean"], layer.mean((0, 2, 3)), rtol=2e-2, atol=2e-3)


def test_what_cannot_be_is_said_before_any_update() -> None:
    fresh = Initialization.of(ConvNet(4, image_size=16), "encoder")
    for of, start, message in (
        (task(batch_norm="freeze"), fresh, "are a fresh network's 0 and 1, since they are not meta-learned"),
        (task(finetune="surgical:blocks=encoder.1"), fresh, r"no block 'encoder.1': there are encoder.0, encoder.4"),
        (task(finetune="gradul"), fresh, "did you mean gradual"),
        (task(finetune="lp-ft:patience=3"), fresh, "has no images for validation"),
    ):
        with pytest.raises(ValueError, match=message):
            learn(of, start)
    with pytest.raises(ValueError, match="has none that keeps statistics"):
        check_batch_norm("recompute", torch.nn.Linear(2, 2), {})
    with pytest.raises(ValueError, match="MAML"):
        of = task(finetune="gradual")
        of.run(Job(of, fresh, MAML(), 0, "cpu"), lambda *_: None)
    for changed in (task(finetune="gradual"), task(batch_norm="recompute")):
        with pytest.raises(ValueError, match="fine-tuned by a strategy of its own: run it with another engine"):
            learn_together([Job(changed, fresh, NoPretraining(), 0, "cpu")], lambda *_: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of ten classes, IDX files of noise around a stripe for each class."""
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("mnist", "fashion-mnist")):
        (root / name).mkdir()
        rng = np.random.default_rng(number)
        for half, each in (("train", 8), ("t10k", 2)):
            labels = np.repeat(np.arange(10, dtype=np.uint8), each)
            images = rng.integers(0, 80, (len(labels), 28, 28)).astype(np.uint8)
            images[np.arange(len(labels)), 2 * labels + number] = 255
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
                with gzip.open(root / name / f"{half}-{kind}-ubyte.gz", "wb") as file:
                    file.write(head + array.tobytes())
    return root


def test_a_run_is_evaluated_by_strategies_apart_from_its_plain_result(data: Path, tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    command = ["--meta-steps", "1", "--meta-batch-size", "1", "--passes", "2", "--batch-size", "16"]
    command += ["--held-out", "mnist", "--engine", "in-process", "--root", str(runs), "--data-dir", str(data)]
    assert main(["train", *command, "--learners", "leap-sgd", "multihead", "hat"]) == 0
    capsys.readouterr()

    def evaluated(learner: str, *given: str) -> tuple[int, str, str]:
        run = str(runs / f"{learner}-mnist-seed0")
        code = main(["evaluate", run, "--data-dir", str(data), "--engine", "in-process", *given])
        out = capsys.readouterr()
        return code, out.out, out.err

    plain = evaluated("multihead")
    assert plain[0] == 0
    tuned = evaluated("multihead", "--finetune", "gradual", "--batch-norm", "freeze")
    assert tuned[0] == 0 and tuned[1] != plain[1]
    held_out = runs / "multihead-mnist-seed0" / "0001" / "held-out, gradual, batch norm freeze" / "mnist"
    written = (held_out / "state.json").stat().st_mtime_ns
    assert evaluated("multihead", "--finetune", "gradual", "--batch-norm", "freeze") == tuned
    assert evaluated("multihead") == plain and (held_out / "state.json").stat().st_mtime_ns == written
    assert evaluated("leap-sgd", "--finetune", "lp-ft:probe=0.9,patience=1", "--batch-norm", "recompute")[0] == 0
    assert evaluated("multihead", "--transfer-layers", "encoder.0")[1] not in (plain[1], tuned[1])
    for learner, given, message in (
        ("leap-sgd", ["--transfer-layers", "encoder.5"], "no block 'encoder.5'"),
        ("leap-sgd", ["--batch-norm", "freeze"], "are a fresh network's 0 and 1"),
        ("leap-sgd", ["--finetune", "surgical:blocks=encoder.5"], "no block 'encoder.5'"),
        ("hat", ["--finetune", "gradual"], "is not fine-tuned by strategies"),
    ):
        code, _, error = evaluated(learner, *given)
        assert code == 2 and message in error and error.count("\n") == 1
    assert main(["table", str(runs)]) == 0  # of the plain results alone
    error = plain[1].splitlines()[-1].split("|")[2].strip()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    (of_mnist,) = [row for row in rows if row[0].startswith("| mnist")][:1]
    assert error in of_mnist[rows[0].index("multihead")]


def test_a_search_by_folds_goes_on_and_ends_in_a_command_that_runs(
    data: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "multihead-mnist-seed0"
    command = ["--meta-steps", "1", "--meta-batch-size", "1", "--passes", "2", "--batch-size", "16"]
    command += ["--held-out", "mnist", "--root", str(tmp_path), "--data-dir", str(data), "--seeds", "0"]
    assert main(["train", *command, "--engine", "in-process", "--learners", "multihead", "hat-none"]) == 0
    here = ["--data-dir", str(data), "--engine", "in-process"]

    def tuned(trials: int) -> list[str]:
        capsys.readouterr()
        assert main(["tune", str(run), "--folds", "2", "--trials", str(trials), *here]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line]

    first, *_, last = tuned(2)
    assert first.startswith("trial 1 of 2: error ") and first.endswith(": full, batch norm update, rate 0.1")
    assert next(line for line in tuned(3) if line.startswith("trial")).startswith("trial 3 of 3")
    # What is done is done: nothing is learned any more, and the same command comes out.
    monkeypatch.setattr(InProcess, "run", None)
    again = tuned(3)
    monkeypatch.undo()
    assert not any(line.startswith("trial") for line in again)
    words = shlex.split(again[-1])
    assert words[:4] == shlex.split(last)[:4] == ["python", "-m", "supervised.multi_cv", "evaluate"]
    assert main([*words[3:], "--engine", "in-process"]) == 0
    assert "| multihead-mnist-seed0 |" in capsys.readouterr().out
    assert main(["tune", str(tmp_path / "hat-none-mnist-seed0"), *here]) == 2
    assert "is not fine-tuned by strategies" in capsys.readouterr().err


def test_folds_are_of_the_training_images_alone_and_cover_them(data: Path) -> None:
    """What ends a learning process early, and what is reported, is in none of them."""

    def images(fold: tuple[int, int] | None) -> Images:
        return DataSets(str(data), ["mnist"], 0, batch_size=16, fold=fold)[0].images()

    def rows(part: Tensor | None) -> set[bytes]:
        assert part is not None
        return {image.numpy().tobytes() for image in part}

    whole, folds = images(None), [images((number, 3)) for number in range(3)]
    judged = [rows(fold.test) for fold in folds]
    assert set.union(*judged) == rows(whole.train) and sum(map(len, judged)) == len(whole.train)
    for fold, of in zip(folds, judged, strict=True):
        assert rows(fold.train) == rows(whole.train) - of
        assert rows(fold.validation) == rows(whole.validation) and not rows(whole.test) & (rows(fold.train) | of)
        assert fold.test_labels.bincount(minlength=10).tolist() == pytest.approx([7 / 3] * 10, abs=0.7)


def test_groups_stay_in_one_fold() -> None:
    rng = np.random.default_rng(0)
    labels, groups = np.repeat(np.arange(4), 30), np.repeat(np.arange(40), 3)
    of = _folds(labels, groups, 3, rng)
    assert all(len(set(of[groups == group])) == 1 for group in range(40))
    assert all(9 <= (of[labels == label] == fold).sum() <= 12 for label in range(4) for fold in range(3))


@pytest.mark.slow
def test_on_a_ray_cluster_the_same_is_learned(data: Path, tmp_path: Path, capsys: Any) -> None:
    ray = pytest.importorskip("ray")
    tables = []
    try:
        for engine in (["in-process"], ["ray", "--task-timeout", "300"]):
            runs = str(tmp_path / engine[0])
            command = ["--meta-steps", "1", "--meta-batch-size", "2", "--passes", "2", "--batch-size", "16"]
            command += [
                "--held-out",
                "mnist",
                "--root",
                runs,
                "--data-dir",
                str(data),
                "--learners",
                "none",
                "leap-sgd",
            ]
            assert main(["train", *command, "--engine", *engine]) == 0
            capsys.readouterr()
            assert main(["table", runs]) == 0
            tables.append(capsys.readouterr().out)
    finally:
        ray.shutdown()
    assert "| mnist |" in tables[0] and tables[0] == tables[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--address", "auto"], "--address is of --engine ray, not of workers"),
        (["--gpus-per-task", "0.5"], "--gpus-per-task is of --engine ray, not of workers"),
        (["--engine", "ray", "--n-workers", "2"], "--n-workers is of --engine workers, not of ray"),
        (["--engine", "in-process", "--task-timeout", "2"], "--task-timeout is of --engine workers or ray"),
    ],
)
def test_an_option_of_another_engine_is_one_line(given: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["evaluate", str(tmp_path), *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_ray_the_extra_is_named(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["evaluate", str(tmp_path), "--engine", "ray"]) == 2
    error = capsys.readouterr().err
    assert "ray is not installed: pip install" in error and "[ray]" in error and error.count("\n") == 1
