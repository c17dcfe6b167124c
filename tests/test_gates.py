"""It learns: the small version of benchmarks/sinusoid.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def load() -> Any:
    """The benchmark is a script, loaded by its file, since benchmarks are no package."""
    spec = importlib.util.spec_from_file_location("sinusoid", Path(__file__).parents[1] / "benchmarks" / "sinusoid.py")
    assert spec is not None and spec.loader is not None
    sinusoid = importlib.util.module_from_spec(spec)
    sys.modules["sinusoid"] = sinusoid  # dataclasses look their module up
    spec.loader.exec_module(sinusoid)
    return sinusoid


def test_reptile_and_leap_learn_to_learn_sinusoids() -> None:
    """At most a fifth of the error of no pretraining at its best rate, and Leap less than Reptile."""
    errors = load().gate(seeds=1, meta_steps=150, rates={"Reptile": [1.0], "Leap (length)": [0.02]})
    none, reptile, leap = (errors[name].mean() for name in ("none", "Reptile", "Leap (length)"))
    assert reptile <= none / 5
    assert leap <= none / 5
    assert leap < reptile


@pytest.mark.slow
def test_fomaml_learns_to_learn_sinusoids() -> None:
    errors = load().gate(seeds=1, meta_steps=500, rates={"FOMAML": [0.003]})
    assert errors["FOMAML"].mean() <= errors["none"].mean() / 5


@pytest.mark.slow
def test_maml_learns_to_learn_sinusoids() -> None:
    errors = load().gate(seeds=1, meta_steps=300, rates={"MAML": [0.01]})
    assert errors["MAML"].mean() <= errors["none"].mean() / 5
