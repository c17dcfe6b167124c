"""Omniglot: read, split, augmented and learned."""

from __future__ import annotations

import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leap_rl.core import FOMAML, MAML, InProcess, Job, Leap, MetaTrainer, NoPretraining, Reptile, Workers
from supervised.augmentation import RandomAffine
from supervised.learning import ClassifierLearning, make_updates
from supervised.networks import ConvNet
from supervised.omniglot.alphabets import BATCH_SIZE, CLASSES, Alphabets, large_alphabets, split
from supervised.omniglot.data import OmniglotError, load_omniglot
from tests.supervised.noise import NoiseFamily

# -- data ------------------------------------------------------------------------------------------


def test_every_drawing_is_read_where_it_belongs(drawn: Path, alphabets: dict[str, int]) -> None:
    omniglot = load_omniglot(str(drawn))
    assert {name: len(rows) for name, rows in omniglot.alphabets.items()} == alphabets
    assert omniglot.images.shape == (sum(alphabets.values()), 20, 28, 28) and omniglot.images.dtype == torch.uint8
    with Image.open(drawn / "images_background" / "Alphabet3" / "character02" / "0001_05.png") as image:
        expected = 255 - np.asarray(image.convert("L").resize((28, 28), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(omniglot.characters("Alphabet3")[1, 4].numpy(), expected)
    assert 0.02 < (expected > 127).mean() < 0.5  # ink is bright


def test_a_zip_is_the_same_as_a_folder(drawn: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w") as archive:
        for file in (drawn / "images_background").rglob("*.png"):
            archive.write(file, file.relative_to(drawn))
    zipped, folder = load_omniglot(str(tmp_path)), load_omniglot(str(drawn))
    assert zipped.alphabets == folder.alphabets and torch.equal(zipped.images, folder.images)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nothing there", "no Omniglot in .*looked for images_background or images_evaluation.*--data-dir"),
        ("no alphabets", "no drawings as ALPHABET/CHARACTER"),
        ("few drawings", "Alphabet0/character01 has 19 drawings, not 20"),
        ("other size", "28×28, Omniglot's are 105×105"),
        ("no image", "has a damaged drawing"),
        ("no zip", "is damaged"),
        ("damaged zip", r"images_background\.zip is damaged"),
    ],
)
def test_data_that_cannot_be_used(drawn: Path, tmp_path: Path, damage: str, message: str) -> None:
    character = tmp_path / "images_background" / "Alphabet0" / "character01"
    source = drawn / "images_background" / "Alphabet0" / "character01"
    if damage in ("few drawings", "other size", "no image"):
        shutil.copytree(source, character)
        file = next(character.iterdir())
        if damage == "few drawings":
            file.unlink()
        elif damage == "other size":
            Image.new("1", (28, 28)).save(file)
        else:
            file.write_bytes(b"no image")
    elif damage == "no alphabets":
        (tmp_path / "images_background").mkdir()
    elif damage == "no zip":
        (tmp_path / "images_background.zip").write_bytes(b"no zip")
    elif damage == "damaged zip":
        with zipfile.ZipFile(tmp_path / "images_background.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images_background/Alphabet0/character01/0.png", bytes(range(256)) * 9)
        content = bytearray((tmp_path / "images_background.zip").read_bytes())
        content[80:90] = b"\xff" * 10
        (tmp_path / "images_background.zip").write_bytes(content)
    with pytest.raises(OmniglotError, match=message):
        load_omniglot(str(tmp_path))


def test_splits_are_disjoint_and_grow(drawn: Path, alphabets: dict[str, int]) -> None:
    assert large_alphabets(str(drawn)) == sorted(set(alphabets) - {"Small"})
    three, held_out = split(str(drawn), 3, seed=0)
    one, same = split(str(drawn), 1, seed=0)
    assert held_out == same and len(held_out) == 10 and three[:1] == one and not set(three) & set(held_out)
    assert split(str(drawn), 3, seed=1)[1] != held_out
    with pytest.raises(ValueError, match="4 pretraining alphabets: there are 1 to 3"):
        split(str(drawn), 4, seed=0)
    with pytest.raises(ValueError, match="Small is no alphabet with at least 20"):
        Alphabets(str(drawn), ["Small"], 0)
    with pytest.raises(ValueError, match="Alphabet1 is named 2 times"):
        Alphabets(str(drawn), ["Alphabet1", "Alphabet0", "Alphabet1"], 0)


def test_a_task_has_20_classes_and_holds_5_drawings_of_each_out(drawn: Path) -> None:
    images = Alphabets(str(drawn), ["Alphabet1"], run_seed=0)[0].images()
    assert images.train.shape == (300, 1, 28, 28) and images.test.shape == (100, 1, 28, 28)
    assert images.train_labels.bincount().tolist() == [15] * CLASSES
    assert images.test_labels.bincount().tolist() == [5] * CLASSES
    everything = torch.cat([images.train, images.test]).flatten(1)
    assert len(everything.unique(dim=0)) == 400  # no drawing is in both
    again = Alphabets(str(drawn), ["Alphabet1"], run_seed=0)[0].images()
    other = Alphabets(str(drawn), ["Alphabet1"], run_seed=1)[0].images()
    assert torch.equal(again.train, images.train) and not torch.equal(other.train, images.train)


# -- augmentation ----------------------------------------------------------------------------------


def test_the_maps_are_drawn_from_the_ranges() -> None:
    affine = RandomAffine()
    maps = affine.maps(4000, torch.Generator().manual_seed(0)).double()
    forward = torch.linalg.inv(maps[:, :, :2])
    scale = torch.linalg.det(forward).sqrt()
    angle = torch.rad2deg(torch.atan2(forward[:, 1, 0], forward[:, 0, 0])) % 360
    shift = -(forward @ maps[:, :, 2:]).squeeze(2) / 2  # as a share of the width
    for values, low, high in ((scale, 0.8, 1.2), (angle, 0, 360), (shift[:, 0], -0.2, 0.2), (shift[:, 1], -0.2, 0.2)):
        assert low - 1e-4 <= values.min() and values.max() <= high + 1e-4
        assert values.min() < low + 0.02 * (high - low) and values.max() > high - 0.02 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_an_image_moves_as_its_map_says() -> None:
    """A shift alone, by whole pixels; and a rotation by 90 degrees is ``rot90``."""
    image = torch.rand(1, 1, 28, 28)

    class Fixed(RandomAffine):
        def maps(self, n: int, generator: torch.Generator) -> torch.Tensor:
            return fixed

    fixed = torch.tensor([[[1.0, 0, -2 * 3 / 28], [0, 1.0, 0]]])
    moved = Fixed()(image, torch.Generator())
    torch.testing.assert_close(moved[..., 3:], image[..., :-3], atol=1e-4, rtol=0)
    assert moved[..., :3].abs().max() < 1e-4
    turned = RandomAffine((1.0, 1.0), (90.0, 90.0), 0.0)(image, torch.Generator())
    assert min((turned - torch.rot90(image, k, (2, 3))).abs().max() for k in (1, -1)) < 1e-4
    unchanged = RandomAffine((1.0, 1.0), (0.0, 0.0), 0.0)(image, torch.Generator())
    torch.testing.assert_close(unchanged, image, atol=1e-5, rtol=0)


# -- learning --------------------------------------------------------------------------------------


def test_the_network_is_the_papers() -> None:
    model = ConvNet(20)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert [s for n, s in shapes.items() if n.endswith("weight") and len(s) == 4] == [(64, 1, 3, 3)] + 3 * [
        (64, 64, 3, 3)
    ]
    assert shapes["head.weight"] == (20, 64)
    with pytest.raises(ValueError, match="too small"):
        ConvNet(20, image_size=8)


def run(tasks: Alphabets, learner: Any, **kwargs: Any) -> Any:
    job = Job(tasks[0], tasks.draw_initialization(None, 0), learner, 3, "cpu", **kwargs)
    return job.task.run(job, lambda *_: None)


def test_observing_changes_nothing_and_fomaml_takes_its_look_ahead_back(drawn: Path) -> None:
    tasks = Alphabets(str(drawn), ["Alphabet0"], 0, updates=6)
    plain = run(tasks, NoPretraining(), return_final=True)
    for learner in (Leap(metric="length"), Leap(metric="energy"), Reptile()):
        observed = run(tasks, learner, return_final=True)
        for name, tensor in plain.final.parameters.items():
            assert torch.equal(tensor, observed.final.parameters[name])
        assert observed.scores == plain.scores
    assert plain.steps == 6 * BATCH_SIZE
    ahead = run(tasks, FOMAML(), return_final=True)
    assert ahead.steps == 7 * BATCH_SIZE and len(ahead.curve.values) == 6
    assert all(g.isfinite().all() for g in ahead.meta_gradient.values())


def test_fomaml_takes_back_what_is_not_meta_learned_too(drawn: Path) -> None:
    """The head moves when it looks ahead, and is judged after that."""
    task = Alphabets(str(drawn), ["Alphabet0"], 0, updates=6)[0]
    theta = Alphabets(str(drawn), ["Alphabet0"], 0, updates=6).draw_initialization("encoder", 0)
    job = Job(task, theta, FOMAML(), 5, "cpu")
    process = task.start(job)
    process.learn(lambda *_: None)
    assert isinstance(process, ClassifierLearning)
    plain = task.network_at(job, torch.device("cpu"))
    make_updates(task, plain, task.minibatches(5, True, torch.device("cpu")), None, lambda *_: None)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, process.model.state_dict()[name]), name
    assert process.scores["test_error"] == task.judge(plain, *process.minibatches.test())[1]


