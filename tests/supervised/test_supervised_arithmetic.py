"""Fast arithmetic: bfloat16 for the forward pass, float32 for all that is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from leap_rl.core import Engine, InProcess, Job, Leap
from supervised.command_line import run_command
from supervised.joint import JointTrainer
from supervised.multihead import MultiHeadTrainer
from supervised.omniglot.__main__ import app
from supervised.omniglot.experiment import Run
from supervised.omniglot.table import collect
from supervised.sharing import HardSharing
from supervised.together import Together
from tests.supervised.noise import NoiseFamily


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this CPU does fast, it can."""
    monkeypatch.setattr("leap_rl.core.arithmetic.multiplies_bfloat16", lambda device: True)


@pytest.mark.parametrize("engine", [InProcess(), Together()], ids=lambda engine: type(engine).__name__)
def test_it_learns_what_exact_arithmetic_learns(engine: Engine) -> None:
    family = NoiseFamily(2)
    theta = family.draw_initialization(None, 0)
    results = {}
    for arithmetic in ("exact", "fast"):
        tasks = [dataclasses.replace(task, arithmetic=arithmetic) for task in family.tasks]
        jobs = [Job(task, theta, Leap(metric="energy"), 0, "cpu", return_final=True) for task in tasks]
        results[arithmetic] = [r for _, r in sorted(engine.run(jobs, lambda *_: None))]
    for exact, fast in zip(results["exact"], results["fast"], strict=True):
        assert fast.status == "ok" and fast.meta_gradient and exact.meta_gradient and fast.final and exact.final
        assert all(t.dtype == torch.float32 for t in (*fast.meta_gradient.values(), *fast.final.parameters.values()))
        ways = [[t - theta.parameters[n] for n, t in r.final.parameters.items()] for r in (exact, fast) if r.final]
        assert any(not torch.equal(a, b) for a, b in zip(*ways, strict=True))
        assert torch.cosine_similarity(*(torch.cat([t.flatten() for t in way]) for way in ways), dim=0) > 0.9
        both = [torch.cat([g.flatten() for g in r.meta_gradient.values()]) for r in (exact, fast)]
        assert torch.cosine_similarity(*both, dim=0) > 0.9


def test_multihead_finetuning_computes_so_too() -> None:
    weights = []
    for arithmetic in ("exact", "fast"):
        tasks = [dataclasses.replace(task, arithmetic=arithmetic) for task in NoiseFamily(2).tasks]
        trained = MultiHeadTrainer(tasks, 0.01, seed=0, device="cpu").learn(4).initialization.parameters
        weights.append(torch.cat([t.flatten() for t in trained.values()]))
    assert not torch.equal(*weights)
    torch.testing.assert_close(weights[1], weights[0], rtol=0.05, atol=0.01)


def test_joint_training_computes_so_too() -> None:
    weights = []
    for arithmetic in ("exact", "fast"):
        tasks = [dataclasses.replace(task, arithmetic=arithmetic) for task in NoiseFamily(2).tasks]
        torch.manual_seed(0)
        network = HardSharing([4, 4], channels=1, image_size=16, n_blocks=4, n_filters=8)
        trained = JointTrainer(network, tasks, 0.01, 1, 4, device="cpu").learn().initialization.parameters
        weights.append(torch.cat([t.flatten() for t in trained.values()]))
    assert not torch.equal(*weights)
    torch.testing.assert_close(weights[1], weights[0], rtol=0.05, atol=0.01)


def test_a_fast_run_has_a_folder_and_a_line_of_its_own(drawn: Path, tmp_path: Path) -> None:
    given = ["train", "--data-dir", str(drawn), "--root", str(tmp_path), "--pretraining", "2", "--meta-steps", "1"]
    given += ["--meta-batch-size", "2", "--updates", "2", "--engine", "in-process", "--learners", "reptile"]
    for arithmetic in ("exact", "fast"):
        assert run_command(app, [*given, "--arithmetic", arithmetic]) == 0
    found = {run.label: run for run in collect(tmp_path)}
    assert found.keys() == {"reptile", "reptile, fast"}
    assert found["reptile"].scores != found["reptile, fast"].scores
    assert Run.read(tmp_path / "reptile-fast-2-seed0", str(drawn)).arithmetic == "fast"
    assert np.isfinite([error for s in found["reptile, fast"].scores[1].values() for error in s]).all()
