"""Every command of benchmarks/ that has a quick way runs it to its end, and its figures are numbers."""

import json
import math
import subprocess
import sys
from pathlib import Path

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
    assert {"throughput", "observation", "memory", "gentle_starts"} <= set(quick_ones())


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_ones())
def test_a_quick_benchmark_ends(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--json", "rows.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = numbers(json.loads((tmp_path / "rows.json").read_text()))
    assert found and all(map(math.isfinite, found))
