"""``python -m supervised.omniglot`` on a tiny data set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leap_rl.core import Initialization
from supervised.intervals import bootstrap_interval
from supervised.omniglot.__main__ import LEARNERS, main
from supervised.omniglot.alphabets import split
from supervised.omniglot.experiment import ABLATION, KNOWN, Run
from supervised.omniglot.experiment import LEARNERS as COMPARED
from supervised.omniglot.table import Findings, collect, table

TINY = ["--pretraining", "2", "--meta-steps", "1", "--meta-batch-size", "2", "--updates", "3", "--engine", "in-process"]


def test_learners_train_are_evaluated_and_in_the_table(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    root = ["--root", str(runs)]
    learners = ["none", "leap", "multihead"]
    assert main(["train", "--data-dir", str(drawn), *root, *TINY, "--learners", *learners]) == 0
    assert capsys.readouterr().out.count("10 held-out alphabets: test error") == len(learners)
    kept = {p: p.stat().st_mtime_ns for p in runs.glob("*/*/held-out/*/state.json")}
    assert len(kept) == 10 * len(learners)
    assert main(["train", "--data-dir", str(drawn), *root, *TINY, "--seeds", "0", "1", "--learners", "none"]) == 0
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())  # not run again
    capsys.readouterr()
    figure, saved = tmp_path / "figure.png", tmp_path / "saved.json"
    assert main(["table", str(runs), "--figure", str(figure), "--save", str(saved)]) == 0
    shown = capsys.readouterr().out
    assert "| none | 2 | 2 |" in shown and "| leap | 2 | 1 |" in shown and "| multihead | 2 | 1 |" in shown
    assert "Missing: " in shown and "leap, 2 alphabets, seed 1" in shown and "maml, 2 alphabets, seeds 0 1" in shown
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert main(["table", str(saved)]) == 0
    assert capsys.readouterr().out == shown  # all it needs is in the one file
    # What can't be shown replaces nothing; what a newer version saved is refused in a line.
    figure.write_bytes(b"mine")
    assert main(["table", str(saved), "--less", "typo", "--figure", str(figure)]) == 2
    assert figure.read_bytes() == b"mine"
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps([{**row, "later": 1} for row in json.loads(saved.read_text())]))
    capsys.readouterr()
    assert main(["table", str(newer)]) == 2
    error = capsys.readouterr().err
    assert "newer.json has 'later', which this leap_rl doesn't know" in error and error.count("\n") == 1
    folder = runs / "leap-2-seed0"
    assert json.loads((folder / "run.json").read_text())["learner"] == "leap"
    assert (folder / "0001" / "initialization" / "model.safetensors").is_file()
    assert set(json.loads((folder / "training_curves.json").read_text())) == {"0"}
    runs_of_tensorboard = {p.parent.relative_to(folder / "tensorboard").parts[0] for p in folder.rglob("events*")}
    assert runs_of_tensorboard == {"Leap_1", "examples", "training curves", "held-out after 0001"}
    # More meta steps are more of the same run, evaluated again.
    longer = [*TINY[:3], "2", *TINY[4:]]
    assert main(["train", "--data-dir", str(drawn), *root, *longer, "--learners", "leap", "multihead"]) == 0
    assert "after 2 meta steps" in capsys.readouterr().out
    leap, multihead = (
        next(r for r in collect(runs) if r.learner == name and r.seed == 0) for name in ("leap", "multihead")
    )
    assert set(leap.scores) == set(multihead.scores) == set(leap.visits) == {1, 2}
    (checkpoint,) = (folder / "checkpoints").glob("*2")
    visits = json.loads((checkpoint / "state.json").read_text())["state"]["history"][1]["tasks"]
    assert leap.visits[2] == pytest.approx(100 * np.mean([visit["test_error"] for visit in visits]), abs=0.01)
    assert main(["table", str(runs)]) == 0
    of_visits = capsys.readouterr().out.partition("the pretraining alphabets themselves")[2]
    assert f"| leap | 2 | 1 | | {leap.visits[1]:.1f} | {leap.visits[2]:.1f} |" in of_visits
    assert "multihead | 2 | 1 | |" not in of_visits
    assert main(["train", "--data-dir", str(drawn), *root, *TINY, "--learners", "leap"]) == 2
    assert "has gone further than it is asked to: to " in capsys.readouterr().err
    # What is gone is not in the table, and is made up.
    shutil.rmtree(next((folder / "0002" / "held-out").iterdir()))
    assert set(next(r for r in collect(runs) if r.learner == "leap").scores) == {1}
    assert main(["evaluate", str(folder), "--data-dir", str(drawn), "--engine", "in-process"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 + 10
    # What was saved, and what was run since.
    shutil.rmtree(folder / "0001")
    found = collect(saved, runs)
    assert len(found) == 4 and set(next(r for r in found if r.learner == "leap").scores) == {1, 2}
    assert main(["table", str(saved), str(runs), "--meta-steps", "1"]) == 0
    assert shown.splitlines()[4:8] == capsys.readouterr().out.splitlines()[4:8]


def test_one_meta_learning_rate_is_one_run_and_validation_holds_pretraining_alphabets_out(
    drawn: Path, tmp_path: Path, capsys: Any
) -> None:
    given = ["--data-dir", str(drawn), "--root", str(tmp_path), *TINY, "--learners", "none", "reptile"]
    assert main(["train", *given, "--validation", "--meta-learning-rates", "1", "0.3"]) == 0
    found = collect(tmp_path)
    assert sorted(run.label for run in found) == ["none", "reptile, β 0.3", "reptile, β 1"]
    pretraining, _ = split(str(drawn), 2, 0)
    assert {name for run in found for scores in run.scores.values() for name in scores} == {pretraining[0]}
    capsys.readouterr()
    assert main(["table", str(tmp_path), "--validation"]) == 0
    assert "| reptile, β 0.3 | 2 | 1 |" in capsys.readouterr().out
    assert main(["table", str(tmp_path)]) == 2
    assert "only runs with --validation" in capsys.readouterr().err


def test_the_encoder_alone(drawn: Path, tmp_path: Path) -> None:
    """Each visit draws a head of its own, and so does what is held out."""
    assert main(["train", "--data-dir", str(drawn), "--root", str(tmp_path), *TINY, "--learners", "leap-encoder"]) == 0
    found = Initialization.load(tmp_path / "leap-encoder-2-seed0" / "0001" / "initialization")
    assert found.scope == "encoder" and found.parameters
    assert all(name.startswith("encoder.") for name in found.parameters)


def test_budgets_are_equal_in_images(drawn: Path, capsys: Any) -> None:
    """But for FOMAML's look ahead. MAML makes 6 minibatches where others make 100, so it has more meta steps."""
    runs = {name: Run(str(drawn), name, 2, 0, 60, 5) for name in KNOWN if name != "none"}
    ahead = runs["fomaml"].images()[0]
    assert ahead == 60 * 5 * 101 * 20
    evaluations = 4 * 10 * 100 * 20  # after 15, 30, 45 and 60 meta steps
    assert {run.images() for run in runs.values()} == {(60 * 5 * 100 * 20, evaluations), (ahead, evaluations)}
    assert Run(str(drawn), "none", 2, 0, 60, 5).images() == (0, 10 * 100 * 20)
    assert runs["maml"].budget(60) == 1000 and runs["leap"].budget(60) == 60
    assert runs["multihead"].budget(60) == 60 * 5 * 100  # updates, of 20 images
    assert main(["train", "--data-dir", str(drawn), "--pretraining", "3", "--preset", "paper", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "leap-3-seed0: 40,000,000 images in pretraining, 1,340,000 on held-out alphabets" in out
    assert "multihead-3-seed0: 40,000,000 images" in out
    assert f"{drawn} has no images_evaluation" in out  # which is half of Omniglot
    assert tuple(COMPARED) == LEARNERS


def test_the_ablation_is_the_six_different_variants(drawn: Path, capsys: Any) -> None:
    settings = [learner.settings() for learner in ABLATION.values() if learner is not None]
    different = {(s["metric"], s["loss_delta"], s["stabilizer"] and s["loss_delta"] != "none") for s in settings}
    assert len(different) == len(ABLATION) == 6
    assert main(["ablation", "--data-dir", str(drawn), "--pretraining", "3", "--seeds", "0", "1", "--dry-run"]) == 0
    assert "12 runs" in capsys.readouterr().out


def test_the_table_compares_what_ran_as_long() -> None:
    def run(
        learner: str, seed: int, scores: dict[int, float], updates: int = 100, rate: float | None = None, n: int = 20
    ) -> Findings:
        of_alphabets = {s: {"A": (e - 1, e / 2), "B": (e + 1, e / 2)} for s, e in scores.items()}
        return Findings(learner, n, seed, rate, False, updates, 5, of_alphabets)

    found = [run("none", 0, {0: 80}), run("leap", 0, {15: 50, 30: 40}), run("leap", 1, {15: 60})]
    text = table(found)
    assert "After 30 meta steps" in text
    assert "| leap | 20 | 1 | 40.0 (39.0 to 41.0) | -40.0 | 20.0 (20.0 to 20.0) | -20.0 |" in text
    assert "| none | 20 | 1 | 80.0 " in text
    assert "leap, 20 alphabets, seed 1; maml, 20 alphabets, seeds 0 1; " in text.partition("Missing: ")[2]
    assert "reptile, 20 alphabets, seeds 0 1; none, seed 1" in text
    # By meta steps, of seed 0 alone: seed 1 has no second one.
    assert "| leap | 20 | 1 | | 50.0 | 40.0 |" in text
    assert "| leap | 20 | 2 | 55.0 (" in table(found, 15)
    with pytest.raises(ValueError, match="no run was evaluated after 20 meta steps: there are 0, 15, 30"):
        table(found, 20)
    found += [run("none", 1, {0: 58}), run("fomaml", 0, {15: 85}), run("fomaml", 1, {15: 63.2})]
    assert "| -14.0 (-217.3 to 189.3) |" in table(found, 15)  # of -30 and 2, each on its own seed
    assert "| +5.1 (3.8 to 6.4) worse |" in table(found, 15)
    found += [run("leap", 0, {15: 1}, n=5), run("maml", 0, {15: 45}, rate=0.5), run("maml", 0, {15: 46}, rate=1)]
    less = table(found, 15, "leap")  # of as many alphabets
    assert "differences are to leap, in points" in less
    assert "| +19.1 (-182.9 to 221.1) |" in less  # of 35 and 3.2
    assert "| maml, β 0.5 | 20 | 1 | 45.0 (44.0 to 46.0) | -5.0 | 22.5 (22.5 to 22.5) | -2.5 |" in less
    assert "| leap | 5 | 1 | 1.0 (0.0 to 2.0) |  | 0.5 (0.5 to 0.5) |  |" in table(found, 15, "maml, β 0.5")
    with pytest.raises(ValueError, match=r"'maml' is not one of those compared: name one of maml, β 0.5; maml, β 1$"):
        table(found, 15, "maml")
    with pytest.raises(ValueError, match=r"'reptile' is not one .* fomaml; leap; maml, β 0.5; maml, β 1; none$"):
        table(found, 15, "reptile")
    plain = [*found, run("maml", 0, {15: 47})]  # a label comes before a learner
    assert "differences are to maml, in points" in table(plain, 15, "maml")
    with pytest.raises(ValueError, match="50 updates and meta batches of 5, 100 updates and meta batches of 5"):
        table([*found, run("none", 2, {0: 80}, updates=50)])


def test_negative_transfer_is_warned_of_below_the_table(caplog: pytest.LogCaptureFixture) -> None:
    def run(learner: str, seed: int, step: int, area: float, arithmetic: str = "exact") -> Findings:
        scores = {f"A{seed}": (50.0, area - 1), f"B{seed}": (50.0, area + 1)}  # each seed holds out other alphabets
        return Findings(learner, 20, seed, None, False, 100, 5, {step: scores}, arithmetic=arithmetic)

    found = [run("none", seed, 0, 40 + seed) for seed in range(3)]
    found += [run("none", seed, 0, 60 - 9 * seed, "fast") for seed in range(3)]
    found += [run("leap", seed, 15, 45) for seed in range(2)] + [run("maml", seed, 15, 30) for seed in range(2)]
    said = "Negative transfer: from 20 alphabets leap is 4.0 standard deviations behind none in the area (3 seeds)."
    assert [line for line in table(found).splitlines() if line.startswith("Negative")] == caplog.messages == [said]
    assert "Negative" not in table([run for run in found if run.seed == 0])


def test_runs_of_fast_arithmetic_have_their_own_reference() -> None:
    def run(learner: str, step: int, error: float) -> Findings:
        scores: dict[int, dict[str, tuple[float, float]]] = {step: {"A": (error, error)}}
        return Findings(learner, 20, 0, None, False, 100, 5, scores, arithmetic="fast")

    text = table([run("none", 0, 80), run("leap", 15, 50)])
    assert "differences are to none, fast, in points" in text
    assert "| leap, fast | 20 | 1 | 50.0 (50.0 to 50.0) | -30.0 |" in text


def test_the_interval_holds_the_variation_of_seeds_and_of_alphabets() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        values = [5 + rng.normal(0, 1) + rng.normal(0, 1, 10) for _ in range(10)]
        low, high = bootstrap_interval(values, reps=300)
        covered += low <= 5 <= high
    assert 48 <= covered <= 60  # of 95 %; a bootstrap over few seeds is a little short


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learners", "leep"], "no learner 'leep': there are none, leap, reptile, fomaml, maml, multihead"),
        (
            ["--pretraining", "9"],
            "9 pretraining alphabets: there are 1 to 3, since 10 of the 13 with 20 characters are",
        ),
        (["--pretraining", "9"], "images_evaluation is not in"),
        (["--pretraining", "0"], "Must be >= 1"),
        (["--meta-learning-rates", "0"], "Must be > 0"),
        (["--validation", "--pretraining", "1"], "can't be held out of 1"),
        (["--pretraining", "2", "--engine", "together", "--n-workers", "2"], "--n-workers is of --engine workers"),
        (["--pretraining", "2", "--engine", "in-process", "--n-workers", "2", "--dry-run"], "not of in-process"),
        (
            ["--pretraining", "2", "--engine", "together", "--task-timeout", "9"],
            "--task-timeout is of --engine workers",
        ),
        (["--task-timeout", "0"], "Must be > 0"),
        (["--learners"], "nothing to run: give at least one of --learners"),
        (["--preset", "huge"], "Choose from"),
        (["--data-dir", "/nowhere"], "no Omniglot in /nowhere"),
    ],
)
def test_bad_input_is_one_line(drawn: Path, tmp_path: Path, arguments: list[str], message: str, capsys: Any) -> None:
    root = tmp_path / "runs"
    given = [] if "--data-dir" in arguments else ["--data-dir", str(drawn)]
    assert main(["train", *given, "--root", str(root), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1 and not root.exists()


def test_a_folder_of_another_run_and_a_table_of_nothing(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    given = ["--data-dir", str(drawn), "--root", str(tmp_path), *TINY, "--learners", "reptile"]
    assert main(["train", *given]) == 0
    changed = [*given[: given.index("--updates")], "--updates", "4", *given[given.index("--updates") + 2 :]]
    assert main(["train", *changed]) == 2
    assert "is of another run: its updates is 3, not 4" in capsys.readouterr().err
    # Another data set holds other alphabets out.
    folder = tmp_path / "reptile-2-seed0"
    file, evaluated = folder / "run.json", ["evaluate", str(folder), "--data-dir", str(drawn), "--engine", "in-process"]
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"held_out": ["Other"]}))
    assert main(["train", *given]) == 2 == main(evaluated)
    assert capsys.readouterr().err.count("is of another run: its held_out is ['Other'], not [") == 2
    file.write_text(json.dumps({k: v for k, v in kept.items() if k not in ("pretraining", "held_out")}))
    assert main(["train", *given]) == 2
    assert "is of another run: its pretraining is None, not [" in capsys.readouterr().err
    for damage, message in (
        ('{"learner": "le', "Unterminated"),
        ('{"learner": "leap", "limit": 5}', "has learner, n_pre"),
    ):
        file.write_text(damage)
        for command in (evaluated, ["table", str(tmp_path)], ["table", str(file)]):
            capsys.readouterr()
            assert main(command) == 2
            error = capsys.readouterr().err
            assert str(file) in error and message in error and error.count("\n") == 1
    capsys.readouterr()
    assert main(["table", str(tmp_path / "nowhere")]) == 2
    assert "no evaluated runs" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "nowhere"), "--data-dir", str(drawn)]) == 2
    assert "is no run of this experiment" in capsys.readouterr().err