def test_reptiles_meta_gradient_is_the_way_back(drawn: Path) -> None:
    tasks = Alphabets(str(drawn), ["Alphabet0"], 0, updates=6)
    result = run(tasks, Reptile(), return_final=True)
    theta = tasks.draw_initialization(None, 0)
    for name, gradient in result.meta_gradient.items():
        torch.testing.assert_close(gradient, theta.parameters[name] - result.final.parameters[name])


def test_batch_norm_starts_from_fresh_statistics_and_keeps_its_own(drawn: Path) -> None:
    """θ⁰'s are never updated by meta-training; a learning process ends with statistics of its own task."""
    tasks = Alphabets(str(drawn), ["Alphabet0", "Alphabet1"], 0, updates=4)
    trainer = MetaTrainer(tasks, Leap(metric="length"), meta_batch_size=2, engine=InProcess(), seed=0, device="cpu")
    before = trainer.initialization.buffers
    assert any(name.endswith("running_mean") for name in before)
    trainer.learn(1)
    for name, buffer in trainer.initialization.buffers.items():
        assert torch.equal(buffer, before[name])
    final = run(tasks, NoPretraining(), return_final=True).final
    assert not torch.equal(final.buffers["encoder.1.running_mean"], before["encoder.1.running_mean"])


@pytest.mark.parametrize(
    "learner", [Leap(metric="length"), Reptile(), FOMAML(), MAML(inner_steps=2)], ids=lambda x: type(x).__name__
)
def test_every_learner_meta_trains_and_resumes_to_the_same_bits(drawn: Path, tmp_path: Path, learner: Any) -> None:
    tasks = Alphabets(str(drawn), ["Alphabet0", "Alphabet1", "Alphabet2"], 0, updates=3)

    def new(run_dir: Path | None) -> MetaTrainer:
        return MetaTrainer(tasks, learner, 2, engine=InProcess(), run_dir=run_dir, seed=0, device="cpu")

    whole = new(None).learn(2).initialization
    new(tmp_path).learn(1)
    resumed = MetaTrainer.load(tmp_path, tasks, engine=InProcess())
    resumed.learn(1)
    for name, tensor in whole.parameters.items():
        assert torch.equal(tensor, resumed.initialization.parameters[name])
    row = resumed.history[0]["tasks"][0]
    index = [task.name for task in tasks].index(row["name"])
    job = Job(
        tasks[index], tasks.draw_initialization(None, 0), learner, resumed.settings.visit_seed(0, index, 0), "cpu"
    )
    process = tasks[index].start(job)
    process.learn(lambda *_: None)
    x, y = process.minibatches.test()
    model = process.model.train(isinstance(learner, MAML))  # which takes the batch's statistics
    judged = (model(x).argmax(dim=1) != y).float().mean()
    assert row["test_error"] == pytest.approx(judged.item()) and not math.isnan(row["area"])


