"""Zero-shot by attributes: descriptions, logits, and what is held out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leap_rl.core import Initialization, InProcess
from supervised.images import Images
from supervised.multi_cv.__main__ import main
from supervised.multi_cv.data import load
from supervised.zero_shot.experiment import ZeroShotRun
from supervised.zero_shot.tasks import FILE, AttributeNet, read_attributes, signs_task, unseen_classes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of noise of each of 43 classes, three of them of a track of their own, in GTSRB's layout."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for half, n in (("train", 4), ("test", 1)):
        for label in range(43):
            folder = root / "gtsrb" / half / f"{label:05}"
            folder.mkdir(parents=True)
            for i in range(n):
                track = i + 100 * (half == "test")
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                    folder / f"{track:05}_00000.png"
                )
    return root


def test_every_sign_is_described_and_told_from_the_others() -> None:
    signs = read_attributes()
    assert len(set(signs.classes)) == 43 and signs.has.shape == (43, len(signs.names))
    of = {sign: {n for n, has in zip(signs.names, row, strict=True) if has} for sign, row in
          zip(signs.classes, signs.has.tolist(), strict=True)}  # fmt: skip
    assert of["stop"] == {"octagon", "red", "letters"} and "blue" in of["roundabout"]
    shapes = {"circle", "triangle", "inverted-triangle", "octagon", "diamond"}
    assert all(len(attributes & shapes) == 1 for attributes in of.values())


@pytest.mark.parametrize("seed", range(5))
def test_what_is_held_out_has_no_attribute_that_no_seen_sign_has(seed: int) -> None:
    has, held_out = read_attributes().has, unseen_classes(seed)
    seen = [label for label in range(43) if label not in held_out]
    assert len(set(held_out)) == 8 and (has[held_out].any(dim=0) <= has[seen].any(dim=0)).all()
    assert held_out == unseen_classes(seed) != unseen_classes(seed + 1)
    with pytest.raises(ValueError, match=r"30 unseen classes: .* only 2\d leave all their attributes"):
        unseen_classes(seed, 30)


def test_logits_are_sums_over_attributes_and_the_penalty_is_their_cross_entropy() -> None:
    torch.manual_seed(0)
    seen, tested = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool(), torch.tensor([[1, 1, 0]]).bool()
    model = AttributeNet(seen, tested, n_filters=2)
    x, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    logits = model.train()(x)
    penalty = model.penalty(y)
    z = model.head.attributes(model.encoder(x))
    p = z.sigmoid()
    expected = torch.stack([(p * has + (1 - p) * (1 - has)).log().sum(dim=1) for has in seen.float()], dim=1)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)
    cross_entropy = torch.nn.functional.binary_cross_entropy(p, seen.float()[y])
    torch.testing.assert_close(penalty, cross_entropy, atol=1e-4, rtol=1e-3)
    assert model.eval()(x).shape == (4, 1)
    assert not any("seen" in name or "tested" in name for name in Initialization.of(model).buffers)


def test_no_image_of_an_unseen_sign_is_learned_from(data: Path) -> None:
    task = signs_task(str(data), 0, 2, n_filters=2)
    signs, images = load(str(data), "gtsrb"), task.images()
    learned = {image.numpy().tobytes() for image in images.train}
    for label in range(43):
        there = {image.numpy().tobytes() for image in signs.train[signs.train_labels == label]}
        assert there <= learned if label in task.seen else not there & learned
    assert images.test_labels.unique().tolist() == list(range(8))
    names = [task.unseen[k] for k in images.test_labels.tolist()]
    assert all(torch.equal(x, signs.test[signs.test_labels == k][0]) for x, k in zip(images.test, names, strict=True))


def test_a_run_is_in_the_table(data: Path, tmp_path: Path, capsys: Any) -> None:
    given = ["zero-shot", "--data-dir", str(data), "--updates", "2", "--n-filters", "2", "--seeds", "0", "1"]
    assert main([*given, "--root", str(tmp_path / "runs")]) == 0 == main([*given, "--root", str(tmp_path / "runs")])
    found = [json.loads(f.read_text())["scores"] for f in sorted((tmp_path / "runs").glob("*/found.json"))]
    assert len(found) == 2 and all(s["unseen"] <= s["unseen among all"] for s in found)
    assert len(list((tmp_path / "runs").glob("*/tensorboard/*/*/events*"))) == 2
    capsys.readouterr()
    assert main(["zero-shot", "table", str(tmp_path / "runs")]) == 0
    assert "| 8 unseen | 87.5 % by chance | 128 | 2 |" in capsys.readouterr().out
    assert main([*given, "--unseen", "42", "--root", str(tmp_path / "other")]) == 2
    assert "42 unseen classes: there are 2 to 41, of 43" in capsys.readouterr().err


def test_an_error_is_of_each_sign_as_much(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who always says the sign that has most images is right by chance."""
    task = signs_task(str(data), 0, 2, n_filters=2)
    labels = torch.tensor([0] * 9 + list(range(1, 8)))
    images = Images(torch.zeros(0), torch.zeros(0), torch.zeros(16, 3, 32, 32, dtype=torch.uint8), labels)
    monkeypatch.setattr(type(task), "images", lambda self: images)
    model = task.network()
    start = Initialization.of(model)
    chosen = int(model.eval()(torch.zeros(1, 3, 32, 32)).argmax())
    expected = 100 * 7 / 8 if chosen < 8 else 100.0
    assert ZeroShotRun._error(task, start) == pytest.approx(expected)


def test_a_run_that_diverges_is_no_result(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ZeroShotRun(str(data), 0, 2, n_filters=2)
    wild = replace(run.task(), learning_rate=1e30)
    monkeypatch.setattr(ZeroShotRun, "task", lambda self: wild)
    with pytest.raises(RuntimeError, match="diverged: it has no test error"):
        run.learn(tmp_path, InProcess(), False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:-1], "must describe each label from 0 to 42 once"),
        (lambda lines: [lines[0].replace("attributes", "words"), *lines[1:]], "no CSV with the columns label"),
        (lambda lines: [*lines[:-1], "42,another,circle white red-border empty"], "describes no vehicles and another"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path: Path, damage: Any, message: str) -> None:
    (tmp_path / "signs.csv").write_text("\n".join(damage(FILE.read_text().splitlines())) + "\n")
    with pytest.raises(ValueError, match=message):
        read_attributes(tmp_path / "signs.csv")
