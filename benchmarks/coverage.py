"""
How often the intervals of a comparison hold the truth, and how often a comparison finds an effect that is there.

    python benchmarks/coverage.py --json coverage.json    # ten minutes
    python benchmarks/coverage.py --quick

Areas are normal draws. Of one game: the interval of an interquartile mean, of the probability that a run is better
than one from random weights, for some true probabilities, and of a difference of areas. Of the games of --evidence
together, with the means and the standard deviations over seeds that its random starts and random policy have there: the
ratio of areas above a random policy's, where the truth is 1 and where it is 1.2, and how often its interval then lies
above 1. The two starts differ in their means alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from report import at_least_one, keep, parser
from scipy.stats import norm
from tqdm import tqdm

from leap_rl.core import LearningCurve
from leap_rl.evaluation import Comparison
from leap_rl.evaluation.statistics import Estimate, Statistics, estimate, interquartile_mean, probability_of_improvement

SEEDS = (3, 5, 10)
PROBABILITIES = (0.5, 0.76, 0.92)
RATIOS = (1.0, 1.2)
LEADS = (0.0, 3.0, 24.0)
EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence" / "held-out" / "results.json"


def interquartile_means(rng: np.random.Generator, n: int) -> Estimate:
    return estimate(interquartile_mean, rng.normal(0, 1, (n, 1)))


def probabilities(truth: float) -> Callable[[np.random.Generator, int], Estimate]:
    lead = np.sqrt(2) * norm.ppf(truth)

    def drawn(rng: np.random.Generator, n: int) -> Estimate:
        return estimate(probability_of_improvement, rng.normal(lead, 1, (n, 1)), rng.normal(0, 1, (n, 1)))

    return drawn


def ratios(truth: float, evidence: Path) -> Callable[[np.random.Generator, int], Estimate]:
    known = json.loads(evidence.read_text())
    floors = {game: np.array(areas) for game, areas in known["random_policy"].items()}
    areas = {game: np.array([run["area"] for run in known["results"][game]["random"]]) for game in floors}

    def drawn(rng: np.random.Generator, n: int) -> Estimate:
        def curves(game: str, factor: float) -> list[LearningCurve]:
            mean, floor = areas[game].mean(), floors[game].mean()
            runs = rng.normal(floor + factor * (mean - floor), areas[game].std(ddof=1), n)
            return [LearningCurve(np.array([100]), np.array([area]), 100) for area in runs]

        starts = {"random": 1.0, "start": truth}
        comparison = Comparison({s: {g: curves(g, f) for g in floors} for s, f in starts.items()}, range(n))
        floor = {game: rng.normal(of.mean(), of.std(ddof=1), n) for game, of in floors.items()}
        return Statistics(comparison, floor).ratio_of_areas("start", *floors)

    return drawn


def leads(truth: float) -> Callable[[np.random.Generator, int], Estimate]:
    """Of the difference alone: what it is counted in, the spread of the random starts, is as it was drawn."""

    def drawn(rng: np.random.Generator, n: int) -> Estimate:
        areas = {"random": rng.normal(0, 1, n), "start": rng.normal(truth, 1, n)}
        curves = {
            s: {"game": [LearningCurve(np.array([100]), np.array([a]), 100) for a in of]} for s, of in areas.items()
        }
        found = Statistics(Comparison(curves, range(n)), {"game": np.zeros(n)}).lead("start", "game")
        unit = float(areas["random"].std(ddof=1))
        return Estimate(unit * found.value, unit * found.low, unit * found.high)

    return drawn


def main() -> None:
    cli = parser(__doc__)
    cli.add_argument("--evidence", type=Path, default=EVIDENCE, help="results.json of a comparison with random starts")
    cli.add_argument("--trials", type=at_least_one, default=400)
    args = cli.parse_args()
    if args.quick:
        args.trials = 10
    if not args.evidence.is_file():
        cli.error(f"{args.evidence} is not there: give results.json of a leap-rl compare")
    cases: dict[str, tuple[float, Callable[[np.random.Generator, int], Estimate]]]
    cases = {"interquartile mean of one game": (0.0, interquartile_means)}
    cases |= {f"probability, one game, truth {p}": (p, probabilities(p)) for p in PROBABILITIES}
    cases |= {f"lead, one game, truth {lead}": (lead, leads(lead)) for lead in LEADS}
    cases |= {f"ratio of all games, truth {r}": (r, ratios(r, args.evidence)) for r in RATIOS}
    rows = []
    print("| | seeds | holds the truth | lies above 1 |\n|---|---|---|---|")
    for what, (truth, drawn) in cases.items():
        for n in SEEDS:
            rng = np.random.default_rng([n, round(100 * truth)])
            found = [
                drawn(rng, n) for _ in tqdm(range(args.trials), desc=f"{what}, {n} seeds", leave=False, disable=None)
            ]
            holds = float(np.mean([e.low <= truth <= e.high for e in found]))
            above = float(np.mean([e.low > 1 for e in found])) if what.startswith("ratio") else None
            rows.append({"what": what, "seeds": n, "trials": args.trials, "holds": holds, "above 1": above})
            print(f"| {what} | {n} | {holds:.2f} | {'' if above is None else f'{above:.2f}'} |", flush=True)
    keep(rows, args.json)


if __name__ == "__main__":
    main()
