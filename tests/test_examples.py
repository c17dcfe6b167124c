"""The scripts of ``examples/`` run as they are, with smaller budgets, and leave what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
CUTS: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "first_meta_training": ((("VISIT, META_STEPS = 6_144, 25", "VISIT, META_STEPS = 256, 1"),), "cartpoles"),
    "own_environments": ((("VISIT, META_STEPS = 20_000, 20", "VISIT, META_STEPS = 1_024, 1"),), "unseen-pendulum.zip"),
    "new_game": ((("TIMESTEPS = 200_000", "TIMESTEPS = 256"),), "breakout.zip"),
    "finetuning": ((("TIMESTEPS = 100_000", "TIMESTEPS = 400"),), "lp-ft.zip"),
    "plain_pytorch": ((("META_STEPS = 300", "META_STEPS = 51"),), "sinusoids"),
}
"""Of each script: what of it is replaced, and what it leaves."""
FAST = {"plain_pytorch"}


def run(source: str, folder: Path) -> str:
    (folder / "script.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cut(source: str, budgets: tuple[tuple[str, str], ...]) -> str:
    for budget, tiny in budgets:
        assert source.count(budget) == 1, budget
        source = source.replace(budget, tiny)
    return source


def test_no_example_is_left_out() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == CUTS.keys()


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CUTS])
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    budgets, left = CUTS[name]
    said = run(cut((EXAMPLES / f"{name}.py").read_text(), budgets), tmp_path)
    assert (tmp_path / left).exists()
    if name == "plain_pytorch":  # which learns something within its cut budget
        first, *_, last = map(float, re.findall(r"squared error (\S+)", said))
        assert last < first / 2
    if name == "first_meta_training":
        assert re.search(r"from random weights: .*\n.*from the initialization: ", said)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = json.loads((EXAMPLES / "sinusoids.ipynb").read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = cut(code, (("META_STEPS = 300", "META_STEPS = 100"),))
    errors = json.loads(
        run(f"{code}\nimport json\nprint(json.dumps([smooth[0], smooth[-1], *errors.values()]))", tmp_path)
    )
    first, last, from_random, from_start = errors
    assert last < first and from_start < from_random
