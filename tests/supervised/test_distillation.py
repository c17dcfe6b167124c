"""Distillation: the penalty against its formula, a teacher that stays as it is, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leap_rl.core import Initialization
from supervised.distillation.experiment import Distilled
from supervised.multi_cv.__main__ import main
from supervised.networks import ConvNet


def test_the_penalty_is_the_divergence_at_a_temperature_and_the_teacher_stays() -> None:
    torch.manual_seed(0)
    student, teacher = (ConvNet(4, image_size=16, n_filters=n).double() for n in (2, 6))
    before = Initialization.of(teacher)
    model = Distilled(student, teacher, weight=0.7, temperature=3.0).double().train()
    assert len(list(model.parameters())) == len(list(student.parameters()))
    x = torch.rand(5, 1, 16, 16, dtype=torch.float64)
    logits = model(x)
    p, q = (np.exp(z / 3 - np.logaddexp.reduce(z / 3, axis=1, keepdims=True))
            for z in (teacher(x).detach().numpy(), logits.detach().numpy()))  # fmt: skip
    expected = 0.7 * 9 * (p * np.log(p / q)).sum() / 5
    penalty = model.penalty(torch.zeros(5))
    assert penalty.item() == pytest.approx(expected)
    penalty.backward()
    assert all(p.grad is None for p in teacher.parameters()) and student.head.weight.grad is not None
    after = Initialization.of(teacher)
    for tensors, others in ((before.parameters, after.parameters), (before.buffers, after.buffers)):
        assert all(torch.equal(t, others[n]) for n, t in tensors.items())


def test_students_alone_and_with_a_teacher_start_from_the_same_weights_and_are_compared(
    tmp_path: Path, capsys: Any
) -> None:
    rng = np.random.default_rng(0)
    for half, n in (("train", 10), ("test", 3)):
        for of_class in range(10):
            folder = tmp_path / "data" / "mnist" / half / str(of_class)
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (28, 28), dtype=np.uint8)).save(folder / f"{i}.png")
    given = ["distill", "--data-dir", str(tmp_path / "data"), "--data-sets", "mnist", "--passes", "1"]
    given += ["--n-filters", "2", "--root", str(tmp_path / "runs")]
    assert main([*given, "--dry-run"]) == 0 and "2 runs, 192 images" in capsys.readouterr().out
    assert main(given) == 0
    found = [json.loads(f.read_text()) for f in sorted((tmp_path / "runs").glob("*/found.json"))]
    assert [f["cells"]["student"] for f in found] == ["alone", "distilled"]
    states = [f.read_text() for f in sorted((tmp_path / "runs").glob("*/0000/held-out/*/state.json"))]
    starts = {json.loads(text)["state"]["of"]["start"] for text in states}
    assert len(states) == 2 and len(starts) == 1
    capsys.readouterr()
    assert main(["distill", "table", str(tmp_path / "runs")]) == 0
    difference = found[1]["scores"]["error"] - found[0]["scores"]["error"]
    assert f"| {difference:+.1f} |" in capsys.readouterr().out
    assert main([*given[:3], "--data-sets", "mist"]) == 2 and "mist" in capsys.readouterr().err
