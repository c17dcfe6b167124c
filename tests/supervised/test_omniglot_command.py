"""``python -m supervised.omniglot`` on a tiny data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervised.omniglot.__main__ import main
from supervised.omniglot.experiment import LEARNERS as KNOWN
from supervised.omniglot.experiment import Run, images

TINY = ["--pretraining", "2", "--meta-steps", "1", "--meta-batch-size", "2", "--updates", "3", "--n-workers", "1"]


def test_learners_train_are_evaluated_and_in_the_table(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    root = ["--root", str(tmp_path)]
    learners = ["none", "leap", "maml"]
    assert main(["train", "--data-dir", str(drawn), *root, *TINY, "--learners", *learners]) == 0
    assert capsys.readouterr().out.count("10 held-out alphabets: test error") == len(learners)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/held-out/*/state.json")}
    assert len(kept) == 10 * len(learners)
    assert main(["train", "--data-dir", str(drawn), *root, *TINY, "--seeds", "0", "1", "--learners", "none"]) == 0
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())  # not run again
    capsys.readouterr()
    figure = tmp_path / "figure.png"
    assert main(["table", *root, "--figure", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "| none | 2 | 2 |" in shown and "| leap | 2 | 1 |" in shown
    assert "Missing: " in shown and "leap, 2 alphabets, seed 1" in shown
    assert figure.read_bytes()[:4] == b"\x89PNG"
    folder = tmp_path / "leap-2-seed0"
    assert json.loads((folder / "run.json").read_text())["learner"] == "leap"
    assert (folder / "initialization" / "model.safetensors").is_file()
    assert list((folder / "tensorboard").rglob("events*"))


def test_budgets_are_equal_in_images(drawn: Path, capsys: Any) -> None:
    """MAML makes 6 minibatches where others make 100, so it has more meta steps."""
    runs = [Run(str(drawn), learner, 2, 0, 60, 5) for learner in KNOWN if learner != "none"]
    assert {images(run) for run in runs} == {60 * 5 * 100 * 20}
    maml = next(run for run in runs if run.learner == "maml")
    assert maml.meta_steps_of_learner == 1000
    assert main(["train", "--data-dir", str(drawn), "--pretraining", "3", "--preset", "paper", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "leap-3-seed0: 1000 meta steps × 20, 40,000,000 images" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learners", "leep"], "no learner 'leep': there are leap"),
        (["--pretraining", "9"], "9 pretraining alphabets: there are 1 to 3"),
        (["--pretraining", "0"], "Must be >= 1"),
        (["--meta-learning-rate", "0"], "Must be > 0"),
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
    assert "is of another run" in capsys.readouterr().err
    assert main(["table", "--root", str(tmp_path / "nowhere")]) == 2
    assert "no finished runs" in capsys.readouterr().err
