"""``python -m supervised.multi_cv`` on tiny data sets, and the protocol of its tasks."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leap_rl.core import InProcess, Job, MetaTrainer, NoPretraining, Reptile
from supervised.multi_cv.__main__ import LEARNERS, main
from supervised.multi_cv.experiment import LEARNERS as KNOWN
from supervised.multi_cv.experiment import EarlyStopping, is_over
from supervised.multi_cv.table import Findings, collect, table
from supervised.multi_cv.tasks import PATIENCE, DataSets, DataSetTask, _at_most, _split
from supervised.together import learn_together

TINY = ["--meta-steps", "1", "--meta-batch-size", "2", "--passes", "2", "--batch-size", "16"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three data sets of ten classes, IDX files of noise around a stripe for each class."""
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("mnist", "fashion-mnist", "notmnist")):
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


def test_learners_train_are_evaluated_and_in_the_table(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    assert set(KNOWN) - set(LEARNERS) == {"hat-sequential", "progressive-sequential"}
    runs, figure, saved = tmp_path / "runs", tmp_path / "figure.png", tmp_path / "saved.json"
    command = ["train", "--data-dir", str(drawn), "--root", str(runs), "--engine", "in-process", *TINY]
    assert main([*command, "--held-out", "mnist"]) == 0
    printed = capsys.readouterr().out
    absent = re.findall(r"^Not there: (\S+)\. To have it: .", printed, re.MULTILINE)
    assert absent == ["cifar10", "cifar100", "svhn", "gtsrb", "facescrub"]
    assert printed.count("mnist: test error") == len(LEARNERS)
    kept = {p: p.stat().st_mtime_ns for p in runs.glob("*/*/held-out/*/state.json")}
    assert len(kept) == len(LEARNERS)
    assert main([*command, "--held-out", "mnist", "--seeds", "0", "1", "--learners", "none"]) == 0
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())  # not run again
    capsys.readouterr()
    assert main(["table", str(runs), "--figure", str(figure), "--save", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "| held out | none | leap | leap-sgd | reptile | multihead | hat-none | hat | progressive |" in shown
    assert "Test error less that without pretraining" in shown and "leap on mnist, seed 1" in shown
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert main(["table", str(saved)]) == 0
    assert capsys.readouterr().out == shown
    assert not (runs / "hat-none-mnist-seed0" / "tensorboard" / "hat-none").exists()  # it learns nothing before
    for learner, run in (("leap", "Leap_1"), ("hat", "hat"), ("multihead", "multihead")):
        folder = runs / f"{learner}-mnist-seed0"
        there = {p.parent.relative_to(folder / "tensorboard").parts[0] for p in folder.rglob("events*")}
        assert there == {run, "held-out after 0001"}
    # More meta steps are more of the same run.
    longer = [*command, "--held-out", "mnist", "--learners", "leap", "progressive", "hat-sequential"]
    longer[longer.index("--meta-steps") + 1] = "2"
    assert main(longer) == 0
    assert (runs / "leap-mnist-seed0" / "0002" / "held-out").is_dir()
    assert main(["table", str(runs), "--meta-steps", "3"]) == 2
    assert "no run has a budget of 3 meta steps: there are 0, 1, 2" in capsys.readouterr().err
    assert main(["table", str(runs), "--meta-steps", "1"]) == 0 and capsys.readouterr().out == shown
    shutil.rmtree(runs / "leap-mnist-seed0" / "0001")  # what was saved, and what was run since
    assert main(["table", str(saved), str(runs), "--meta-steps", "1"]) == 0 and capsys.readouterr().out == shown
    saved.write_text(saved.read_text().replace('"passes": ', '"passes": 1'))
    assert main(["table", str(saved), str(runs)]) == 2
    assert "several protocols: passes is 12 in hat-mnist-seed0, 2 in hat-" in capsys.readouterr().err
    assert main(["table", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "reptile on mnist, seeds 0 1" in shown and "none on notmnist, seeds 0 1" in shown  # at this budget
    shorter = [*command, "--held-out", "mnist", "--learners", "leap"]
    assert main(shorter) == 2
    assert "to 2, not 1 (meta steps, visits or updates" in capsys.readouterr().err
    capsys.readouterr()
    run = str(runs / "progressive-mnist-seed0")
    assert main(["evaluate", run, "--data-dir", str(drawn), "--engine", "in-process"]) == 0
    assert "| progressive-mnist-seed0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--learners laep", "no learner 'laep': there are none, leap"),
        ("--held-out mnits", "did you mean mnist"),
        ("--held-out svhn", "SVHN"),
        ("--held-out mnist --batch-size 1000", "too few for batches of 1000"),
        ("--held-out mnist --limit 12", "have no image to"),
        ("--engine in-process --n-workers 2 --dry-run", "--n-workers is of --engine workers"),
        ("--engine in-process --task-timeout 9 --dry-run", "--task-timeout is of --engine workers"),
        ("--learners", "nothing to run: give at least one of --learners"),
        ("--download --held-out notmnits", "did you mean notmnist"),
        ("--download --held-out facescrub", "torchvision has no download of FaceScrub: scale the faces"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(
    drawn: Path, tmp_path: Path, capsys: Any, arguments: str, message: str
) -> None:
    command = ["train", "--data-dir", str(drawn), "--root", str(tmp_path / "runs"), *arguments.split()]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_folders_that_do_not_fit(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "--data-dir", str(tmp_path / "nowhere")]) == 2
    assert f"there is no folder {tmp_path / 'nowhere'}: --data-dir names" in capsys.readouterr().err
    assert main(["train", "--data-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds none of the data sets, at least two are needed" in error and "facescrub" in error
    command = ["train", "--data-dir", str(drawn), "--root", str(tmp_path), "--held-out", "mnist", *TINY]
    assert main([*command, "--learners", "none", "--engine", "in-process"]) == 0
    capsys.readouterr()
    command[command.index("--passes") + 1] = "3"
    assert main([*command, "--learners", "none"]) == 2
    assert "is of another run: its passes is 2, not 3" in capsys.readouterr().err
    # Other data.
    command[command.index("--passes") + 1] = "2"
    folder = tmp_path / "none-mnist-seed0"
    evaluated = ["evaluate", str(folder), "--data-dir", str(drawn), "--engine", "in-process"]
    kept = json.loads((folder / "run.json").read_text())
    assert kept["images"] == {"mnist": [80, 20], "fashion-mnist": [80, 20], "notmnist": [80, 20]}
    (folder / "run.json").write_text(json.dumps(kept | {"images": {"mnist": [60, 20]}}))
    assert main([*command, "--learners", "none"]) == 2 == main(evaluated)
    assert capsys.readouterr().err.count("is of another run: its images is {'mnist': [60, 20]}, not {'mnist'") == 2
    (folder / "run.json").write_text(json.dumps({k: v for k, v in kept.items() if k != "images"}))
    assert main([*command, "--learners", "none"]) == 2
    assert "is of another run: its images is None, not {'mnist'" in capsys.readouterr().err
    (folder / "run.json").write_text(json.dumps([kept, kept]))
    assert main([*command, "--learners", "none"]) == 2 == main(evaluated) == main(["table", str(tmp_path)])
    assert capsys.readouterr().err.count("run.json is of 2 runs, expected one") == 3
    (folder / "run.json").unlink()
    assert main([*command, "--learners", "none"]) == 2
    assert "none-mnist-seed0 has no run.json that says of which run it is" in capsys.readouterr().err
    in_a_file = [*command, "--learners", "none"]
    in_a_file[in_a_file.index("--root") + 1] = str(drawn / "mnist" / "train-images-idx3-ubyte.gz" / "runs")
    assert main(in_a_file) == 2
    assert "train-images-idx3-ubyte.gz is a file, where a folder of runs is to be" in capsys.readouterr().err
    (folder / "run.json").write_text("[]")
    assert main(["table", str(folder / "run.json")]) == 2
    (folder / "run.json").write_text('{"learner": "leap", "n_pretraining": 20, "seed": 0}')
    for wrong in (evaluated, ["table", str(tmp_path)], ["table", str(folder / "run.json")]):
        capsys.readouterr()
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert f"{folder / 'run.json'} is of no run of this experiment, which has learner, held_out" in error
    (folder / "some.png").write_bytes(b"\x89PNG")
    assert main(["table", str(folder / "some.png")]) == 2
    assert "some.png is no run.json, nor what table --save wrote" in capsys.readouterr().err
    assert main(["evaluate", str(drawn)]) == 2
    assert "run.json is missing" in capsys.readouterr().err
    assert main(["table", str(drawn)]) == 2
    assert "has no finished run" in capsys.readouterr().err


def test_learners_have_equal_budgets_and_dry_run_tells_them(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    """Six visits of 3 minibatches, as all data sets are of one size here: 60 images besides those for validation."""
    command = ["train", "--data-dir", str(drawn), "--root", str(tmp_path), "--engine", "in-process"]
    command += ["--held-out", "mnist", "--learners", *KNOWN, "--batch-size", "16"]
    command += ["--meta-steps", "3", "--meta-batch-size", "2", "--passes", "2"]
    assert main([*command, "--dry-run", "--seeds", "0", "0"]) == 0
    told = dict(
        re.findall(r"^(\S+)-mnist-seed0: (\d+) images in pretraining, 96 on mnist$", capsys.readouterr().out, re.M)
    )
    assert told == {learner: "0" if learner in ("none", "hat-none") else "288" for learner in KNOWN}
    assert main(command) == 0
    spent = {run.learner: run.pretraining_images for run in collect(tmp_path)}
    assert spent == {learner: int(images) for learner, images in told.items()}


def test_classes_of_one_group_are_named(tmp_path: Path, capsys: Any) -> None:
    """As all training images of each class show one track, none is left to validate by."""
    for name, n_classes in (("gtsrb", 43), ("cifar10", 10)):
        for label in range(n_classes):
            for half, file in (("train", "0_0"), ("train", "0_1"), ("test", "1_0")):
                image = tmp_path / name / half / f"{label:02}" / f"{file}.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (label, 0, 0)).save(image)
    assert main(["train", "--data-dir", str(tmp_path), "--held-out", "gtsrb", "--batch-size", "2"]) == 2
    error = capsys.readouterr().err
    assert "gtsrb: 43 classes have no image to learn from (numbers 0, 1, 2, 3, 4 …), of 86 in use" in error
    assert "each wants two, of two tracks in GTSRB" in error


def test_a_limit_takes_of_all_classes_and_validation_keeps_groups_whole() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    rows = _at_most(40, labels, rng)
    assert len(set(rows.tolist())) == 40 and np.bincount(labels[rows]).tolist() == [20, 12, 8]
    groups = np.arange(100) // 5
    in_validation = _split(labels, groups, rng)
    assert all(len(set(in_validation[groups == g])) == 1 for g in set(groups.tolist()))
    assert all(0.1 <= in_validation[labels == c].mean() <= 0.3 for c in range(3))


def test_the_protocol_of_a_task(drawn: Path) -> None:
    tasks = DataSets(str(drawn), ["mnist", "notmnist"], run_seed=0, passes=30, batch_size=16)
    task = tasks[0]
    images = task.images()
    assert images.validation is not None and len(images.train) + len(images.validation) == 80
    assert len(images.test) == 20
    x = task.transform(images.train, torch.Generator())  # type: ignore[misc]
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    theta = tasks.draw_initialization(None, 0)
    assert theta.scope == "encoder" and not any(name.startswith("head") for name in theta.parameters)
    job = Job(task, theta, NoPretraining(), 0)
    ((_, result),) = InProcess().run([job], lambda *_: None)
    assert result.status == "ok", result.error
    assert set(result.scores) == {"validation_error", "test_error", "test_loss"}
    # What TensorBoard shows: means of all minibatches since the last point, and what was found in the end.
    *points, (last, scores) = result.log
    assert last == result.steps and scores == {f"score/{name}": score for name, score in result.scores.items()}
    (first, before), (second, row) = points[:2]
    between = (result.curve.steps > first) & (result.curve.steps <= second)
    assert row["train/error"] == pytest.approx(result.curve.values[between].mean())
    assert first == second - first and set(before) == {"train/loss", "train/error"}
    # Learned long before the budget ends, so it stops early: after so many validations, one each pass.
    assert result.steps < task.steps and result.steps % (task.validation_freq * task.batch_size) == 0
    assert result.steps >= (PATIENCE + 1) * task.validation_freq * task.batch_size
    with pytest.raises(ValueError, match="falls, or stops early: run it with another engine"):
        learn_together([job], lambda *_: None)


def test_the_learning_rate_falls_as_half_a_cosine(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noting(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    tasks = DataSets(str(drawn), ["mnist"], run_seed=0, passes=2, batch_size=16)
    job = Job(tasks[0], tasks.draw_initialization(None, 0), NoPretraining(), 0)
    InProcess().run([job], lambda *_: None).__next__()
    n = tasks[0].updates
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(n) / n)))


def test_meta_training_ends_when_validation_no_longer_improves(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also across an interruption; and a batch of easy data sets alone is no improvement."""
    monkeypatch.setattr("supervised.multi_cv.experiment.META_PATIENCE", 2)
    tasks = DataSets(str(drawn), ["mnist", "notmnist"], run_seed=0, batch_size=16)
    errors = iter([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])

    def trainer(**kwargs: Any) -> MetaTrainer:
        return MetaTrainer(tasks, Reptile(), 1, sampling="reshuffle", seed=0, engine=InProcess(), **kwargs)

    judge = DataSetTask.judge
    monkeypatch.setattr(DataSetTask, "judge", lambda *args: (judge(*args)[0], next(errors)))
    # 0.9 on the one; 0.1 on the other, so the mean is 0.5; then 0.1 on both, from where nothing gets better.
    first = trainer(run_dir=tmp_path).learn(2, EarlyStopping())
    assert first.meta_step == 2 and not is_over(first)
    rest = MetaTrainer.load(tmp_path, tasks, engine=InProcess()).learn(20, EarlyStopping())
    seen = [row["tasks"][0]["name"] for row in rest.history]
    best = next(i for i in range(2, 8) if seen[i] == seen[0]) + 1
    assert rest.meta_step == best + 2 and is_over(rest)


def test_negative_transfer_is_called_worse() -> None:
    def run(learner: str, seed: int, error: float) -> Findings:
        protocol = {"data_sets": ["mnist", "svhn"]}
        status = "non_finite" if (learner, seed) == ("hat", 1) else "ok"
        return Findings(learner, "mnist", seed, 20, 100, protocol, {}, status, error, error, 10 + seed, [1], [error])

    found = [run("none", seed, 10 + seed) for seed in range(3)]
    found += [run("leap", seed, 15 + seed) for seed in range(3)] + [run("reptile", seed, 8 + seed) for seed in range(3)]
    found += [run("hat", seed, 10 + seed + (-1) ** seed) for seed in range(3)]
    shown = table(found)
    *_, of_errors, of_all, of_areas, of_all_areas = (
        line for line in shown.splitlines() if line.startswith(("| mnist", "| mean of all"))
    )
    assert of_errors == "| mnist | +5.0 (5.0 to 5.0) worse | -2.0 (-2.0 to -2.0) better | +0.3 (-2.5 to 3.2) |"
    assert of_all == of_errors.replace("mnist", "mean of all")
    assert of_areas == f"| mnist |{' +0.0 (0.0 to 0.0) |' * 3}"
    assert of_all_areas == of_areas.replace("mnist", "mean of all")
    assert "Diverged, and counted with the errors that they had: hat on mnist, seed 1\n" in shown
    # What its gates cost is not what was carried over.
    gated = [replace(one, learner="hat-none", test_error=one.test_error + 4) for one in found if one.learner == "none"]
    below = table([*found, *gated]).partition("less that of HAT's network without pretraining")[2]
    assert "| held out | hat |" in below and "| mnist | -3.7 (-6.5 to -0.8) better |" in below
    # Of a second data set only seeds 0 and 1 are there, without HAT: the mean is over what has both.
    found += [replace(one, held_out="svhn", test_error=2 * one.test_error) for one in found if one.seed < 2][:-2]
    *_, of_all = (line for line in table(found).splitlines() if line.startswith("| mean of all") and "7.5" in line)
    assert of_all == "| mean of all | +7.5 (7.5 to 7.5) worse | -3.0 (-3.0 to -3.0) better |  |"


def test_negative_transfer_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Two standard deviations of the runs without pretraining: of areas, as in reinforcement learning."""

    def run(learner: str, seed: int, area: float) -> Findings:
        return Findings(learner, "mnist", seed, 20, 100, {"data_sets": ["mnist"]}, {}, "ok", 5, 5, area, [1], [5])

    found = [run("none", seed, 10 + seed) for seed in range(3)]
    found += [run("leap", seed, 14 + seed) for seed in range(3)] + [run("reptile", seed, 5 + seed) for seed in range(3)]
    found += [run("multihead", seed, 13 + 0.9 * seed) for seed in range(3)]
    said = "Negative transfer: on mnist leap is 4.0 standard deviations behind none in the area (3 seeds)."
    other = said.replace("leap", "multihead").replace("4.0", "2.9")
    assert [line for line in table(found).splitlines() if "Negative" in line] == [said, other]
    assert caplog.messages[0] == said
    assert "Negative" not in table([one for one in found if one.seed == 0])  # one seed has no spread


def test_classes_of_a_task_are_those_of_the_data_set() -> None:
    assert DataSetTask("cifar100", 1, 1, 0.1, None, "", 0, None).n_classes == 100