def test_one_run_that_fails_does_not_end_the_others(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def train(run: Run, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if run.learner == "leap":
            raise RuntimeError("it diverged")
        yield from ()

    monkeypatch.setattr("supervised.omniglot.experiment.train", train)
    given = ["--data-dir", str(drawn), "--root", str(tmp_path), *TINY, "--learners", "leap", "none"]
    assert main(["train", *given]) == 1
    out, err = capsys.readouterr()
    assert out.index("failed: it diverged") < out.index("none-2-seed0")
    assert "1 of 2 runs failed. leap-2-seed0: it diverged" in err


def test_a_download_is_of_what_is_not_there(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr("torchvision.datasets.Omniglot", lambda root, **kwargs: fetched.append((root, kwargs)))
    given = ["--data-dir", str(drawn), "--pretraining", "2", "--dry-run", "--download"]
    assert main(["train", *given]) == 0 == main(["ablation", *given])
    assert fetched == 2 * [(str(drawn), {"background": False, "download": True})]


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ModuleNotFoundError(name="scipy"), 2, "scipy is not installed: pip install "),
        (KeyboardInterrupt(), 130, "Interrupted; the same command goes on"),
        (RuntimeError("why"), 1, "supervised.omniglot: why"),
    ],
)
def test_a_command_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, raised: BaseException, code: int, message: str
) -> None:
    def collect(root: Path) -> None:
        raise raised

    monkeypatch.setattr("supervised.omniglot.table.collect", collect)
    assert main(["table", str(tmp_path)]) == code
    assert message in capsys.readouterr().err
