"""It learns: the small version of benchmarks/sinusoid.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# A benchmark is a script; loaded by its file, since benchmarks are no package.
spec = importlib.util.spec_from_file_location("sinusoid", Path(__file__).parents[1] / "benchmarks" / "sinusoid.py")
assert spec is not None and spec.loader is not None
sinusoid = importlib.util.module_from_spec(spec)


def test_learners_learn_to_learn_sinusoids() -> None:
    """At most a fifth of the error of no pretraining at its best rate, and Leap less than Reptile."""
    import sys

    sys.modules["sinusoid"] = sinusoid  # dataclasses look their module up
    spec.loader.exec_module(sinusoid)
    rates = {"Reptile": [1.0], "Leap (length)": [0.02], "FOMAML": [0.01], "MAML": [0.01]}
    errors = sinusoid.gate(seeds=1, meta_steps=200, rates=rates)
    none, reptile, leap = (errors[name].mean() for name in ("none", "Reptile", "Leap (length)"))
    assert reptile <= none / 5
    assert leap <= none / 5
    assert leap < reptile
    assert errors["FOMAML"].mean() <= none / 5
    assert errors["MAML"].mean() <= none / 5