def test_a_learner_that_needs_a_loss_twice_is_refused_before_any_run() -> None:
    with pytest.raises(ValueError, match=r'"same_batch" needs .* use "consecutive" or "none"'):
        MetaTrainer(NoiseFamily(2), Leap(loss_delta="same_batch"), 2)


def test_tasks_reach_worker_processes(drawn: Path) -> None:
    tasks = Alphabets(str(drawn), ["Alphabet0", "Alphabet1"], 0, updates=3)
    here, there = (
        MetaTrainer(tasks, Reptile(), 2, engine=engine, seed=0, device="cpu").learn(1).initialization
        for engine in (InProcess(), Workers(1))
    )
    for name, tensor in here.parameters.items():
        assert torch.equal(tensor, there.parameters[name])


# -- the real ones ---------------------------------------------------------------------------------


def test_the_real_omniglot(data_dir: Path) -> None:
    data = str(data_dir / "omniglot")
    omniglot = load_omniglot(data)
    assert omniglot.images.shape == (1623, 20, 28, 28) and len(omniglot.alphabets) == 50
    assert len(large_alphabets(data)) == 46
    pretraining, held_out = split(data, 36, seed=0)
    assert len(pretraining) == 36 and len(held_out) == 10
    result = run(Alphabets(data, pretraining, 0, updates=5), Leap(metric="length"))
    assert result.status == "ok" and len(result.curve.values) == 5
