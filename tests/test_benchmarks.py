"""Every command of benchmarks/ that has a quick way runs it to its end, and its figures are numbers."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WITH_RUNS = {"weight_norms"}
"""They measure runs that are there already."""


def quick_ones() -> list[str]:
    scripts = {file.stem: file.read_text() for file in BENCHMARKS.glob("*.py")}
    return sorted(name for name, text in scripts.items() if "parser(__doc__)" in text and name not in WITH_RUNS)


def numbers(what: object) -> list[float]:
    if isinstance(what, dict | list):
        return [n for value in (what.values() if isinstance(what, dict) else what) for n in numbers(value)]
    return [what] if isinstance(what, int | float) else []


def test_there_are_quick_benchmarks() -> None:
    assert {"throughput", "observation", "memory", "peers", "scaling"} <= set(quick_ones())


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_ones())
def test_a_quick_benchmark_ends(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--json", "rows.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = numbers(json.loads((tmp_path / "rows.json").read_text()))
    assert found and all(map(math.isfinite, found))


@pytest.mark.slow
def test_the_gate_of_a_family_ends_goes_on_and_runs_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    driver = importlib.import_module("families")
    read = driver.preset

    def small(family: str) -> tuple[object, object]:
        ours = read(family)
        agent = dataclasses.replace(ours[0].agent, n_envs=2, n_epochs=1)
        ours = [dataclasses.replace(settings, timesteps=256, agent=agent) for settings in ours]
        return dataclasses.replace(ours[0], meta_steps=2, meta_batch_size=1, eval_freq=1), ours[1]

    monkeypatch.setattr(driver, "preset", small)
    arguments = ["families", "--families", "cartpole", "--seeds", "1", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--learners", "reptile"])
    driver.main()
    results = tmp_path / "gate" / "cartpole" / "test-best" / "results"
    kept = {file: file.stat().st_mtime_ns for file in results.rglob("*") if file.is_file()}
    assert len(list(results.iterdir())) == 3 * 10 * 2, "a random policy, random weights, reptile"
    monkeypatch.setattr(sys, "argv", [*arguments, "--learners", "reptile", "finetuning"])
    driver.main()
    assert all(file.stat().st_mtime_ns == before for file, before in kept.items())
    assert len(list(results.iterdir())) == 4 * 10 * 2
    areas = json.loads((tmp_path / "gate" / "cartpole" / "test-best.json").read_text())
    assert {name: np.shape(of["areas"]) for name, of in areas.items()} == dict.fromkeys(
        ("a random policy", "random", "reptile", "finetuning"), (1, 2, 10)
    )
    assert "| finetuning |" in (tmp_path / "gate" / "test-best.md").read_text()


def test_the_interval_of_a_gate_holds_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing varies: no interval. Meta-trainings vary alone, or variants alone: as of so many draws of their means."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    driver = importlib.import_module("families")
    monkeypatch.setattr(driver, "RESAMPLES", 2_000)
    estimate = driver.estimate
    flat, floor = np.full((1, 2, 10), 2.0), np.ones((1, 2, 10))
    assert estimate(np.full((3, 2, 10), 4.0), flat, floor) == (3, 3, 3)
    by_training = np.full((3, 2, 10), 1.0) + np.array([1.0, 2.0, 6.0])[:, None, None]
    assert estimate(by_training, flat, floor) == (pytest.approx(3), 1, 6), "27 draws of three: the ends are the range"
    rng = np.random.default_rng(1)
    gains = rng.normal(3, 1, 10)
    value, low, high = estimate(np.broadcast_to(1 + gains, (3, 2, 10)), flat, floor)
    error = gains.std() / np.sqrt(10)
    assert value == pytest.approx(gains.mean())
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)
