"""What the runs of the Omniglot experiment showed, as a table and a figure."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from leap_rl.core.checkpoint import load_result


def collect(root: Path) -> dict[tuple[str, int], dict[int, dict[str, tuple[float, float]]]]:
    """
    :param root: folder of the runs
    :return: by learner (with its meta rate, where it was given) and number of pretraining alphabets, by seed, by
        held-out alphabet: test error and area under the training error curve, both in per cent
    """
    found: dict[tuple[str, int], dict[int, dict[str, tuple[float, float]]]] = defaultdict(dict)
    for file in sorted(root.glob("*/run.json")):
        run = json.loads(file.read_text())
        results = {}
        for folder in sorted((file.parent / "held-out").glob("[!.]*")):
            result = load_result(folder)
            assert result is not None
            results[result.name] = (100 * result.scores["test_error"], 100 * result.curve.area())
        if results:
            rate = run["meta_learning_rate"]
            learner = run["learner"] if rate is None else f"{run['learner']} (β {rate:g})"
            found[learner, run["n_pretraining"]][run["seed"]] = results
    return dict(found)


def table(root: Path) -> str:
    """
    Markdown: means over seeds and held-out alphabets, with 95 % bootstrap intervals over both, and what is incomplete.

    :raises ValueError: if there is no run
    """
    found = collect(root)
    if not found:
        raise ValueError(f"no finished runs in {root}: python -m supervised.omniglot train makes some")
    rows = ["| learner | pretraining alphabets | seeds | test error, % | area, % |", "|---|---|---|---|---|"]
    missing = []
    seeds = sorted({seed for runs in found.values() for seed in runs})
    for (learner, n), runs in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        cells = []
        for which in (0, 1):
            values = [np.array([r[which] for r in results.values()]) for results in runs.values()]
            low, high = _interval(values)
            cells.append(f"{np.mean([v.mean() for v in values]):.1f} ({low:.1f} to {high:.1f})")
        rows.append(f"| {learner} | {n} | {len(runs)} | {cells[0]} | {cells[1]} |")
        missing += [f"{learner}, {n} alphabets, seed {seed}" for seed in seeds if seed not in runs]
        most = max(len(results) for results in runs.values())
        missing += [
            f"{learner}, {n} alphabets, seed {seed}: {most - len(results)} held-out alphabets"
            for seed, results in runs.items()
            if len(results) < most
        ]
    text = "\n".join(rows)
    return f"{text}\n\nMissing: {'; '.join(missing)}" if missing else text


def _interval(values: list[np.ndarray], reps: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean: seeds are drawn first, then alphabets within them."""
    rng = np.random.default_rng(0)
    means = []
    for _ in range(reps):
        drawn = rng.integers(len(values), size=len(values))
        means.append(np.mean([rng.choice(values[i], len(values[i])).mean() for i in drawn]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def plot(root: Path, file: Path) -> None:
    """
    The paper's figure 2, right: area against the number of pretraining alphabets, a line per learner.

    :param root: folder of the runs
    :param file: PNG to write
    """
    from matplotlib.figure import Figure

    found = collect(root)
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for color, learner in enumerate(sorted({name for name, _ in found})):
        counts = sorted(n for name, n in found if name == learner)
        means, below, above = [], [], []
        for n in counts:
            values = [np.array([area for _, area in r.values()]) for r in found[learner, n].values()]
            mean = float(np.mean([v.mean() for v in values]))
            low, high = _interval(values)
            means.append(mean)
            below.append(mean - low)
            above.append(high - mean)
        ax.errorbar(counts, means, [below, above], color=f"C{color}", marker="o", capsize=3, label=learner)
    ax.set_xlabel("pretraining alphabets")
    ax.set_ylabel("area under the training error curve, %")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    figure.savefig(file, dpi=150)
